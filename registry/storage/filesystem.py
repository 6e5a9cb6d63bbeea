"""Blobs as files.

    uploads/<session>              one upload, O_APPEND, flock'ed by its writer
    blobs/<algorithm>/<xx>/<hex>   a blob; the 256 directories are made beforehand
    trash/<algorithm>-<hex>        deleted, kept for the trash window
    quarantine/<algorithm>-<hex>   bytes that are not what their name says
    journal/<id>                   bytes of small blobs whose files are not durable yet (registry.storage.journal)

All of them lie in one file system, so that each step is a rename. Order of a commit: fdatasync of the file, rename, fsync of the
directory; small blobs: fdatasync of the journal, write, rename. Only then may a row say that the blob is there. A crash leaves at
most a file without a row, never the reverse.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence

from agent.protocol.oci import Digest
from registry.storage import journal
from registry.storage.hashing import ALGORITHMS, new_hash, resume
from registry.storage.store import (
    BlobFile,
    DigestMismatch,
    SmallBlob,
    StoredBlob,
    UploadBusy,
    UploadWriter,
    check_session,
    full_explained,
)

_REHASH_BYTES = 1 << 20
_WRITEBACK_BYTES = 8 << 20  # written bytes after which the disk is set to work
ROOMY = 64 * journal.SIZE  # free bytes from which on a process takes two journals for itself


class _File:
    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size

    def fileno(self) -> int:
        return self._fd

    def read_at(self, offset: int, count: int) -> bytes:
        return os.pread(self._fd, count, offset)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Writer:
    def __init__(self, path: str, offset: int, algorithm: str, state: bytes | None) -> None:
        self.path = path
        self._algorithm = algorithm
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self.offset = self._claim(offset)
            self._begun = self.offset  # up to here the disk has been set to work
            self._hash = new_hash(algorithm) if self.offset == 0 else resume(algorithm, self.offset, state)
        except BaseException:
            self.close()
            raise

    def _claim(self, offset: int) -> int:
        # The row's lease keeps other writers away; flock makes it certain on one host, and the kernel drops it at kill -9.
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UploadBusy("another request is writing this upload; ask for its offset and go on from there") from error
        stored = os.fstat(self._fd).st_size
        if stored > offset:
            os.ftruncate(self._fd, offset)
        return min(stored, offset)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        with full_explained():  # the row's offset is what counts: a part of a batch in the file is cut off by the next writer
            while view:
                view = view[os.write(self._fd, view) :]
        if self._hash is not None:
            self._hash.update(data)
        self.offset += len(data)
        if self.offset - self._begun >= _WRITEBACK_BYTES:
            self._begin_writeback()

    def _begin_writeback(self) -> None:
        """Have the kernel begin to write now, so that the sync at the end waits for little.

        Of posix_fadvise(2)'s DONTNEED Linux starts writing what is dirty, without waiting, and drops what is clean already: of
        bytes just written that is nothing.
        """
        os.posix_fadvise(self._fd, self._begun, self.offset - self._begun, os.POSIX_FADV_DONTNEED)
        self._begun = self.offset

    def state(self) -> bytes | None:
        return self._hash.state() if self._hash is not None else None

    def hexdigest(self, algorithm: str) -> str:
        if self._hash is not None and self._hash.algorithm == algorithm and self._hash.count == self.offset:
            return self._hash.hexdigest()
        fresh = hashlib.new(algorithm)
        position = 0
        while chunk := os.pread(self._fd, _REHASH_BYTES, position):
            fresh.update(chunk)
            position += len(chunk)
        return fresh.hexdigest()

    def sync(self) -> None:
        with full_explained():  # blocks may be allocated as late as this
            os.fdatasync(self._fd)

    def length(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FilesystemStore:
    name = "filesystem"
    redirects = False

    def __init__(self, root: str) -> None:
        self.root = root
        self._uploads = os.path.join(root, "uploads")
        self._trash = os.path.join(root, "trash")
        self._quarantine = os.path.join(root, "quarantine")
        self._journals = os.path.join(root, "journal")
        self._pair: journal.Pair | None = None
        self._pair_lock = threading.Lock()
        for path in (self._uploads, self._trash, self._quarantine, self._journals):
            os.makedirs(path, mode=0o700, exist_ok=True)
        for algorithm in ALGORITHMS:
            for prefix in range(256):
                os.makedirs(os.path.join(root, "blobs", algorithm, f"{prefix:02x}"), mode=0o700, exist_ok=True)
        self._recover()

    def writer(self, session: str, offset: int, algorithm: str, state: bytes | None) -> UploadWriter:
        return _Writer(self._upload(session), offset, algorithm, state)

    def commit(self, session: str, writer: UploadWriter, digest: Digest) -> None:
        assert isinstance(writer, _Writer)  # noqa: S101  # drivers are never mixed
        try:
            # A longer file than we wrote means another hand wrote too: our running hash does not describe it.
            if writer.length() != writer.offset or writer.hexdigest(digest.algorithm) != digest.hex:
                self.discard(session)
                raise DigestMismatch(f"the uploaded bytes do not hash to {digest}; the upload was dropped, send it again")
            writer.sync()
            with full_explained():
                self._publish(self._upload(session), digest)
        finally:
            writer.close()

    def put(self, digest: Digest, data: bytes) -> None:
        if hashlib.new(digest.algorithm, data).hexdigest() != digest.hex:
            raise DigestMismatch(f"the {len(data)} bytes sent do not hash to {digest}")
        with full_explained():
            path = self._written(data, durable=True)
            self._publish(path, digest)

    def put_all(self, blobs: Sequence[SmallBlob]) -> None:
        with full_explained():
            pair, items = self._journal(), [(blob.digest, blob.data) for blob in blobs]
            if pair is None or not pair.append(items, lambda: self._publish_all(blobs)):
                for blob in blobs:  # nobody waits for the sync of a whole file system
                    self.put(blob.digest, blob.data)
                    if blob.session:
                        self.discard(blob.session)

    def _journal(self) -> journal.Pair | None:
        """None where the disk has better use for the space."""
        with self._pair_lock:  # made when it is needed: most processes never push
            if self._pair is None and self._is_roomy():
                self._pair = journal.Pair(self.root, self._journals)
            return self._pair

    def _is_roomy(self) -> bool:
        disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize > ROOMY

    def _publish_all(self, blobs: Sequence[SmallBlob]) -> None:
        for blob in blobs:
            path = self._upload(blob.session) if blob.session else ""
            try:
                ready = bool(path) and os.stat(path).st_size == len(blob.data)
            except FileNotFoundError:
                ready = False
            if not ready:
                path = self._written(blob.data)
            os.rename(path, self._blob(blob.digest))

    def _written(self, data: bytes, *, durable: bool = False) -> str:
        """The path of a new file with `data`."""
        path = self._upload(f"put-{uuid.uuid4().hex}")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fdatasync(fd)
        except OSError:
            self._unlink(path)
            raise
        finally:
            os.close(fd)
        return path

    def _recover(self) -> None:
        """Write again what journals of processes that are gone hold and their files, after a power cut, do not."""
        for path, fd in journal.left(self._journals):
            try:
                for digest, data in journal.records(fd):
                    if not os.path.exists(self._trashed(digest)) and not self._holds(digest, data):
                        os.rename(self._written(data), self._blob(digest))
                journal.sync_filesystem(self.root)
                self._unlink(path)
            finally:
                os.close(fd)

    def _holds(self, digest: Digest, data: bytes) -> bool:
        try:
            with open(self._blob(digest), "rb") as file:
                return file.read() == data
        except FileNotFoundError:
            return False

    def discard(self, session: str) -> None:
        self._unlink(self._upload(session))

    def holds(self, session: str) -> bool:
        return os.path.exists(self._upload(session))

    def unfinished(self, session: str) -> BlobFile | None:
        return self._opened(self._upload(session))

    def open(self, digest: Digest) -> BlobFile | None:
        return self._opened(self._blob(digest))

    def _opened(self, path: str) -> BlobFile | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        return _File(fd, os.fstat(fd).st_size)

    def location(self, digest: Digest) -> None:
        return None

    def size(self, digest: Digest) -> int | None:
        try:
            return os.stat(self._blob(digest)).st_size
        except FileNotFoundError:
            return None

    def trash(self, digest: Digest) -> None:
        try:
            # A rename keeps mtime and the trash window counts from now: touch first, else a sweep in between sees an old file.
            os.utime(self._blob(digest))
            os.rename(self._blob(digest), self._trashed(digest))
        except FileNotFoundError:
            return

    def trash_all(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            self.trash(digest)

    def quarantine(self, digest: Digest) -> None:
        try:
            os.rename(self._blob(digest), os.path.join(self._quarantine, f"{digest.algorithm}-{digest.hex}"))
        except FileNotFoundError:
            return

    def restore(self, digest: Digest) -> bool:
        try:
            os.rename(self._trashed(digest), self._blob(digest))
        except FileNotFoundError:
            return os.path.exists(self._blob(digest))
        journal.sync_directory(os.path.dirname(self._blob(digest)))
        return True

    def empty_trash(self, older_than: float) -> int:
        count = 0
        for path, age, _ in _ages(self._trash):
            if age > older_than:
                self._unlink(path)
                count += 1
        return count

    def uploads(self) -> Iterator[tuple[str, float]]:
        for path, age, _ in _ages(self._uploads):
            yield os.path.basename(path), age

    def blobs(self, beginning: str = "") -> Iterator[StoredBlob]:
        algorithm, _, digits = beginning.partition(":")
        for each in [algorithm] if algorithm else ALGORITHMS:
            for prefix in [digits] if digits else (f"{number:02x}" for number in range(256)):
                for path, age, size in _ages(os.path.join(self.root, "blobs", each, prefix)):
                    yield StoredBlob(Digest(each, os.path.basename(path)), age, size)

    def _publish(self, path: str, digest: Digest) -> None:
        target = self._blob(digest)
        os.rename(path, target)
        journal.sync_directory(os.path.dirname(target))

    def _unlink(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    def _upload(self, session: str) -> str:
        return os.path.join(self._uploads, check_session(session))

    def _blob(self, digest: Digest) -> str:
        return os.path.join(self.root, "blobs", digest.algorithm, digest.hex[:2], digest.hex)

    def _trashed(self, digest: Digest) -> str:
        return os.path.join(self._trash, f"{digest.algorithm}-{digest.hex}")


def _ages(directory: str) -> Iterator[tuple[str, float, int]]:
    """(path, seconds since the last write, bytes)."""
    now = time.time()
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                found = entry.stat()
            except FileNotFoundError:
                continue
            yield entry.path, now - found.st_mtime, found.st_size
