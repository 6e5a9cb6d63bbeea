"""Assembly: arguments, one supervisor a run directory, the socket, and the run."""

from __future__ import annotations

import _socket
import errno
import fcntl
import gc
import os
import resource
import sys

from agent.supervisor import adopt, handover
from agent.supervisor.house import House, say
from agent.supervisor.loop import Loop
from agent.supervisor.roster import RESERVED
from agent.sys import process, sealing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.supervisor.launch import Runtime

SOCKET = "supervisor.sock"
LOCK = "supervisor.lock"
EX_USAGE, EX_TEMPFAIL = 64, 75
_VALUES = ("--root", "--state", "--cgroup-parent", "--handover")
_FLAGS = ("--check", "--daemon")
_PR_SET_CHILD_SUBREAPER = 36
_OOM_SCORE = -500  # the kernel should kill a container before the parent of all of them


class Arguments:
    """Parsed by hand: argparse imports re and gettext."""

    __slots__ = ("cgroup_parent", "check", "daemon", "handover", "root", "state")

    def __init__(self, words: list[str]) -> None:
        """Raises ValueError with what is wrong."""
        found: dict[str, str] = {}
        rest = iter(words)
        for word in rest:
            if word in _FLAGS:
                found[word] = "yes"
            elif word in _VALUES:
                found[word] = next(rest, "")
            else:
                raise ValueError(f"unknown argument {word!r}")
        self.root = found.get("--root", "")
        self.state = found.get("--state", "")
        self.cgroup_parent = found.get("--cgroup-parent", "")
        self.handover = int(found.get("--handover", "-1"))
        self.check = "--check" in found
        self.daemon = "--daemon" in found
        if not (self.root.startswith("/") and self.state.startswith("/") and self.cgroup_parent.startswith("/")):
            raise ValueError("--root, --state and --cgroup-parent are needed, all absolute")


def main(argv: list[str], runtime: Callable[[str], Runtime] | None = None) -> int:
    """Exit codes: 0 told to end, 64 usage, 75 another supervisor holds the run directory.

    `runtime` makes the runtime for a cgroup parent; given only by unit tests, whose processes are not containers.
    """
    try:
        arguments = Arguments(argv[1:])
    except ValueError as error:
        say(f"{error}; usage: --root RUNDIR --state STATEDIR --cgroup-parent PATH")
        return EX_USAGE
    if runtime is None:
        from agent.supervisor import launch  # not at the top: a unit test's double needs no kernel

        runtime = launch.OciRuntime
        if not arguments.check and not sealing.runs_sealed():
            _seal(argv, arguments.root)
        if not arguments.check and arguments.handover < 0:
            launch.enter_own_cgroup(f"{arguments.cgroup_parent.rstrip('/')}/{RESERVED[0]}")
    if arguments.check:
        return 0  # everything could be imported
    return _serve(argv[0], arguments, runtime(arguments.cgroup_parent))


def _seal(argv: list[str], root: str) -> None:
    """Begin again from a copy of the interpreter that no container can write to. `handover.leave` does so by itself."""
    os.makedirs(root, 0o700, exist_ok=True)
    image = sealed_python(root)
    os.execve(image, [sys.executable, "-I", "-S", *argv], os.environ)  # noqa: S606  # ourselves


def _serve(program: str, arguments: Arguments, runtime: Runtime) -> int:
    handed = handover.load(arguments.handover) if arguments.handover >= 0 else None
    if handed is None:
        lock = _lock(arguments.root)
        if lock < 0:
            say(f"another supervisor holds {arguments.root}")
            return EX_TEMPFAIL
        if arguments.daemon:
            _daemonise(arguments.root)
        _prepare_process()
        listener = _listen(os.path.join(arguments.root, SOCKET))
        instance = os.urandom(8).hex()
    else:
        lock, instance = handed["lock"], handed["instance"]
        os.set_inheritable(lock, False)
        listener = _socket.socket(fileno=handed["listener"])
    os.makedirs(arguments.state, 0o700, exist_ok=True)
    words = ["--root", arguments.root, "--state", arguments.state, "--cgroup-parent", arguments.cgroup_parent]
    command = [sys.executable, "-I", "-S", os.path.abspath(program), *words]
    loop = Loop()
    house = House(loop, runtime, arguments.root, arguments.state, listener, lock, command, instance)
    house.image = lambda: sealed_python(arguments.root)
    house.generation = handed["generation"] + 1 if handed else 1
    adopt.everything(house, handed)
    gc.collect()
    gc.freeze()
    gc.disable()
    house.run()
    house.server.close()
    return 0


def sealed_python(root: str) -> int:
    """A descriptor to run the interpreter from. Raises OSError."""
    empty = os.path.join(root, "empty")
    os.makedirs(empty, 0o700, exist_ok=True)
    return sealing.sealed_executable(sys.executable, empty, "supervisor")


def _lock(root: str) -> int:
    """Hold the run directory; -1 when somebody else does. The kernel lets go at our death, however it comes."""
    os.makedirs(root, 0o700, exist_ok=True)
    os.chmod(root, 0o700)
    fd = os.open(os.path.join(root, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.EWOULDBLOCK:
            raise
        return -1
    return fd


def _daemonise(root: str) -> None:
    """Let the starter go; own session; messages to a file."""
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    log = os.open(os.path.join(root, "supervisor.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)


def _prepare_process() -> None:
    os.chdir("/")
    os.umask(0o077)
    process.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # seven descriptors a container; containers inherit it, as Docker's
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(_OOM_SCORE))
    except PermissionError:
        say(f"may not set oom_score_adj to {_OOM_SCORE}: the kernel may choose the supervisor when memory runs out")


def _listen(path: str) -> _socket.socket:
    """Bound beside its place and renamed: a stale socket is replaced, and nobody ever finds half a one."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    temporary = path + ".new"
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass  # the usual case
    listener.bind(temporary)
    os.chmod(temporary, 0o600)
    listener.listen(64)
    os.rename(temporary, path)
    return listener
