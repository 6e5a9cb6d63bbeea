"""How far each task has come, persisted so that a restarted agent goes on where the last one was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agent.protocol.codec import decode, encode
from agent.protocol.messages import TaskStatus
from agent.protocol.states import TaskState
from agent.sys.files import sync_directory, write_durable


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One file `<state>/tasks/<task id>.json`. `boot_id` tells tasks of an earlier boot: their processes are dead."""

    status: TaskStatus
    boot_id: str
    image_id: str = ""

    @property
    def observed(self) -> TaskState:
        return self.status.observed

    def advance(self, observed: TaskState, at: float, **changes: object) -> TaskRecord:
        """A copy that reached `observed`. States only grow: going back is a bug of the caller."""
        if observed < self.observed:
            raise ValueError(f"task {self.status.task_id}: {observed.name} after {self.observed.name}")
        return replace(self, status=replace(self.status, observed=observed, at=at, **changes))  # type: ignore[arg-type]  # TaskStatus fields


class TaskRecords:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._records: dict[str, TaskRecord] = {}
        for path in directory.glob("*.json"):
            self._records[path.stem] = decode(TaskRecord, json.loads(path.read_text()), unknown="ignore")

    def get(self, task_id: str) -> TaskRecord | None:
        return self._records.get(task_id)

    def put(self, record: TaskRecord) -> None:
        task_id = record.status.task_id
        write_durable(self._directory / f"{task_id}.json", json.dumps(encode(record)).encode())
        self._records[task_id] = record

    def forget(self, task_id: str) -> None:
        if self._records.pop(task_id, None) is not None:
            (self._directory / f"{task_id}.json").unlink(missing_ok=True)
            sync_directory(str(self._directory))

    def __iter__(self) -> Iterator[TaskRecord]:
        return iter(list(self._records.values()))
