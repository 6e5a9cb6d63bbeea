"""What a caller is given of a new process: pid file, pidfd, terminal; and waiting for it."""

from __future__ import annotations

import os
import stat

from agent.protocol.errors import InvalidInput
from agent.runtime.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType

    from agent.runtime.cli.arguments import Options
    from agent.runtime.container import Init
else:
    import _signal as signal  # the signal module imports enum

ROOT = "/run/wharf-runtime"
CHOICES = {"auto": None, "": None, "true": True, "false": False}
FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)


def kept(options: Options) -> int:
    """How many descriptors after 0, 1, 2 the process is given: those of systemd's activation, and --preserve-fds more."""
    listening = os.environ.get("LISTEN_FDS", "")
    return (options.number("preserve-fds") or 0) + (int(listening) if listening.isdigit() else 0)


def manager(options: Options) -> str:
    """The cgroup manager: cgroupfs, systemd or disabled. Raises InvalidConfig for any other."""
    wanted = "systemd" if options.flag("systemd-cgroup") else options.text("cgroup-manager", "cgroupfs")
    if wanted not in ("cgroupfs", "systemd", "disabled"):
        raise InvalidConfig(f"cgroup manager {wanted!r} is not known; use cgroupfs, systemd or disabled")
    return wanted


def root(options: Options) -> str:
    """The directory of states: the one that was named, root's, or one of the user's own. Raises InvalidInput."""
    given = options.text("root")
    if given:
        return given
    from agent.runtime.privilege import outer_uid, privileged  # the fast path has no need of it

    if privileged():
        return ROOT
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    path = f"{runtime}/wharf-runtime" if runtime.startswith("/") else f"/tmp/wharf-runtime-{outer_uid()}"  # noqa: S108  # looked at below
    try:
        os.mkdir(path, 0o1700)  # sticky: what cleans $XDG_RUNTIME_DIR up spares it (XDG Base Directory Specification)
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise InvalidInput(f"{path} is not a directory of your own; set XDG_RUNTIME_DIR, or give --root") from None
    return path


def lenient(options: Options) -> bool:
    """--rootless: whether it is no error to have no permission for cgroups. By itself for everybody but the machine's root."""
    text = options.text("rootless")
    if text not in CHOICES:
        raise InvalidConfig(f"--rootless is {text!r}; it must be auto, true or false")
    from agent.runtime.privilege import privileged

    chosen = CHOICES[text]
    return not privileged() if chosen is None else chosen


def give(options: Options, init: Init) -> None:
    """Terminal and pidfd to the sockets that were named, the pid to its file."""
    if init.console_fd >= 0 and options.text("console-socket"):
        from agent.runtime.cli import console  # sockets and terminals cost 4 ms, and few containers have one

        console.hand_over(init.console_fd, options.text("console-socket"))
        init.console_fd = -1
    if options.text("pidfd-socket"):
        from agent.runtime.cli import console

        console.send(init.pidfd, options.text("pidfd-socket"), b"pidfd")
    write_pid(options.text("pid-file"), init.pid)


def write_pid(path: str, pid: int) -> None:
    """Whole or not at all: who waits for the file may read it at once."""
    if path:
        temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.tmp")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.write(fd, b"%d" % pid)
        os.close(fd)
        os.rename(temporary, path)


def hold_signals() -> None:
    """What is sent to us from now on waits for `forward_signals`: the program may run, and be known to, before that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)


def forward_signals(pidfd: int) -> None:
    """What is sent to us goes to the process."""

    def forward(number: int, frame: FrameType | None) -> None:
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            pass  # it has just ended

    for number in FORWARDED:
        signal.signal(number, forward)
    release_signals()


def release_signals() -> None:
    """What was held comes now, and what is sent from now on."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)


def wait(init: Init) -> int:
    """Forward signals and the terminal until the process ends; its exit status as a shell gives it."""
    forward_signals(init.pidfd)
    if init.console_fd >= 0:
        from agent.runtime.cli import console

        console.relay(init.console_fd, init.pidfd)
    result = os.waitid(os.P_PIDFD, init.pidfd, os.WEXITED)
    os.close(init.pidfd)
    if result is None:
        return 1
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status
