"""File systems in user space: a program that is handed /dev/fuse, and a detached mount that it serves.

The program needs no place to mount: libfuse takes `/dev/fd/<n>` for a connection that is open already (fuse(8), libfuse 3.3). It
goes to the background by itself and ends when the last reference to the mount is gone, so nobody has to look after it.
Imports nothing that the supervisor does not have.
"""

from __future__ import annotations

import os
import select

from agent.sys import mountapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # the signal module imports enum: 1 MB in the supervisor

OVERLAY = b"fuse.fuse-overlayfs"
OVERLAY_PROGRAM = "fuse-overlayfs"
_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_PATIENCE_MS = 10_000
_CONNECTION = 3  # the descriptor's number in the program


def program() -> str | None:
    """Where fuse-overlayfs is installed."""
    paths = (f"{directory}/{OVERLAY_PROGRAM}" for directory in _DIRECTORIES)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def overlay(lowers: list[bytes], options: list[bytes], attributes: int) -> int:
    """A detached mount of fuse-overlayfs: `lowers` topmost first, `options` as "upperdir=…". Raises OSError with what it said."""
    path = program()
    if path is None:
        raise FileNotFoundError(2, f"{OVERLAY_PROGRAM} is not installed: install the package of this name, or use another driver")
    connection = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        params: list[tuple[int, bytes, bytes | None, int]] = [
            (mountapi.FSCONFIG_SET_STRING, b"source", OVERLAY_PROGRAM.encode(), 0),
            (mountapi.FSCONFIG_SET_STRING, b"subtype", OVERLAY_PROGRAM.encode(), 0),
            (mountapi.FSCONFIG_SET_STRING, b"fd", b"%d" % connection, 0),
            (mountapi.FSCONFIG_SET_STRING, b"rootmode", b"40000", 0),
            (mountapi.FSCONFIG_SET_STRING, b"user_id", b"0", 0),
            (mountapi.FSCONFIG_SET_STRING, b"group_id", b"0", 0),
            (mountapi.FSCONFIG_SET_FLAG, b"default_permissions", None, 0),
            (mountapi.FSCONFIG_SET_FLAG, b"allow_other", None, 0),
        ]
        mount = mountapi.new_filesystem(b"fuse", params, attributes)
        try:
            words = b",".join([b"lowerdir=" + b":".join(lowers), *options])
            _serve(path, [OVERLAY_PROGRAM.encode(), b"-o", words, b"/dev/fd/%d" % _CONNECTION], connection)
        except BaseException:
            os.close(mount)
            raise
    finally:
        os.close(connection)
    return mount


def _serve(path: str, arguments: list[bytes], connection: int) -> None:
    """Start the program; returns when it has gone to the background, and serves."""
    told, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, null, 0),
            (os.POSIX_SPAWN_DUP2, null, 1),
            (os.POSIX_SPAWN_DUP2, tell, 2),
            (os.POSIX_SPAWN_DUP2, connection, _CONNECTION),
        ]
        pid = os.posix_spawn(path, arguments, {"LC_ALL": "C"}, file_actions=actions, setsigmask=[], setsigdef=[signal.SIGPIPE])
        status = _wait(pid)
        if status:
            words = os.read(told, 4096).decode(errors="replace").strip().splitlines() if status > 0 else []
            said = words[-1].removeprefix(f"{OVERLAY_PROGRAM}: ") if words else f"ended with {status}"
            raise OSError(5, f"{OVERLAY_PROGRAM}: {said}")
    finally:
        for fd in (told, tell, null):
            os.close(fd)


def _wait(pid: int) -> int:
    """Exit status of the foreground part; minus a signal's number. One that hangs is killed."""
    pidfd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(_PATIENCE_MS):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(status)
