"""The agent's memory on disk: what a crash at any point leaves, and what a full disk costs."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.link.journal import Journal
from agent.protocol import messages as m
from agent.protocol.codec import InvalidSpec
from agent.protocol.spec import ContainerSpec
from agent.protocol.states import TaskState
from agent.sys import files
from agent.worker.assignments import Assignments


class Killed(BaseException):
    """The process dies here: no handler of ours may catch it."""


def assignment(name: str) -> m.TaskAssignment:
    return m.TaskAssignment(name, "s", "web", 1, TaskState.RUNNING, ContainerSpec(image="web"), "web@sha256:" + "a" * 64)


def full(rev: int, *names: str, epoch: int = 1) -> m.AssignmentsFull:
    return m.AssignmentsFull(epoch, rev, tuple(assignment(name) for name in names))


@pytest.mark.parametrize("call", ["open", "fsync", "rename"])
def test_a_crash_while_assignments_are_written_leaves_the_old_set_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "assignments.json"
    Assignments(path).replace(full(1, "old"))
    assignments = Assignments(path)

    def die(*_args: Any, **_options: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(files.os, call, die)
        with pytest.raises(Killed):
            assignments.replace(full(2, "new"))
    again = Assignments(path)
    assert (again.rev, set(again.tasks)) == (1, {"old"})
    assert again.replace(full(2, "new")), "what the crash left behind is not in the way"
    assert set(Assignments(path).tasks) == {"new"}


def test_a_set_that_could_not_be_written_is_not_acted_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assignments = Assignments(tmp_path / "assignments.json")
    assignments.replace(full(1, "old"))
    with monkeypatch.context() as patched:
        patched.setattr(files, "_replace", _raise(errno.ENOSPC))
        for change in (full(2, "new"), full(1, "new", epoch=9)):
            with pytest.raises(OSError, match="No space"):
                assignments.replace(change)
        with pytest.raises(OSError, match="No space"):
            assignments.change(m.AssignmentsDelta(1, 1, 2, drop=("old",)))
    assert (assignments.epoch, assignments.rev, set(assignments.tasks)) == (1, 1, {"old"})


def test_a_welcome_counts_on_a_full_disk_too_and_is_written_with_the_next_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "assignments.json"
    assignments = Assignments(path)
    assignments.replace(full(1, "old"))
    with monkeypatch.context() as patched:
        patched.setattr(files, "_replace", _raise(errno.ENOSPC))
        assert assignments.observe_epoch(7)
        assignments.set_adopting(True)
    assert (assignments.epoch, assignments.adopting) == (7, True)
    assert not assignments.replace(full(2, "stale", epoch=6))
    assert (Assignments(path).epoch, Assignments(path).adopting) == (1, False), "the disk was full"
    assert assignments.replace(full(2, "old", epoch=7))
    assert (Assignments(path).epoch, Assignments(path).adopting) == (7, True)


def _raise(number: int) -> Callable[..., None]:
    def fail(*_args: Any, **_options: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_deltas_epochs_and_adoption_survive(tmp_path: Path) -> None:
    path = tmp_path / "assignments.json"
    assignments = Assignments(path)
    assignments.replace(full(1, "a", "b"))
    assert assignments.change(m.AssignmentsDelta(1, 1, 2, put=(assignment("c"),), drop=("a",)))
    assert not assignments.change(m.AssignmentsDelta(1, 1, 3)), "another base"
    assert assignments.observe_epoch(5)
    assert not assignments.replace(full(9, "x", epoch=4)), "a stale control-plane process"
    assert not assignments.observe_epoch(4)
    assignments.set_adopting(True)
    again = Assignments(path)
    assert (again.epoch, again.rev, set(again.tasks), again.adopting) == (5, 2, {"b", "c"}, True)


def test_ids_that_are_no_file_names_do_not_decode() -> None:
    with pytest.raises(InvalidSpec):
        assignment("../../etc/cron.d/x")
    with pytest.raises(InvalidSpec):
        m.Action(1, "a/b", "container_stop")


def test_the_journal_answers_repeats_and_tells_what_was_interrupted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    done, cut = m.Action(1, "done", "container_stop"), m.Action(1, "cut", "container_stop")
    journal.begin(done)
    journal.finish(m.ActionResult(1, "done", ok=True, result={"id": "x"}))
    journal.begin(cut)
    again = Journal(tmp_path)
    found = {result.action_id: result for result in again.unacknowledged()}
    assert (found["done"].ok, found["done"].result) == (True, {"id": "x"})
    assert found["cut"].error["code"] == "interrupted"
    again.acknowledged("done")
    again.acknowledged("cut")
    assert Journal(tmp_path).unacknowledged() == []
    assert os.listdir(tmp_path) == []


def test_a_result_that_cannot_be_written_is_still_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.begin(m.Action(1, "a1", "container_stop"))
    monkeypatch.setattr(files, "_replace", _raise(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        journal.finish(m.ActionResult(1, "a1", ok=True))
    assert journal.unacknowledged()[0].ok
    with pytest.raises(OSError, match="Input/output"):
        journal.begin(m.Action(1, "a2", "container_stop"))
    assert journal.find("a2") is None, "what is not noted is not begun"
    assert json.loads((tmp_path / "a1.json").read_text())["error"]["code"] == "interrupted"
