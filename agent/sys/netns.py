"""Network namespaces: make, keep, enter, drop (network_namespaces(7), setns(2)).

A namespace belongs to a thread, not to a process, so everything here is done in a thread of its own that ends afterwards:
an error half way can never leave the caller in the wrong namespace.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from agent.sys import libc

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MS_REC = 16384
_MS_SHARED = 1 << 20
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

_setns = libc.function("setns", libc.INT, libc.INT)
_unshare = libc.function("unshare", libc.INT)
_mount = libc.function("mount", libc.STR, libc.STR, libc.STR, libc.ULONG, libc.PTR)
_umount2 = libc.function("umount2", libc.STR, libc.INT)


class _Visit(threading.Thread, Generic[T]):
    """Runs `arrive` and then `work` in a fresh thread, and brings the result or the error back."""

    def __init__(self, arrive: Callable[[], None], work: Callable[[], T]) -> None:
        super().__init__(name="netns", daemon=True)
        self._arrive = arrive
        self._work = work
        self._result: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._arrive()
            self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            self._error = error

    def visit(self) -> T:
        self.start()
        self.join()
        if self._error is not None:
            raise self._error
        return self._result[0]


def inside(fd: int, work: Callable[[], T]) -> T:
    """Run `work` in the namespace of `fd`, in a thread of its own. Sockets that it opens belong there for good."""

    def arrive() -> None:
        libc.check(_setns(fd, _CLONE_NEWNET), "setns(net)")

    return _Visit(arrive, work).visit()


def create(path: str, work: Callable[[], T]) -> T:
    """Make a namespace, keep it by a bind mount on the new file `path`, and run `work` inside it.

    Raises FileExistsError when `path` is there already; nothing is left behind on an error.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def arrive() -> None:
        libc.check(_unshare(_CLONE_NEWNET), "unshare(net)")
        keep = _mount(b"/proc/thread-self/ns/net", os.fsencode(path), None, _MS_BIND, None)
        libc.check(keep, "mount(netns)", path)

    try:
        return _Visit(arrive, work).visit()
    except BaseException:
        drop(path)
        raise


def drop(path: str) -> None:
    """Let go of a kept namespace: it dies, with its links, once the last process and socket in it is gone. Idempotent."""
    while True:
        if _umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
            continue  # mounted twice, after a crash between two steps
        error = libc.oserror("umount2(netns)", path)
        if error.errno in (errno.EINVAL, errno.ENOENT):  # not mounted any more
            break
        raise error
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def open_at(path: str) -> int:
    """A descriptor of the namespace kept at `path`. FileNotFoundError when there is none, also if only its plain file is left."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    own = os.stat("/proc/self/ns/net")
    if os.fstat(fd).st_dev != own.st_dev:
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "no network namespace is kept here", path)
    return fd


def prepare_directory(path: str) -> None:
    """Make the directory of kept namespaces a shared mount, as `ip netns` does.

    Then an unmount reaches every mount namespace that copied it; a private copy elsewhere would keep dead namespaces alive.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    packed = os.fsencode(path)
    if _mount(b"", packed, None, _MS_SHARED | _MS_REC, None) == 0:
        return
    error = libc.oserror("mount(shared)", path)
    if error.errno != errno.EINVAL:
        raise error
    libc.check(_mount(packed, packed, None, _MS_BIND | _MS_REC, None), "mount(bind)", path)
    libc.check(_mount(b"", packed, None, _MS_SHARED | _MS_REC, None), "mount(shared)", path)


def release_directory(path: str) -> None:
    """Undo `prepare_directory`: unmount and remove the directory if it is empty."""
    if _umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0 and not os.listdir(path):
        os.rmdir(path)
