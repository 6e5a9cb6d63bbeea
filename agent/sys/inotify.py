"""inotify(7): be woken when files in a directory change."""

from __future__ import annotations

import asyncio
import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
IN_CLOEXEC, IN_NONBLOCK = 0o2000000, 0o4000
IN_MODIFY, IN_MOVED_TO, IN_CREATE, IN_DELETE, IN_DELETE_SELF = 0x2, 0x80, 0x100, 0x200, 0x400


class Watch:
    """Watches one directory from the moment it is made. Raises OSError when the directory is absent or watches are used up."""

    def __init__(self, directory: Path) -> None:
        self._fd = _libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        mask = IN_MODIFY | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF
        if _libc.inotify_add_watch(self._fd, os.fsencode(directory), ctypes.c_uint32(mask)) < 0:
            error = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(error, os.strerror(error), str(directory))

    async def changed(self, *, at_most: float) -> bool:
        """Wait for a change, `at_most` seconds; True if there was one. Changes since the last call count."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._fd, _settle, future)
        try:
            async with asyncio.timeout(at_most):
                await future
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._fd)
        try:
            while os.read(self._fd, 4096):
                pass
        except BlockingIOError:
            pass  # drained
        return True

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
