from __future__ import annotations

import os
from pathlib import Path

from agent.supervisor import durable
from agent.supervisor.ledger import Ledger
from agent.supervisor.record import CREATED, EXITED, RESTARTING, RUNNING, Record, boot_id


def ledger(directory: Path) -> Ledger:
    return Ledger(str(directory), lambda _seconds, _call: None)


def made(directory: Path, book: Ledger) -> Record:
    """A record whose container was created, but has no process yet."""
    (directory / "c1").mkdir()
    record = Record(str(directory / "c1"), {"id": "c1", "created_at": 7}, book)
    record.save(sync=True)
    return record


def running(directory: Path, book: Ledger) -> Record:
    record = made(directory, book)
    record.begun(4321, 99)
    record.state = RUNNING
    record.save()
    return record


def loaded(directory: Path) -> Record:
    """By another supervisor."""
    book = ledger(directory)
    places = book.newest()
    record = Record.load(str(directory / "c1"), book, book.read(places["c1"]) if "c1" in places else None)
    assert record is not None
    return record


def test_a_record_comes_back(tmp_path: Path) -> None:
    record = running(tmp_path, ledger(tmp_path))
    record.restart_count, record.backoff = 3, 0.8
    record.save()
    found = loaded(tmp_path)
    assert found.public() == record.public()
    assert (found.backoff, found.boot_id, found.undecided) == (0.8, record.boot_id, False)
    assert sorted(os.listdir(tmp_path / "c1")) == ["state.json"]  # of its creation: nothing is written there later


def test_an_end_is_on_record(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    record = running(tmp_path, book)
    record.ended(137, 9, True)
    record.enlist()
    book.commit()
    found = loaded(tmp_path)
    assert (found.state, found.pid, found.exit_code, found.signal, found.exit_known) == (EXITED, 0, 137, 9, True)


def test_an_end_that_was_not_committed_is_still_to_be_found(tmp_path: Path) -> None:
    record = running(tmp_path, ledger(tmp_path))
    record.ended(137, 9, True)
    record.enlist()
    found = loaded(tmp_path)
    assert (found.state, found.pid, found.exit_known) == (RUNNING, 4321, False)


def test_a_next_run_has_no_end(tmp_path: Path) -> None:
    record = running(tmp_path, ledger(tmp_path))
    record.write_exit(1, None, True)
    record.begun(5000, 120)
    record.exit_code, record.exit_known, record.state = None, False, RUNNING
    record.save()
    found = loaded(tmp_path)
    assert (found.state, found.pid, found.exit_code, found.exit_known) == (RUNNING, 5000, None, False)


def test_a_pending_restart_stays_one(tmp_path: Path) -> None:
    record = running(tmp_path, ledger(tmp_path))
    record.write_exit(1, None, True)
    record.state = RESTARTING
    record.save()
    found = loaded(tmp_path)
    assert (found.state, found.undecided) == (RESTARTING, False)


def test_another_container_of_the_same_name_begins_anew(tmp_path: Path) -> None:
    """Deleted, and made again; then the supervisor was killed before the ledger said anything of the new one."""
    book = ledger(tmp_path)
    running(tmp_path, book).write_exit(1, None, True)
    durable.remove_tree(str(tmp_path / "c1"))
    (tmp_path / "c1").mkdir()
    Record(str(tmp_path / "c1"), {"id": "c1", "created_at": 8}, book).save(sync=True)
    found = loaded(tmp_path)
    assert (found.state, found.created_at, found.exit_code) == (CREATED, 8, None)


def old(directory: Path, *, pid: int = 4321, ended: int | None = None) -> None:
    """Files as the supervisor wrote them before there was a ledger."""
    (directory / "c1").mkdir()
    durable.write(str(directory / "c1" / "state.json"), {"id": "c1", "created_at": 7, "state": RUNNING})
    durable.write(str(directory / "c1" / "init.pid"), {"pid": pid, "start_time": 99, "boot_id": "b"})
    if ended is not None:
        values = {"exit_code": 137, "signal": 9, "exit_known": True, "oom_killed": True, "finished_at": 5}
        durable.write(str(directory / "c1" / "exit"), {"pid": ended, "start_time": 99, **values})


def test_files_of_the_version_before_are_read(tmp_path: Path) -> None:
    old(tmp_path)
    found = loaded(tmp_path)
    assert (found.state, found.pid, found.start_time, found.boot_id, found.undecided) == (RUNNING, 4321, 99, "b", False)


def test_an_exit_file_of_the_version_before_is_the_truth(tmp_path: Path) -> None:
    """Killed after the exit was stored and before anything followed from it."""
    old(tmp_path, ended=4321)
    found = loaded(tmp_path)
    assert (found.state, found.pid, found.exit_code, found.signal, found.exit_known) == (EXITED, 0, 137, 9, True)
    assert (found.undecided, found.oom_killed, found.finished_at) == (True, True, 5)


def test_an_exit_file_of_an_earlier_run_is_not_this_runs(tmp_path: Path) -> None:
    old(tmp_path, pid=5000, ended=4321)
    found = loaded(tmp_path)
    assert (found.state, found.pid) == (RUNNING, 5000)


def test_old_files_that_a_power_cut_emptied_are_no_harm(tmp_path: Path) -> None:
    old(tmp_path, ended=4321)
    (tmp_path / "c1" / "init.pid").write_bytes(b"")
    found = loaded(tmp_path)
    assert (found.state, found.pid, found.exit_known) == (RUNNING, 0, False)


def test_what_the_ledger_says_is_newer_than_old_files(tmp_path: Path) -> None:
    old(tmp_path, ended=4321)
    record = loaded(tmp_path)
    record.begun(4321, 99)
    record.state = RUNNING
    record.save()
    found = loaded(tmp_path)
    assert (found.state, found.pid, found.undecided) == (RUNNING, 4321, False)


def test_half_a_creation_has_no_record(tmp_path: Path) -> None:
    assert Record.load(str(tmp_path), ledger(tmp_path), None) is None


def test_unknown_keys_of_a_newer_version_are_no_harm(tmp_path: Path) -> None:
    durable.write(str(tmp_path / "state.json"), {"id": "c1", "created_at": 7, "from_the_future": 1})
    found = Record.load(str(tmp_path), ledger(tmp_path), {"id": "c1", "created_at": 7, "state": RUNNING, "from_the_future": 1})
    assert found is not None
    assert (found.id, found.state) == ("c1", RUNNING)


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    assert durable.read(path) is None
    durable.write(path, {"a": 1})
    durable.write(path, {"a": 2}, sync=False)
    assert durable.read(path) == {"a": 2}
    assert os.listdir(tmp_path) == ["x"]
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_tree_is_removed_without_following_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "link").symlink_to(outside)
    os.mkfifo(tree / "fifo")
    durable.remove_tree(str(tree))
    durable.remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "kept").exists()


def test_the_mark_of_a_half_made_container_goes_with_its_first_process(tmp_path: Path) -> None:
    """Also from state.json: without the ledger, nobody may take it for half made and remove it."""
    book = ledger(tmp_path)
    (tmp_path / "c1").mkdir()
    record = Record(str(tmp_path / "c1"), {"id": "c1", "created_at": 7, "making": boot_id()}, book)
    record.save(sync=True)
    assert loaded(tmp_path).making == boot_id()
    record.begun(4321, 99)
    assert loaded(tmp_path).making == ""
    (tmp_path / ".ledger").unlink()
    assert loaded(tmp_path).making.strip() == ""
