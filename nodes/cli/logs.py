"""`logs` of containers and services."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from controlplane.cli.session import Failure, Session
from nodes.cli.quantities import parse_moment
from nodes.cli.streaming import STDERR, Ended, Output, Stream, open_stream
from nodes.cli.terminal import write_all

COLOURS = 6


def arguments(*, follow: bool, tail: str, since: str, until: str, timestamps: bool) -> dict[str, Any]:
    """LogArgs of nodes.actions.tickets. Raises Failure."""
    if tail != "all" and not tail.isdigit():
        raise Failure(f"--tail takes a number of lines or all, not {tail!r}.", 2)
    now = time.time()
    args: dict[str, Any] = {"follow": follow, "tail": -1 if tail == "all" else int(tail), "timestamps": timestamps}
    args |= {"since": parse_moment(since, now)} if since else {}
    args |= {"until": parse_moment(until, now)} if until else {}
    return args


class Printer:
    """Whole lines of many containers, each with its container's name before it; bytes of a single one pass through."""

    def __init__(self, stream: Stream, *, prefix: bool, as_json: bool) -> None:
        self._stream = stream
        self._prefix = prefix
        self._as_json = as_json
        self._colour = prefix and not as_json and sys.stdout.isatty()
        self._parts: dict[tuple[int, int], bytes] = {}

    def take(self, item: Output) -> None:
        if not self._prefix and not self._as_json:
            write_all(2 if item.channel == STDERR else 1, item.payload)
            return
        key = (item.channel, item.source)
        *lines, rest = (self._parts.get(key, b"") + item.payload).split(b"\n")
        self._parts[key] = rest
        for line in lines:
            self._line(key, line)

    def close(self) -> None:
        """The last lines, which no newline ended."""
        for key, rest in self._parts.items():
            if rest:
                self._line(key, rest)

    def _line(self, key: tuple[int, int], line: bytes) -> None:
        channel, source = key
        name = self._stream.sources.get(source, "")
        if self._as_json:
            entry = {
                "source": name,
                "stream": "stderr" if channel == STDERR else "stdout",
                "text": line.decode("utf-8", "replace"),
            }
            write_all(1, json.dumps(entry).encode() + b"\n")
            return
        width = max(map(len, self._stream.sources.values()), default=0)
        head = f"{name:{width}} | "
        if self._colour:
            head = f"\x1b[3{1 + source % COLOURS}m{head}\x1b[0m"
        write_all(2 if channel == STDERR else 1, head.encode() + line + b"\n")


def print_logs(session: Session, args: dict[str, Any], *, container: str = "", service: str = "") -> None:
    """Until the log ends: with `follow` when the container has, or never for a service."""
    with open_stream(session, "logs", args, container=container, service=service) as stream:
        printer = Printer(stream, prefix=bool(service), as_json=session.as_json)
        for item in stream.items():
            if isinstance(item, Output):
                printer.take(item)
            elif isinstance(item, Ended) and item.error:
                raise Failure(item.error)
        printer.close()
