"""The file of all containers' changes: what is read after a kill, after a power cut, on a full and on a broken disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.supervisor import ledger as ledger_module
from agent.supervisor.ledger import FILE, SMALLEST, Ledger


class Later:
    """What the ledger asked its loop to call."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def __call__(self, _seconds: float, call: Callable[[], None]) -> None:
        self.calls.append(call)


def opened(directory: Path, *present: str) -> Ledger:
    for name in present:
        (directory / name).mkdir(exist_ok=True)
    return Ledger(str(directory), Later())


def contents(directory: Path) -> dict[str, dict[str, Any]]:
    """What another supervisor finds."""
    ledger = Ledger(str(directory), Later())
    try:
        return {id_: ledger.read(place) for id_, place in ledger.newest().items()}
    finally:
        ledger.close()


def test_the_newest_entry_counts(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.append("c1", {"state": "running"})
    ledger.append("c2", {"state": "running", "text": "a b\nc"})
    ledger.append("c1", {"state": "exited"})
    found = contents(tmp_path)
    assert found == {"c1": {"id": "c1", "state": "exited"}, "c2": {"id": "c2", "state": "running", "text": "a b\nc"}}
    assert list(found) == ["c1", "c2"]


def test_another_supervisor_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    for number in range(5):
        ledger = opened(tmp_path)
        ledger.newest()
        ledger.append(f"c{number}", {"n": number})
        ledger.close()
    assert {id_: values["n"] for id_, values in contents(tmp_path).items()} == {f"c{n}": n for n in range(5)}
    assert os.stat(tmp_path / FILE).st_size == SMALLEST


def test_what_is_enlisted_comes_with_the_commit_and_with_one_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened(tmp_path)
    ledger.newest()
    waits: list[int] = []
    monkeypatch.setattr(ledger_module.os, "fdatasync", waits.append)
    for number in range(200):
        ledger.enlist(f"c{number}", {"exit_code": number})
    assert contents(tmp_path) == {}
    ledger.commit()
    assert len(contents(tmp_path)) == 200
    ledger.commit()  # nothing is enlisted now
    assert len(waits) == 1


def test_what_was_only_appended_is_made_durable_soon_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = Later()
    ledger = Ledger(str(tmp_path), later)
    ledger.append("c1", {})
    ledger.append("c2", {})
    waits: list[int] = []
    monkeypatch.setattr(ledger_module.os, "fdatasync", waits.append)
    (call,) = later.calls
    call()
    assert len(waits) == 1
    ledger.append("c3", {})
    assert len(later.calls) == 2


def whole(directory: Path) -> tuple[bytes, int]:
    """The file's bytes with two entries, and where the second begins."""
    ledger = opened(directory)
    ledger.append("c1", {"n": 1})
    data = (directory / FILE).read_bytes()
    begin = len(data.rstrip(b"\0"))
    ledger.append("c2", {"n": 2})
    ledger.close()
    return (directory / FILE).read_bytes(), begin


@pytest.mark.parametrize("rest", [b"\0", b"\xff"], ids=["zeros", "garbage"])
def test_a_torn_end_is_dropped(tmp_path: Path, rest: bytes) -> None:
    """A power cut leaves any part of the last entry, and anything after it."""
    data, begin = whole(tmp_path)
    end = len(data.rstrip(b"\0"))
    for cut in range(begin, end):
        (tmp_path / FILE).write_bytes(data[:cut] + rest * (end - cut) + data[end:])
        assert contents(tmp_path) == {"c1": {"id": "c1", "n": 1}}, cut
    for cut in range(begin, end):  # a file system that cut the file
        (tmp_path / FILE).write_bytes(data[:cut])
        assert contents(tmp_path) == {"c1": {"id": "c1", "n": 1}}, cut


def test_what_stood_behind_a_torn_entry_never_comes_back(tmp_path: Path) -> None:
    """The disk wrote a group's last entry and not its first; a new entry as long as the lost one takes that one's place."""
    ledger = opened(tmp_path)
    ledger.append("c1", {"n": 1})
    begin = len((tmp_path / FILE).read_bytes().rstrip(b"\0"))
    ledger.append("c2", {"n": 2})
    middle = len((tmp_path / FILE).read_bytes().rstrip(b"\0"))
    ledger.append("c3", {"n": 3})
    ledger.close()
    data = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(data[:begin] + bytes(middle - begin) + data[middle:])
    ledger = opened(tmp_path)
    ledger.newest()
    ledger.append("c4", {"n": 4})
    assert set(contents(tmp_path)) == {"c1", "c4"}


def test_a_full_file_moves_what_is_still_there(tmp_path: Path) -> None:
    ledger = opened(tmp_path, "kept", "busy")
    ledger.append("kept", {"n": 1})
    ledger.append("deleted", {"n": 2})  # it has no directory any more
    inode = os.stat(tmp_path / FILE).st_ino
    count = 0
    while os.stat(tmp_path / FILE).st_ino == inode:
        count += 1
        ledger.append("busy", {"n": count, "text": "x" * 1000})
    found = contents(tmp_path)
    assert set(found) == {"kept", "busy"}
    assert found["busy"]["n"] == count
    assert count > 200
    assert os.stat(tmp_path / FILE).st_size == SMALLEST
    assert sorted(os.listdir(tmp_path)) == [FILE, "busy", "kept"]


def test_an_entry_larger_than_the_file_gets_a_larger_file(tmp_path: Path) -> None:
    ledger = opened(tmp_path, "c1")
    ledger.append("c1", {"text": "x" * (SMALLEST + 1)})
    ledger.append("c1", {"text": "y" * SMALLEST})
    assert contents(tmp_path)["c1"]["text"] == "y" * SMALLEST
    assert os.stat(tmp_path / FILE).st_size > 4 * SMALLEST


def test_a_full_disk_keeps_no_end_from_being_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room is there; only a new file could not be made."""
    ledger = opened(tmp_path, "c1")
    ledger.newest()
    real = os.open

    def full(path: str, flags: int, *more: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, flags, *more)

    monkeypatch.setattr(ledger_module.os, "open", full)
    ledger.enlist("c1", {"exit_code": 3})
    ledger.commit()
    assert contents(tmp_path)["c1"]["exit_code"] == 3


def test_a_disk_that_gets_full_while_a_new_file_is_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = opened(tmp_path, "c1")
    ledger.append("c1", {"n": 1})
    before = (tmp_path / FILE).read_bytes()
    real, broken = os.pwrite, [True]

    def full(fd: int, data: bytes, position: int) -> int:
        if broken[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, position)

    monkeypatch.setattr(ledger_module.os, "pwrite", full)
    ledger.append("c1", {"text": "x" * SMALLEST})
    assert "No space left" in capsys.readouterr().err
    assert (tmp_path / FILE).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == [FILE, "c1"]  # half a new one would take room
    broken[0] = False
    ledger.append("c1", {"n": 3})
    assert contents(tmp_path) == {"c1": {"id": "c1", "n": 3}}


def test_after_a_failed_wait_for_the_disk_only_a_new_file_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernel tells a failed write once, and calls the page clean from then on."""
    ledger = opened(tmp_path, "c1", "c2")
    ledger.append("c1", {"n": 1})
    inode = os.stat(tmp_path / FILE).st_ino

    def fails(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(ledger_module.os, "fdatasync", fails)
        ledger.enlist("c1", {"n": 2})
        ledger.commit()
    assert "Input/output error" in capsys.readouterr().err
    ledger.enlist("c2", {"n": 3})
    ledger.commit()
    assert os.stat(tmp_path / FILE).st_ino != inode
    assert {id_: values["n"] for id_, values in contents(tmp_path).items()} == {"c1": 2, "c2": 3}


def test_what_could_not_be_noted_is_when_the_disk_has_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c1").mkdir()
    (tmp_path / "c2").mkdir()
    later = Later()
    ledger = Ledger(str(tmp_path), later)
    ledger.append("c2", {"n": 1})
    later.calls.pop()()

    def full(_fd: int, _data: bytes, _position: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(ledger_module.os, "pwrite", full)
        for number in (2, 3):
            ledger.enlist("c1", {"n": number})
            ledger.commit()
        later.calls.pop()()
        assert contents(tmp_path) == {"c2": {"id": "c2", "n": 1}}
    later.calls.pop()()
    assert contents(tmp_path) == {"c1": {"id": "c1", "n": 3}, "c2": {"id": "c2", "n": 1}}
    assert not later.calls


def test_a_file_of_another_kind_is_put_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FILE).write_bytes(b"something else\n")
    ledger = opened(tmp_path)
    assert ledger.newest() == {}
    assert "kept as .ledger.damaged" in capsys.readouterr().err
    assert (tmp_path / (FILE + ".damaged")).read_bytes() == b"something else\n"
    ledger.append("c1", {"n": 1})
    assert set(contents(tmp_path)) == {"c1"}
