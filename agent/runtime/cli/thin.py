"""`run` and `exec` by a supervisor of this machine: one question, two answers (see agent.supervisor.bundles).

Only where the caller waits for us anyhow: after `create`, or with --detach, the process has to descend from the caller, who
(conmon, containerd's shim) is the one to reap it. And only with options that need nothing of this very process.

The fast path of every start: imports os and _socket, JSON without its package, and all else when it is needed.
"""

from __future__ import annotations

import _json
import _socket
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.cli.arguments import Options

VARIABLE = "WHARF_SUPERVISOR"  # the supervisor's run directory; empty: never ask one
SOCKET = "/run/wharfinger/supervisor.sock"
OURS_ALONE = ("console-socket", "pidfd-socket", "cgroup-manager", "log-level", "rootless")
OURS_ALONE_FLAGS = ("detach", "no-new-keyring", "systemd-cgroup", "debug")
OURS_ALONE_PLACES = ("/dev/", "/proc/")  # /dev/fd/63 of a shell's <(...) is a file of ours
DO_IT_YOURSELF = ("not_here", "unknown_operation", "peer_denied")
_PACKET = 1 << 16


def attempt(options: Options) -> int | None:
    """The exit status, or None when it has to be done here."""
    if not _suits(options):
        return None
    link = _connect()
    if link is None:
        return None
    from agent.runtime.cli import handles

    handles.hold_signals()  # the program runs by the time that we are told
    try:
        answer, fds = _ask(link, _request(options))
    except OSError:
        handles.release_signals()
        return None  # a supervisor that dies takes with it what it has made and not started
    if "error" in answer:
        handles.release_signals()
        return None if answer["error"].get("code") in DO_IT_YOURSELF else _refused(options, answer["error"])
    return _attend(options, link, answer["ok"], fds)


def _suits(options: Options) -> bool:
    return (
        options.command in ("run", "exec")
        and os.geteuid() == 0
        and not any(options.text(name) for name in OURS_ALONE)
        and not any(options.flag(name) for name in OURS_ALONE_FLAGS)
        and not any(options.text(name).startswith(OURS_ALONE_PLACES) for name in ("process", "config"))
        and not options.number("preserve-fds")
        and not os.environ.get("LISTEN_FDS")
    )


def _connect() -> _socket.socket | None:
    where = os.environ.get(VARIABLE)
    if where == "":
        return None
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        link.connect(where + "/supervisor.sock" if where else SOCKET)
    except OSError:
        return None
    return link


def _request(options: Options) -> dict[str, Any]:
    message: dict[str, Any] = {"n": 1, "root": os.path.abspath(options.text("root", "/run/wharf-runtime")), "id": options.id}
    if options.command == "run":
        bundle = os.path.abspath(options.text("bundle", "."))
        config, keep, pivot = options.text("config"), options.flag("keep"), not options.flag("no-pivot")
        return {**message, "op": "bundle_run", "bundle": bundle, "config": config, "keep": keep, "pivot": pivot}
    process = options.text("process")
    if process:
        process = os.path.abspath(process)
    return {**message, "op": "bundle_exec", "words": options.words, "values": options.values(), "process": process}


def _ask(link: _socket.socket, message: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    data = _text(message).encode()
    if len(data) > _PACKET:
        raise OSError(90, "message too long for a packet")  # EMSGSIZE: the long way takes it
    rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2))
    link.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    return _hear(link)


def _hear(link: _socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next answer and its descriptors. Raises ConnectionResetError when the supervisor is gone."""
    data, ancillary, _, _ = link.recvmsg(_PACKET + 1, _socket.CMSG_SPACE(64), _socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise ConnectionResetError(104, "the supervisor is gone")
    fds = [
        int.from_bytes(item[at : at + 4], sys.byteorder)
        for level, kind, item in ancillary
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
        for at in range(0, len(item), 4)
    ]
    answer: dict[str, Any] = _json.make_scanner(_Rules())(data.decode(), 0)[0]  # type: ignore[arg-type]  # six attributes are all it reads
    return answer, fds


class _Rules:
    """What make_scanner reads its options from."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(key)}:{_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, str):
        return _json.encode_basestring_ascii(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refused(options: Options, error: dict[str, Any]) -> int:
    from agent.protocol.errors import RemoteError
    from agent.runtime.cli import commands

    return commands.report(options, commands.log_of(options), RemoteError(error))


def _attend(options: Options, link: _socket.socket, begun: dict[str, Any], fds: list[int]) -> int:
    """The program runs: pid file, signals, terminal; and its end."""
    from agent.runtime.cli import handles

    if begun["warning"]:
        from agent.runtime.cli import commands

        commands.log_of(options).warning(begun["warning"])
    try:
        handles.write_pid(options.text("pid-file"), begun["pid"])
    except OSError as error:
        return _withdrawn(options, link, fds[0], error)
    handles.forward_signals(fds[0])
    if begun["terminal"]:
        from agent.runtime.cli import console

        console.relay(fds[1], fds[0])
    try:
        code = _hear(link)[0]["ok"]["exit_code"]
    except OSError:
        return _orphaned(options, fds[0])
    return _unknown(options) if code is None else int(code)


def _withdrawn(options: Options, link: _socket.socket, pidfd: int, error: OSError) -> int:
    """Whoever manages the program cannot learn its pid: it ends, and is gone when we say so."""
    import signal

    from agent.runtime.cli import commands

    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it was short
    try:
        _hear(link)
    except OSError:
        _orphaned(options, pidfd)
    return commands.report(options, commands.log_of(options), error)


def _orphaned(options: Options, pidfd: int) -> int:
    """The supervisor died, the container lives: wait for it, and clear up as the supervisor would have."""
    import select

    from agent.runtime.cli import commands, delete, handles
    from agent.runtime.state import StateDirectory
    from agent.sys import pidfd as ends

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.poll()
    if options.command == "run" and not options.flag("keep"):
        directory = StateDirectory(handles.root(options), options.id)
        directory.cgroup().kill()
        delete.destroy(directory, directory.cgroup(), commands.log_of(options))
    status = ends.exit_status(pidfd)
    if status is None:
        return _unknown(options)
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def _unknown(options: Options) -> int:
    from agent.runtime.cli import commands

    commands.log_of(options).error("the program ended while no supervisor watched it: its exit status is not known")
    return commands.EXEC_FAILED
