"""One `criu swrk`: a request, its notifications, its answer (criu.org/RPC)."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable

from agent.runtime.criu.options import encode
from agent.runtime.criu.protobuf import Fields, Value, message, parse
from agent.runtime.errors import RuntimeFailed

DUMP, RESTORE, PRE_DUMP, NOTIFY = 1, 2, 4, 6
NAMES = {DUMP: "dump", RESTORE: "restore", PRE_DUMP: "pre-dump"}

# (script's name, pid or 0, descriptors that came along)
Listener = Callable[[str, int, list[int]], None]


class Criu:
    """A worker. `inside` runs in it before it is criu: to join a cgroup."""

    def __init__(self, binary: str, inside: Callable[[], None] | None = None, pass_fds: tuple[int, ...] = ()) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours

        try:
            # a program of one thread: nothing can hold a lock over this fork
            self._process = subprocess.Popen(
                [binary, "swrk", str(theirs.fileno())], pass_fds=(theirs.fileno(), *pass_fds), preexec_fn=inside
            )
        except FileNotFoundError:
            ours.close()
            raise _absent(binary) from None
        finally:
            theirs.close()

    def ask(self, kind: int, options: list[tuple[str, Value]], listener: Listener | None = None) -> Fields:
        """The answer's fields. RuntimeFailed with criu's own error number."""
        self._socket.send(message([(1, kind), (2, encode(options))]))
        while True:
            data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, 8)
            if not data:
                raise RuntimeFailed(f"criu ended without an answer to {NAMES[kind]}", stage="criu", errno=0)
            answer = parse(data)
            if answer[1][0] != NOTIFY:
                break
            self._notify(answer, fds, listener)
        if not answer[2][0]:
            number = int(answer.get(7, [0])[0])
            text = _text(answer.get(9, [b""])[0]) or (os.strerror(number) if number > 0 else "no reason given")
            raise RuntimeFailed(f"criu failed: type {NAMES[kind]} errno {number}: {text}", stage="criu", errno=number)
        return answer

    def _notify(self, answer: Fields, fds: list[int], listener: Listener | None) -> None:
        notice = parse(bytes(answer[5][0])) if 5 in answer else {}
        if listener is not None:
            listener(_text(notice.get(1, [b""])[0]), int(notice.get(2, [0])[0]), fds)
        self._socket.send(message([(1, NOTIFY), (3, True)]))

    def close(self) -> None:
        """End the worker and reap it. A restored process is our child by then, and lives on."""
        self._socket.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _text(value: int | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def check(binary: str) -> None:
    """RuntimeFailed if this kernel is not one that criu can work with; its last words are in the error."""
    try:
        done = subprocess.run([binary, "check"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise _absent(binary) from None
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines()
        reason, kernel = said[-1] if said else "no reason given", os.uname().release
        raise RuntimeFailed(f"criu cannot checkpoint or restore with this kernel ({kernel}): {reason}", stage="criu", errno=0)


def _absent(binary: str) -> RuntimeFailed:
    detail = f"{binary} is not installed; install the package criu, or name the program with --criu"
    return RuntimeFailed(detail, stage="criu", errno=2)
