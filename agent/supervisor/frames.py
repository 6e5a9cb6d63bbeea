"""How a log entry looks on disk.

json-file  {"log": "…\\n", "stream": "stdout", "time": RFC 3339 with nanoseconds} a line: Docker's. Bytes that are not UTF-8
           become lone surrogates U+DC80..U+DCFF (Python's surrogateescape), so a reader that encodes `log` with ("utf-8",
           "surrogateescape") gets the container's bytes back exactly; Docker's own readers show U+FFFD, as with Docker's logs.
local      unix ns (8 bytes, big endian), length * 2 + stream (4 bytes; 1 = stderr), the line, its length again (4 bytes).
           The last field lets a writer find out whether the file ends in a whole entry.

A line without a newline at its end goes on in the next entry of its stream.
"""

from __future__ import annotations

import os
import struct
import time

from agent.supervisor import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

JSON, LOCAL = "json.log", "local.log"  # names of the files
HEAD = struct.Struct(">QI")
FOOT = struct.Struct(">I")
LONGEST = 1 << 20  # bytes of an entry; a length above is damage


def json_framer(attributes: Mapping[str, str]) -> Callable[[str, list[bytes]], Iterator[bytes]]:
    """A function from (stream, lines) to entries. `attributes`: labels and variables that the user wants beside each line."""
    attrs = f',"attrs":{jsontext.dumps(attributes).decode()}' if attributes else ""

    def frames(stream: str, lines: list[bytes]) -> Iterator[bytes]:
        tail = f',"stream":"{stream}"{attrs},"time":"{now()}"}}\n'
        for line in lines:
            yield ('{"log":' + jsontext.quote(line.decode("utf-8", "surrogateescape")) + tail).encode("ascii")

    return frames


def local_frames(stream: str, lines: list[bytes]) -> Iterator[bytes]:
    at, mark = time.time_ns(), stream == "stderr"
    for line in lines:
        yield b"%b%b%b" % (HEAD.pack(at, len(line) << 1 | mark), line, FOOT.pack(len(line)))


def read_local(data: bytes) -> tuple[list[tuple[int, str, bytes]], int]:
    """([(unix ns, stream, line)…], bytes taken) of the whole entries that `data` begins with."""
    found: list[tuple[int, str, bytes]] = []
    at = 0
    while at + HEAD.size <= len(data):
        moment, mark = HEAD.unpack_from(data, at)
        length = mark >> 1
        end = at + HEAD.size + length + FOOT.size
        if length > LONGEST or end > len(data):
            break
        found.append((moment, "stderr" if mark & 1 else "stdout", data[at + HEAD.size : end - FOOT.size]))
        at = end
    return found, at


def whole_size(fd: int, size: int) -> int:
    """How much of a `local` file is whole entries: all of it, unless a power loss tore the last one."""
    if _ends_whole(fd, size):
        return size
    at = 0
    while at + HEAD.size <= size:
        length = HEAD.unpack(os.pread(fd, HEAD.size, at))[1] >> 1
        end = at + HEAD.size + length + FOOT.size
        if length > LONGEST or end > size:
            break
        at = end
    return at


def _ends_whole(fd: int, size: int) -> bool:
    if size < HEAD.size + FOOT.size:
        return size == 0
    length: int = FOOT.unpack(os.pread(fd, FOOT.size, size - FOOT.size))[0]
    start = size - FOOT.size - length - HEAD.size
    mark: Any = HEAD.unpack(os.pread(fd, HEAD.size, start))[1] if start >= 0 and length <= LONGEST else -1
    return bool(mark >= 0 and mark >> 1 == length)


_second = (-1, "")  # the last second formatted


def now() -> str:
    """UTC now, RFC 3339 with nine digits."""
    return rfc3339(time.time_ns())


def rfc3339(nanoseconds: int) -> str:
    """Of unix nanoseconds: UTC with nine digits."""
    global _second
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    if seconds != _second[0]:
        _second = (seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)))
    return f"{_second[1]}.{nanos:09d}Z"
