"""The format of driver local: whole entries, also after a power loss; rotation and compression of both formats."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.protocol.logoptions import LogSettings
from agent.supervisor import frames
from agent.supervisor.compressor import UNFINISHED, Compressor
from agent.supervisor.logfile import LogFile
from agent.supervisor.loop import Loop
from agent.supervisor.processes import Processes

DEADLINE = 20.0  # s


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def local(directory: Path, **options: object) -> LogFile:
    return LogFile(str(directory), LogSettings({"driver": "local", **options}))


def test_entries_come_back_byte_for_byte(tmp_path: Path) -> None:
    log = local(tmp_path)
    log.write("stdout", [b"one\n", b"\xff\x00\n"])
    log.write("stderr", [b"", b"part"])
    log.close()
    data = (tmp_path / "local.log").read_bytes()
    entries, taken = frames.read_local(data)
    assert [(stream, line) for _, stream, line in entries] == [
        ("stdout", b"one\n"),
        ("stdout", b"\xff\x00\n"),
        ("stderr", b""),
        ("stderr", b"part"),
    ]
    assert taken == len(data)
    assert abs(entries[0][0] / 1e9 - time.time()) < 60
    assert frames.read_local(data[:-1])[1] == len(data) - len(b"part") - 16  # an unfinished entry is left for later


@pytest.mark.parametrize("cut", [1, 5, 17, 22])
def test_what_a_power_loss_tore_is_cut_off(tmp_path: Path, cut: int) -> None:
    log = local(tmp_path)
    log.write("stdout", [b"one\n", b"two\n", b"three\n"])
    log.close()
    path = tmp_path / "local.log"
    os.truncate(path, path.stat().st_size - cut)
    log = local(tmp_path)
    log.write("stdout", [b"four\n"])
    log.close()
    entries, taken = frames.read_local(path.read_bytes())
    assert [line for _, _, line in entries] == [b"one\n", b"two\n", b"four\n"]
    assert taken == path.stat().st_size


def test_labels_stand_beside_the_line(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path), LogSettings({"attributes": {"team": 'a"b'}}))
    log.write("stdout", [b"x\n"])
    log.close()
    entry = json.loads((tmp_path / "json.log").read_text())
    assert entry["attrs"] == {"team": 'a"b'}
    assert list(entry) == ["log", "stream", "attrs", "time"]


@pytest.mark.parametrize(("driver", "base"), [("json-file", "json.log"), ("local", "local.log")])
def test_rotated_files_are_compressed(tmp_path: Path, loop: Loop, driver: str, base: str) -> None:
    compressor = Compressor(loop, Processes(loop))
    settings = LogSettings({"driver": driver, "max-size": 2000, "max-file": 4, "compress": True})
    log = LogFile(str(tmp_path), settings, compressor.want)
    (tmp_path / (base + UNFINISHED)).write_bytes(b"of a supervisor that was killed")
    numbers = iter(range(1000))

    def write() -> None:
        for _ in range(20):
            log.write("stdout", [b"%d\n" % next(numbers)])

    expected = {base, *(f"{base}.{number}.gz" for number in (1, 2, 3))}
    deadline = time.monotonic() + DEADLINE

    def look() -> None:
        if set(os.listdir(tmp_path)) == expected or time.monotonic() > deadline:
            loop.stop()
            return
        if not compressor.busy:
            write()
        loop.later(0.002, look)

    loop.later(0, look)
    loop.run()
    log.close()
    assert set(os.listdir(tmp_path)) == expected
    lines: list[bytes] = []
    for name in sorted(expected, reverse=True):
        data = (tmp_path / name).read_bytes()
        data = gzip.decompress(data) if name.endswith(".gz") else data
        if driver == "local":
            lines += [line for _, _, line in frames.read_local(data)[0]]
        else:
            lines += [json.loads(line)["log"].encode() for line in data.splitlines()]
    written = [int(line) for line in lines]
    assert written == list(range(written[0], written[-1] + 1))
    assert written[-1] == next(numbers) - 1


def test_an_end_of_the_helper_leaves_the_file_as_it_is(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.supervisor.compressor._compress", lambda _source, _target: os._exit(3))
    (tmp_path / "json.log.1").write_text("kept")
    compressor = Compressor(loop, Processes(loop))
    compressor.want(str(tmp_path / "json.log"))
    deadline = time.monotonic() + DEADLINE

    def look() -> None:
        if not compressor.busy or time.monotonic() > deadline:
            loop.stop()
            return
        loop.later(0.002, look)

    loop.later(0.002, look)
    loop.run()
    assert not compressor.busy
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"json.log.1": "kept"}
