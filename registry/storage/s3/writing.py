"""The writer of an upload on S3: parts are gathered in files on the local disk, so that memory stays constant.

While one is gathered, up to AT_ONCE earlier ones are under way to S3: one connection there is slower than most clients are.
Only what has arrived is the session's. When a part does not arrive, it and all after it do not count: the writer stands there.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import IO

from agent.protocol.oci import Digest
from registry.storage.hashing import new_hash, resume
from registry.storage.s3.bucket import Bucket, UploadGone
from registry.storage.s3.reading import S3File
from registry.storage.s3.session import Session, discover, load
from registry.storage.store import DigestMismatch, StoreFull, UploadLost, full_explained

GROW_EVERY = 1000  # parts; S3 takes 10,000: with 8 MiB at first, growing by 8 MiB every 1,000, an upload may have 430 GiB
MAX_PARTS = 10_000
AT_ONCE = 4  # parts of one upload that are under way to S3; the one that is gathered comes on top
MAX_PIECES = 32  # small chunks are stored one by one up to here, then as one
READ_BYTES = 1 << 20


@dataclass
class _Sent:
    """A part under way. `pieces`: the objects that its first bytes came from, which are there until it has arrived."""

    file: IO[bytes]
    size: int
    pieces: list[tuple[str, int]]
    etag: Future[str]


class Writer:
    def __init__(self, bucket: Bucket, name: str, offset: int, algorithm: str, state: bytes | None) -> None:
        self._bucket = bucket
        hash_state = None
        if offset == 0:
            self.session = Session(name)
        elif loaded := load(name, offset, state):
            self.session, hash_state = loaded
        else:
            self.session = discover(bucket, name, offset)
        self.offset = self.session.size
        self._hash = new_hash(algorithm) if self.offset == 0 else resume(algorithm, self.offset, hash_state)
        self._buffer: IO[bytes] | None = None
        self._held = 0  # bytes in the buffer, which follow the session's and those under way
        self._fetched: list[tuple[str, int]] = []  # the pieces that the buffer begins with
        self._sent: list[_Sent] = []  # in their order; their bytes follow the session's
        self._promised: tuple[str, int] | None = None  # the piece that a state in somebody's hand names, not stored yet
        self.stored = offset > 0  # may there be anything of this upload on S3?
        self._open = True
        if len(self.session.pieces) >= MAX_PIECES:
            self._absorb()

    # --- appending --------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        with full_explained():
            buffer = self._file()
            buffer.seek(self._held)
            buffer.write(data)
            buffer.flush()
        self._held += len(data)
        self.offset += len(data)
        if self._hash is not None:
            self._hash.update(data)
        if self.session.in_pieces + self._held >= self._part_bytes:
            self._store_part()

    @property
    def _part_bytes(self) -> int:
        return self._bucket.address.part * (1 + self._begun_parts // GROW_EVERY)

    @property
    def _begun_parts(self) -> int:
        return len(self.session.parts) + len(self._sent)

    def _file(self) -> IO[bytes]:
        if self._buffer is None:
            self._buffer = tempfile.TemporaryFile(prefix="wharf-part-", buffering=0)  # noqa: SIM115  # closed by close()
        return self._buffer

    def _absorb(self) -> None:
        """Fetch the pieces into the buffer, in front of what it holds."""
        session = self.session
        whole = tempfile.TemporaryFile(prefix="wharf-part-", buffering=0)  # noqa: SIM115  # becomes the buffer
        try:
            for name, size in session.pieces:
                _fetch(self._bucket, name, size, whole)
            if self._buffer is not None:
                self._buffer.seek(0)
                with full_explained():
                    shutil.copyfileobj(_Limited(self._buffer, self._held), whole, READ_BYTES)
                self._buffer.close()
        except BaseException:
            whole.close()
            raise
        self._held += session.in_pieces
        self._buffer, self._fetched, session.pieces = whole, session.pieces, []

    # --- parts ------------------------------------------------------------------------------------------------------------------

    def _store_part(self) -> None:
        """Send what is held on its way."""
        self._keep_promise()
        if self.session.pieces:
            self._absorb()
        if self._begun_parts >= MAX_PARTS:
            raise StoreFull("S3 takes no blob of more than 10,000 parts; set a larger part= in WHARF_BLOB_STORE")
        self.stored = True
        if not self.session.upload:
            self._begin()
        while len(self._sent) >= AT_ONCE:
            self._receive()
        file, size = self._file(), self._held
        self._sent.append(_Sent(file, size, self._fetched, self._send(file, size)))
        self._buffer, self._held, self._fetched = None, 0, []

    def _send(self, file: IO[bytes], size: int) -> Future[str]:
        """It gets the number after all that are there or under way."""
        body = _Limited(file, size)
        return self._bucket.send_part(self.session.data, self.session.upload, self._begun_parts + 1, body)  # type: ignore[arg-type]  # read, seek and tell are all that is used

    def _receive(self) -> None:
        """Wait for the oldest part under way."""
        first = self._sent[0]
        try:
            try:
                etag = first.etag.result()
            except UploadGone:
                self._send_again()
                etag = first.etag.result()
        except BaseException as error:
            self._drop_sent()
            if isinstance(error, UploadGone):
                raise UploadLost("the stored bytes of this upload are gone; start it again") from error
            raise
        self.session.parts.append((etag, first.size))
        self._sent.pop(0).file.close()

    def _receive_all(self) -> None:
        while self._sent:
            self._receive()

    def _send_again(self) -> None:
        """All of them, to a new multipart upload."""
        sent, self._sent = self._sent, []
        wait([part.etag for part in sent])
        try:
            self._begin()
            for part in sent:
                part.etag = self._send(part.file, part.size)
                self._sent.append(part)
        except BaseException:
            self._sent = sent  # for whoever drops them
            raise

    def _drop_sent(self) -> None:
        """What is under way or held does not count; the writer stands after what has arrived."""
        self.session.pieces = self._sent[0].pieces
        self._let_go()
        self._held, self._fetched, self._promised = 0, [], None
        self.offset = self.session.size
        self._hash = None  # it is ahead; whoever goes on from here reads all of it again at the commit

    def _let_go(self) -> None:
        sent, self._sent = self._sent, []
        wait([part.etag for part in sent if not part.etag.cancel()])  # before anybody else sends parts of these numbers
        for file in (*(part.file for part in sent), self._buffer):
            if file is not None:
                file.close()
        self._buffer = None

    def _begin(self) -> None:
        """A new multipart upload. With parts already: a process died after it had completed them; take them from the object."""
        session, parts, start = self.session, [], 0
        if session.parts and self._bucket.size(session.data) is None:
            raise UploadLost("the stored bytes of this upload are gone; start it again")
        session.upload = self._bucket.begin(session.data)
        for number, (_, size) in enumerate(session.parts, 1):
            bounds = (start, start + size)
            parts.append((self._bucket.copy_part(session.data, session.data, session.upload, number, bounds), size))
            start += size
        if parts:
            self._hash = None  # it may be the object of other bytes than those we hashed: the commit reads it again
        session.parts = parts

    # --- pausing ----------------------------------------------------------------------------------------------------------------

    def state(self) -> bytes | None:
        """What close() will have stored. Waits for the parts under way; what is held is named now and stored then."""
        self._receive_all()
        session = self.session
        if self._held and (self._promised is None or self._promised[1] != self._held):
            self._promised = session.new_piece(self._held)
        pieces = [*session.pieces, *([self._promised] if self._promised else [])]
        saved = Session(session.name, session.upload, session.parts, pieces)
        return saved.save(self._hash.state() if self._hash is not None else None)

    def _keep_promise(self) -> None:
        if self._promised is None:
            return
        (name, size), self._promised = self._promised, None
        self.stored = True
        self._bucket.put(name, _Limited(self._file(), size))  # type: ignore[arg-type]  # as above
        self.session.pieces.append((name, size))
        rest = self._held - size
        if rest:
            with full_explained():
                buffer = self._file()
                buffer.seek(size)
                kept = buffer.read(rest)
                buffer.seek(0)
                buffer.write(kept)
        self._held = rest

    def close(self) -> None:
        if not self._open:
            return
        try:
            self._receive_all()
            if self._held and self._promised is None:
                self._promised = self.session.new_piece(self._held)
            self._keep_promise()
        finally:
            self.forget()

    def forget(self) -> None:
        """Close without storing what is held."""
        self._open = False
        self._let_go()

    # --- ending -----------------------------------------------------------------------------------------------------------------

    def commit(self, digest: Digest, target: str) -> None:
        """Store all of it at `target`, or nothing. Raises DigestMismatch."""
        if self._hash is not None and self._hash.algorithm == digest.algorithm and self._hash.hexdigest() != digest.hex:
            raise self._mismatch(digest)
        if self.session.parts or self._sent:
            self._commit_parts(digest, target)
            return
        if self.session.pieces:
            self._absorb()
        if not self._knows(digest) and _hash_of(S3Like(self._file(), self._held), digest.algorithm) != digest.hex:
            raise self._mismatch(digest)
        self._bucket.put(target, _Limited(self._file(), self._held) if self._held else b"")  # type: ignore[arg-type]  # as above

    def _commit_parts(self, digest: Digest, target: str) -> None:
        session = self.session
        if session.pieces or self._held:
            self._store_part()
        self._receive_all()
        try:
            self._bucket.complete(session.data, session.upload, [etag for etag, _ in session.parts])
        except UploadGone as error:  # a process died between its completion and its answer
            if self._bucket.size(session.data) != self.offset:
                raise UploadLost("the stored bytes of this upload are gone; start it again") from error
            self._hash = None
        if not self._knows(digest):
            with contextlib.closing(S3File(self._bucket, (session.data, session.data), self.offset)) as whole:
                if _hash_of(whole, digest.algorithm) != digest.hex:
                    raise self._mismatch(digest)
        if not self._bucket.copy(session.data, target):
            raise UploadLost("the stored bytes of this upload are gone; start it again")

    def _knows(self, digest: Digest) -> bool:
        return self._hash is not None and self._hash.algorithm == digest.algorithm and self._hash.count == self.offset

    def _mismatch(self, digest: Digest) -> DigestMismatch:
        return DigestMismatch(f"the uploaded bytes do not hash to {digest}; the upload was dropped, send it again")


class _Limited:
    """The first `size` bytes of a file, as botocore reads a body."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size, self._at = file, size, 0

    def __len__(self) -> int:
        return self._size

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._file.seek(self._at)
        data = self._file.read(left if count is None or count < 0 else min(count, left))
        self._at += len(data)
        return data


class S3Like:
    """A local file with the face of an open blob."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self.size = file, size

    def read_at(self, offset: int, count: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(min(count, self.size - offset))


def _hash_of(blob: S3File | S3Like, algorithm: str) -> str:
    fresh, offset = hashlib.new(algorithm), 0
    while data := blob.read_at(offset, min(READ_BYTES, blob.size - offset)):
        fresh.update(data)
        offset += len(data)
    return fresh.hexdigest()


def _fetch(bucket: Bucket, name: str, size: int, target: IO[bytes]) -> None:
    with contextlib.closing(S3File(bucket, (name, name), size)) as piece:
        offset = 0
        while data := piece.read_at(offset, READ_BYTES):
            with full_explained():
                target.write(data)
            offset += len(data)
