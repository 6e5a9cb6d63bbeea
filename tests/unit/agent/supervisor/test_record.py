from __future__ import annotations

import os
from pathlib import Path

from agent.supervisor import durable
from agent.supervisor.record import CREATED, EXITED, RESTARTING, RUNNING, Record


def running(directory: Path) -> Record:
    record = Record(str(directory), {"id": "c1"})
    record.begun(4321, 99)
    record.state = RUNNING
    record.save()
    return record


def test_a_record_comes_back(tmp_path: Path) -> None:
    record = running(tmp_path)
    record.restart_count, record.backoff = 3, 0.8
    record.save()
    loaded = Record.load(str(tmp_path))
    assert loaded is not None
    assert loaded.public() == record.public()
    assert (loaded.backoff, loaded.boot_id, loaded.undecided) == (0.8, record.boot_id, False)


def test_the_exit_file_is_the_truth_after_a_kill(tmp_path: Path) -> None:
    """Killed after the exit was stored and before anything followed from it."""
    record = running(tmp_path)
    state = (tmp_path / "state.json").read_bytes()
    record.write_exit(137, 9, True)
    (tmp_path / "state.json").write_bytes(state)
    loaded = Record.load(str(tmp_path))
    assert loaded is not None
    assert (loaded.state, loaded.pid, loaded.exit_code, loaded.signal, loaded.exit_known) == (EXITED, 0, 137, 9, True)
    assert loaded.undecided


def test_an_exit_of_an_earlier_run_is_not_this_runs(tmp_path: Path) -> None:
    """Killed between the new pid and the removal of the old exit."""
    record = running(tmp_path)
    record.write_exit(1, None, True)
    old = (tmp_path / "exit").read_bytes()
    record.begun(5000, 120)
    record.state = RUNNING
    record.save()
    (tmp_path / "exit").write_bytes(old)
    loaded = Record.load(str(tmp_path))
    assert loaded is not None
    assert (loaded.state, loaded.pid) == (RUNNING, 5000)


def test_a_pending_restart_stays_one(tmp_path: Path) -> None:
    record = running(tmp_path)
    record.write_exit(1, None, True)
    record.state = RESTARTING
    record.save()
    loaded = Record.load(str(tmp_path))
    assert loaded is not None
    assert (loaded.state, loaded.undecided) == (RESTARTING, False)


def test_half_a_creation_has_no_record(tmp_path: Path) -> None:
    assert Record.load(str(tmp_path)) is None


def test_unknown_keys_of_a_newer_version_are_no_harm(tmp_path: Path) -> None:
    durable.write(str(tmp_path / "state.json"), {"id": "c1", "from_the_future": 1})
    loaded = Record.load(str(tmp_path))
    assert loaded is not None
    assert (loaded.id, loaded.state) == ("c1", CREATED)


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
