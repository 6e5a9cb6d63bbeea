"""The calls of S3 that we use, in our own words and with our own errors. Thread-safe; every call blocks."""

from __future__ import annotations

import datetime
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any, TypeVar

from agent.protocol.errors import WharfError
from registry.storage.s3.address import Address
from registry.storage.store import StoreAway, StoreFull, StoreMisconfigured, UploadLost

DELETE_BATCH = 1000  # keys that one DeleteObjects takes
COPY_WHOLE = 256 << 20  # bytes; larger objects are copied in parts, several at once
COPY_PART = 128 << 20
THREADS = 16
PRESIGNED_SECONDS = 20 * 60
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientCapacity", "EntityTooLarge"}
_DENIED = {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AllAccessDisabled"}

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")


class UploadGone(Exception):
    """The multipart upload was completed, aborted or never there."""


@functools.cache
def session() -> Any:
    """Ours alone, with the credentials that it found: clients are safe to share between threads, making one is not."""
    import boto3  # only who keeps blobs on S3 pays for it

    return boto3.session.Session()


_one_at_a_time = threading.Lock()


def _all(calls: list[Future[R]]) -> list[R]:
    """What they return; raises the first error after all have ended."""
    errors = [error for call in calls if (error := call.exception()) is not None]
    if errors:
        raise errors[0]
    return [call.result() for call in calls]


def code_of(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


class Bucket:
    """Keys are relative to the address's prefix."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="registry-s3")
        # of their own: an object that is copied in parts is waited for in a thread of the other pool
        self._parts = ThreadPoolExecutor(THREADS, thread_name_prefix="registry-s3-parts")

    @cached_property
    def client(self) -> Any:
        from botocore.config import Config

        own = bool(self.address.endpoint)
        config = Config(
            signature_version="s3v4",
            retries={"mode": "standard", "total_max_attempts": 4},
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=2 * THREADS + 16,
            # Servers that are not Amazon's have no bucket host names, and older ones refuse the checksums of newer clients.
            s3={"addressing_style": "path" if own else "auto"},
            **({"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"} if own else {}),
        )
        region = self.address.region or ("us-east-1" if own else None)
        with self.explained(), _one_at_a_time:
            return session().client("s3", endpoint_url=self.address.endpoint or None, region_name=region, config=config)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._parts.shutdown(cancel_futures=True)
        if "client" in self.__dict__:
            self.client.close()

    def key(self, name: str) -> dict[str, str]:
        return {"Bucket": self.address.bucket, "Key": self.address.prefix + name}

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What S3 and the way to it answer, as errors that say what to do."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        try:
            yield
        except ClientError as error:
            raise self._explain(error) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreMisconfigured(
                "the registry has no credentials for its S3 blob store; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a"
                " profile, or give the host a role"
            ) from error
        except BotoCoreError as error:
            log.warning("S3 is not reachable: %s", error)
            raise StoreAway("the registry's S3 blob store does not answer; try again in a moment") from error

    def _explain(self, error: Any) -> WharfError:
        code, bucket = code_of(error), self.address.bucket
        log.warning("S3 refused: %s", error)
        if code == "NoSuchBucket":
            return StoreMisconfigured(f"there is no bucket {bucket}; create it, or correct WHARF_BLOB_STORE")
        if code in _DENIED:
            return StoreMisconfigured(
                f"S3 refused the registry's credentials for the bucket {bucket} ({code}); they need GetObject, PutObject,"
                " DeleteObject, ListBucket, AbortMultipartUpload, ListMultipartUploadParts and ListBucketMultipartUploads"
            )
        if code in _FULL:
            return StoreFull("the registry's S3 blob store is full; ask an administrator to run garbage collection or add space")
        return StoreAway(f"the registry's S3 blob store failed ({code or 'no code'}); try again in a moment")

    # --- objects ----------------------------------------------------------------------------------------------------------------

    def size(self, name: str) -> int | None:
        return self._unless_absent(lambda: int(self.client.head_object(**self.key(name))["ContentLength"]))

    def get(self, name: str, first: int, last: int | None = None) -> Any | None:
        """A stream of the bytes first..last (inclusive; None: to the end), None when there is no such object."""
        wanted = f"bytes={first}-{'' if last is None else last}"
        return self._unless_absent(lambda: self.client.get_object(**self.key(name), Range=wanted)["Body"])

    def _unless_absent(self, call: Callable[[], R]) -> R | None:
        from botocore.exceptions import ClientError

        with self.explained():
            try:
                return call()
            except ClientError as error:
                if code_of(error) in {"404", "NoSuchKey", "NotFound"}:
                    return None
                raise

    def put(self, name: str, body: bytes | IO[bytes]) -> None:
        with self.explained():
            self.client.put_object(**self.key(name), Body=body, ContentType="application/octet-stream")

    def copy(self, source: str, target: str) -> bool:
        """Within the bucket, visible when whole; False when there is no source."""
        size = self.size(source)
        if size is None:
            return False
        if size > COPY_WHOLE:
            self._copy_in_parts(source, target, size)
            return True
        copied = self._unless_absent(lambda: self.client.copy_object(**self.key(target), CopySource=self.key(source)))
        return copied is not None

    def _copy_in_parts(self, source: str, target: str, size: int) -> None:
        upload = self.begin(target)
        try:
            ranges = [(start, min(start + COPY_PART, size)) for start in range(0, size, COPY_PART)]
            parts = [self._parts.submit(self.copy_part, source, target, upload, *item) for item in enumerate(ranges, 1)]
            self.complete(target, upload, _all(parts))
        except BaseException:
            self.abort(target, upload)
            raise

    def delete(self, names: Iterable[str]) -> None:
        """DeleteObjects, 1,000 keys a call; absent ones are fine."""
        keys = [{"Key": self.address.prefix + name} for name in names]
        for start in range(0, len(keys), DELETE_BATCH):
            with self.explained():
                answer = self.client.delete_objects(
                    Bucket=self.address.bucket, Delete={"Objects": keys[start : start + DELETE_BATCH], "Quiet": True}
                )
            if failed := answer.get("Errors"):
                raise StoreAway(f"S3 did not delete {len(failed)} objects ({failed[0].get('Code')}); the next run tries again")

    def objects(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        """(name, bytes, seconds since it was written), in the order of names."""
        now = datetime.datetime.now(datetime.UTC)
        for row in self._pages("list_objects_v2", "Contents", prefix):
            yield self._relative(row["Key"]), int(row["Size"]), (now - row["LastModified"]).total_seconds()

    def _pages(self, call: str, field: str, prefix: str) -> Iterator[dict[str, Any]]:
        pages = self.client.get_paginator(call).paginate(Bucket=self.address.bucket, Prefix=self.address.prefix + prefix)
        with self.explained():
            for page in pages:
                yield from page.get(field) or ()

    def _relative(self, key: str) -> str:
        return key[len(self.address.prefix) :]

    def presigned(self, name: str) -> str:
        with self.explained():
            return str(self.client.generate_presigned_url("get_object", Params=self.key(name), ExpiresIn=PRESIGNED_SECONDS))

    def each(self, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """`call` for all items, several at once; raises the first error after all have ended."""
        return _all([self._pool.submit(call, item) for item in items])

    # --- uploads in parts -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _upload(self, name: str, upload: str) -> Iterator[None]:
        from botocore.exceptions import ClientError

        try:
            with self.explained():
                try:
                    yield
                except ClientError as error:
                    if code_of(error) in {"NoSuchUpload", "404"}:
                        raise UploadGone from error
                    if code_of(error) in {"InvalidPart", "InvalidPartOrder"}:
                        raise UploadLost("another request changed a part of this upload; start it again") from error
                    raise
        except StoreAway as error:  # some servers fail where others say NoSuchUpload
            if all(begun != upload for _, begun, _ in self.begun(name)):
                raise UploadGone from error
            raise

    def begin(self, name: str) -> str:
        with self.explained():
            made = self.client.create_multipart_upload(**self.key(name), ContentType="application/octet-stream")
        return str(made["UploadId"])

    def send_part(self, name: str, upload: str, number: int, body: IO[bytes]) -> Future[str]:
        """`part` in a thread of its own; the body is its alone until it has ended."""
        return self._parts.submit(self.part, name, upload, number, body)

    def part(self, name: str, upload: str, number: int, body: IO[bytes]) -> str:
        """Stores part `number` (from 1); returns its ETag. Raises UploadGone."""
        with self._upload(name, upload):
            return str(self.client.upload_part(**self.key(name), UploadId=upload, PartNumber=number, Body=body)["ETag"])

    def copy_part(self, source: str, name: str, upload: str, number: int, bounds: tuple[int, int]) -> str:
        """Part `number` from the bytes bounds[0]..bounds[1] (exclusive) of another object."""
        with self._upload(name, upload):
            made = self.client.upload_part_copy(
                **self.key(name),
                UploadId=upload,
                PartNumber=number,
                CopySource=self.key(source),
                CopySourceRange=f"bytes={bounds[0]}-{bounds[1] - 1}",
            )
        return str(made["CopyPartResult"]["ETag"])

    def complete(self, name: str, upload: str, etags: list[str]) -> None:
        """The object of exactly these parts: S3 refuses when one was replaced meanwhile. Raises UploadGone."""
        parts = [{"ETag": etag, "PartNumber": number} for number, etag in enumerate(etags, 1)]
        with self._upload(name, upload):
            self.client.complete_multipart_upload(**self.key(name), UploadId=upload, MultipartUpload={"Parts": parts})

    def abort(self, name: str, upload: str) -> None:
        try:
            with self._upload(name, upload):
                self.client.abort_multipart_upload(**self.key(name), UploadId=upload)
        except UploadGone:
            return

    def parts(self, name: str, upload: str) -> list[tuple[int, str, int, float]]:
        """(number, ETag, bytes, seconds since it was written) of the parts stored; [] when the upload is gone."""
        now = datetime.datetime.now(datetime.UTC)
        pages = self.client.get_paginator("list_parts").paginate(**self.key(name), UploadId=upload)
        try:
            with self._upload(name, upload):
                rows = [row for page in pages for row in page.get("Parts") or ()]
        except UploadGone:
            return []
        return [(row["PartNumber"], row["ETag"], int(row["Size"]), (now - row["LastModified"]).total_seconds()) for row in rows]

    def begun(self, prefix: str) -> Iterator[tuple[str, str, float]]:
        """(name, upload, seconds since it began) of the uploads in parts that were neither completed nor aborted."""
        now = datetime.datetime.now(datetime.UTC)
        for row in self._pages("list_multipart_uploads", "Uploads", prefix):
            yield self._relative(row["Key"]), row["UploadId"], (now - row["Initiated"]).total_seconds()
