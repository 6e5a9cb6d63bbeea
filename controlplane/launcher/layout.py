"""The home directory as the launcher prepares it, and the lock that lets one launcher in."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from agent.protocol.errors import Conflict, Denied, InvalidInput
from controlplane.launcher.valkey import SOCKET_PATH_LIMIT

SYSTEM_USER = "wharfinger"


class Layout:
    """Paths below WHARF_HOME.

    As root the home is root's with the sticky bit, and its group is the system user's: web and worker keep their files there, but
    cannot rename or replace what belongs to root, above all `agent/`, from which root runs.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.run = home / "run"
        self.logs = home / "log"
        self.agent = home / "agent"
        self.lock_file = home / "launcher.lock"

    def check(self) -> None:
        """Raises InvalidInput when a socket's path would be too long for the kernel, or the home is a symbolic link."""
        longest = max((self.home / "valkey.sock", self.run / "worker.notify"), key=lambda path: len(os.fsencode(path)))
        size = len(os.fsencode(longest))
        if size > SOCKET_PATH_LIMIT:
            raise InvalidInput(
                f"WHARF_HOME is too long: {longest} has {size} bytes, and a unix socket's path at most {SOCKET_PATH_LIMIT}."
                " Choose a shorter directory."
            )
        if self.home.is_symlink():
            raise InvalidInput(f"WHARF_HOME must be a directory itself, not a symbolic link: {self.home}.")

    def prepare(self, owner: tuple[int, int] | None) -> None:
        """Makes what is missing. `owner` is (uid, gid) of the system user when we are root. Raises InvalidInput."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if owner is not None:
            os.chown(self.home, 0, owner[1])
            self.home.chmod(0o1770)
            self._ours(self.agent, 0o700)
        # Ours, not the children's: we open logs and bind sockets here, and must not be led elsewhere by a link of theirs.
        self._ours(self.logs, 0o700)
        self._ours(self.run, 0o711)

    def _ours(self, directory: Path, mode: int) -> None:
        directory.mkdir(mode=mode, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise InvalidInput(f"{directory} must be a directory that belongs to the launcher's own user. Move it away.")
        directory.chmod(mode)

    def lock(self) -> int:
        """The descriptor that holds the home until this process ends. Raises Conflict when another launcher has it."""
        fd = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 20, 0).decode().strip()
            os.close(fd)
            raise Conflict(f"Wharfinger is up already on {self.home} (process {pid}). `wharf down` ends it.", pid=pid) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        return fd

    def holder(self) -> int | None:
        """The process that holds the lock, None when nobody does. The lock decides, never the number in the file."""
        try:
            fd = os.open(self.lock_file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise Denied(f"What is up on {self.home} belongs to another user: run this as root.") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(os.pread(fd, 20, 0))
        finally:
            os.close(fd)
        return None
