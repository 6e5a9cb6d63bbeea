from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.protocol.logoptions import InvalidLogOptions, LogSettings
from agent.supervisor.log import LogParts
from agent.supervisor.logfile import LogFile
from agent.supervisor.loop import Loop
from agent.supervisor.splitter import CHUNK, Splitter
from agent.supervisor.streams import Streams


def log_file(directory: Path, **options: object) -> LogFile:
    return LogFile(str(directory), LogSettings(options))


def entries(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.one_of(st.binary(max_size=300), st.just(b"\n"), st.just(b"x" * (CHUNK + 5)), st.just("ä€𝄞".encode() * 4000)),
        max_size=8,
    )
)
def test_pieces_become_lines_and_no_byte_is_lost(tmp_path: Path, pieces: list[bytes]) -> None:
    tail = tmp_path / "tail"
    tail.unlink(missing_ok=True)
    splitter = Splitter(str(tail))
    lines: list[bytes] = []
    read, write = os.pipe()
    for piece in pieces:
        os.write(write, piece)
        while piece and (batch := splitter.take(read, 4096, (1, 2))):
            lines += splitter.feed(batch)
            splitter.save()
            splitter.close()
            splitter = Splitter(str(tail))  # as after an upgrade or a kill
            if len(batch) < 4096:
                break
    lines += splitter.flush()
    splitter.close()
    os.close(read)
    os.close(write)
    assert b"".join(lines) == b"".join(pieces)
    assert all(len(line) <= CHUNK for line in lines)
    assert all(b"\n" not in line[:-1] for line in lines)


@pytest.mark.parametrize("console", [False, True], ids=["pipe", "console"])
@pytest.mark.parametrize("stage", ["taken", "half written", "written"])
def test_a_batch_cut_short_by_a_kill_is_done_again_once(tmp_path: Path, stage: str, console: bool) -> None:
    """The tail file as a kill leaves it at each point between the taking and the end of the batch."""
    loop = Loop()
    (tmp_path / "logs").mkdir()
    log = log_file(tmp_path / "logs")
    splitter = Splitter(str(tmp_path / "logs" / "stdout.tail"))
    source, feed = os.pipe()
    for data in (b"x" * 5000 + b"\none\ntw", b"o\nthree\nfo"):
        os.write(feed, data)
        assert (splitter.read if console else splitter.take)(source, 65536, log.mark()) == data
        if data.startswith(b"x"):
            log.write("stdout", splitter.feed(data))
            splitter.save()
    os.close(source)
    os.close(feed)
    if stage != "taken":
        log.write("stdout", [b"two\n"] if stage == "half written" else [b"two\n", b"three\n"])
    log.close()
    splitter.close()
    read, write = os.pipe()
    streams = Streams(LogParts(loop), str(tmp_path), {}, False, False)
    streams.read_from("stdout", read)
    os.write(write, b"ur\n")
    os.close(write)
    streams.finish()
    loop.close()
    assert [entry["log"] for entry in entries(tmp_path / "logs" / "json.log")][1:] == ["one\n", "two\n", "three\n", "four\n"]


def test_a_kill_before_anything_was_taken_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark is on disk, and what the batch before left beyond the unfinished line is not."""
    read, write = os.pipe2(os.O_NONBLOCK)
    splitter = Splitter(str(tmp_path / "tail"))
    os.write(write, b"a line\nan unfin")
    splitter.feed(splitter.take(read, 4096, (1, 2)))
    splitter.save()
    with pytest.raises(BlockingIOError):
        splitter.take(read, 4096, (1, 30))
    os.write(write, b"ished line\n")

    def killed(*_args: object) -> int:
        raise SystemExit

    monkeypatch.setattr(os, "splice", killed)
    with pytest.raises(SystemExit):
        splitter.take(read, 4096, (1, 30))
    after = Splitter(str(tmp_path / "tail"))
    assert after.interrupted == (b"an unfin", 1, 30)
    for end in (splitter, after):
        end.close()
    os.close(read)
    os.close(write)


def test_a_long_line_is_not_cut_inside_a_character(tmp_path: Path) -> None:
    splitter = Splitter(str(tmp_path / "tail"))
    lines = splitter.feed("€".encode() * 20_000 + b"\n")
    splitter.close()
    for line in lines:
        line.decode()  # raises if cut
    assert len(lines) == 4


def test_entries_are_dockers(tmp_path: Path) -> None:
    log = log_file(tmp_path)
    log.write("stderr", [b'say "hi"\t\xff\n', b"partial"])
    log.close()
    first, second = entries(tmp_path / "json.log")
    assert list(first) == ["log", "stream", "time"]
    assert first["log"].encode("utf-8", "surrogateescape") == b'say "hi"\t\xff\n'
    assert second["log"] == "partial"
    assert first["stream"] == "stderr"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", first["time"])


@pytest.mark.parametrize(("max_file", "names"), [(1, {"json.log"}), (3, {"json.log", "json.log.1", "json.log.2"})])
def test_rotation(tmp_path: Path, max_file: int, names: set[str]) -> None:
    log = log_file(tmp_path, **{"max-size": 1000, "max-file": max_file})
    for number in range(200):
        log.write("stdout", [b"%d\n" % number])
    log.close()
    assert {path.name for path in tmp_path.iterdir()} == names
    order = sorted(names, reverse=True)
    numbers = [int(entry["log"]) for name in order for entry in entries(tmp_path / name)]
    assert numbers == list(range(numbers[0], 200))
    assert all((tmp_path / name).stat().st_size < 1100 for name in names)


def test_a_reopened_log_goes_on(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        log = log_file(tmp_path)
        log.write("stdout", [text])
        log.close()
    assert [entry["log"] for entry in entries(tmp_path / "json.log")] == ["one\n", "two\n"]


def test_a_full_disk_is_counted_and_not_raised(tmp_path: Path) -> None:
    (tmp_path / "json.log").symlink_to("/dev/full")
    log = log_file(tmp_path, **{"max-size": 0})
    log.write("stdout", [b"lost\n"])
    log.write("stdout", [b"lost too\n"])
    assert log.dropped > 0
    assert log.fault == "No space left on device"
    log.close()


@pytest.mark.parametrize(
    "options", [{"driver": "fluentd"}, {"max-size": "10 apples"}, {"max-size": -2}, {"max-file": 0}, {"max-file": True}]
)
def test_options_that_cannot_work(options: dict[str, object]) -> None:
    with pytest.raises(InvalidLogOptions):
        LogSettings(options)
