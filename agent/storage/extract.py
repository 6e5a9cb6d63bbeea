"""Start the extraction helper, hand it an archive and a directory, and judge its answer."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO, Any, Final

import agent
from agent.storage.devices import Device
from agent.storage.errors import DigestMismatch, ExtractionFailed, from_dict
from agent.storage.helper import ISOLATED, NOT_ISOLATED
from agent.storage.limits import Limits, Rights

_HOME: Final = os.path.dirname(os.path.abspath(agent.__path__[0]))
_PROGRAM: Final = f"import sys; sys.path.insert(0, {_HOME!r}); from agent.storage.helper import main; main()"
_MAX_ANSWER: Final = 256 << 20
# Identity: the helper may restore every owner, and yet holds no right over anything but through ordinary file permissions.
_IDENTITY: Final = b"0 0 4294967295\n"


@dataclass(frozen=True, slots=True)
class Extracted:
    """What came out. Digests as "algorithm:hex"; `size` sums the files, `tar_size` is the plain archive's length.

    `devices` are fifos as yet: `devices.make` is for the caller, who has the right to it.
    """

    compressed: str
    diff_id: str
    tar_size: int
    size: int
    entries: int
    root_seen: bool
    opaque: tuple[bytes, ...]
    implicit: tuple[bytes, ...]
    devices: tuple[Device, ...]


def extract(
    source: IO[bytes],
    root: str,
    *,
    limits: Limits,
    rights: Rights,
    merged: bool,
    compressed: str | None = None,
) -> Extracted:
    """Unpack the archive that `source` holds from its current position into the directory `root`. Blocking.

    `compressed` is the digest that the bytes as stored must have. Raises `LayerInvalid`, `LayerTooLarge`, `DigestMismatch`,
    `NoSpace`, `ExtractionFailed`; the directory then holds rubbish that the caller removes.
    """
    algorithm = compressed.partition(":")[0] if compressed else "sha256"
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    go_read, go_write = os.pipe()
    config = {
        "limits": dataclasses.asdict(limits),
        "rights": dataclasses.asdict(rights),
        "merged": merged,
        "algorithm": algorithm,
        "root_fd": root_fd,
        "go_fd": go_read,
    }
    stdin, pump = _input(source)
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, json.dumps(config)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(root_fd, go_read),
            env={"LC_ALL": "C.UTF-8"},
            cwd="/",
        )
    finally:
        os.close(stdin)
        os.close(root_fd)
        os.close(go_read)
    try:
        answer = _converse(child, go_write, pump, limits.seconds)
    finally:
        child.kill()
        child.wait()
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()
    return _judge(answer, compressed)


class _Pump(threading.Thread):
    """Feeds a source that is no file of its own (a socket, a decoded stream) into the helper's input."""

    def __init__(self, source: IO[bytes], fd: int) -> None:
        super().__init__(name="layer-pump", daemon=True)
        self._source = source
        self._fd = fd
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with os.fdopen(self._fd, "wb", buffering=0) as target:
                while data := self._source.read(1 << 20):
                    view = memoryview(data)
                    while view:
                        view = view[target.write(view) :]
        except BrokenPipeError:
            pass  # the helper gave up first and says why itself
        except Exception as error:  # noqa: BLE001  # carried over to the thread that waits for the result
            self.error = error


def _input(source: IO[bytes]) -> tuple[int, _Pump | None]:
    try:
        fd = os.dup(source.fileno())
    except (OSError, io.UnsupportedOperation, AttributeError):
        read_end, write_end = os.pipe()
        pump = _Pump(source, write_end)
        return read_end, pump
    if source.seekable():
        os.lseek(fd, source.tell(), os.SEEK_SET)  # a buffered reader's own position is what the caller means
    return fd, None


def _converse(child: subprocess.Popen[bytes], go_fd: int, pump: _Pump | None, seconds: int) -> dict[str, Any]:
    stdout = child.stdout
    if stdout is None:
        raise ExtractionFailed("the extraction helper has no output")
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        child.send_signal(signal.SIGKILL)

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    if pump:
        pump.start()
    try:
        with os.fdopen(go_fd, "wb", buffering=0) as go:
            state = stdout.readline(64)
            if state == ISOLATED:
                _map_ids(child.pid)
            if state in (ISOLATED, NOT_ISOLATED):
                go.write(b"+")
        text = stdout.read(_MAX_ANSWER)
    finally:
        timer.cancel()
        timer.join()
    if expired.is_set():
        raise ExtractionFailed(f"the layer was not unpacked within {seconds} s")
    if pump:
        pump.join()
        if pump.error:
            raise pump.error
    return _parse(text, child)


def _map_ids(pid: int) -> None:
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
            file.write(_IDENTITY)


def _parse(text: bytes, child: subprocess.Popen[bytes]) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        trace = child.stderr.read(4000).decode("utf-8", "replace").strip() if child.stderr else ""
        reason = trace.splitlines()[-1] if trace else f"wait status {child.wait(timeout=10)}"
        raise ExtractionFailed(f"the extraction helper died: {reason}") from None
    if not isinstance(answer, dict):
        raise ExtractionFailed("the extraction helper's answer is not an object")
    if "error" in answer:
        raise from_dict(answer["error"])
    return answer


def _judge(answer: dict[str, Any], compressed: str | None) -> Extracted:
    if compressed and answer["compressed"] != compressed:
        raise DigestMismatch(f"the layer's bytes have digest {answer['compressed']}, not {compressed} as promised")
    return Extracted(
        compressed=str(answer["compressed"]),
        diff_id=str(answer["diff_id"]),
        tar_size=int(answer["tar_size"]),
        size=int(answer["size"]),
        entries=int(answer["entries"]),
        root_seen=bool(answer["root_seen"]),
        opaque=tuple(str(path).encode("latin-1") for path in answer["opaque"]),
        implicit=tuple(str(path).encode("latin-1") for path in answer["implicit"]),
        devices=tuple(Device.parse(item) for item in answer["devices"]),
    )
