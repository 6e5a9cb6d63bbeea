"""The node's desired set, persisted before it is acted on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from agent.protocol import messages as m
from agent.protocol.codec import decode, encode
from agent.protocol.spec import NetworkSpec
from agent.sys.files import write_durable

log = logging.getLogger(__name__)


class Assignments:
    """Tasks and networks this node should have, with the revision and epoch they came under.

    The file is written (tmp, fsync, rename, fsync directory) before a caller sees the new set. Orders below the highest epoch
    ever seen are refused (reliability: a stale control-plane process must change nothing).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.epoch = 0
        self.rev = 0
        self.tasks: dict[str, m.TaskAssignment] = {}
        self.networks: tuple[NetworkSpec, ...] = ()
        if path.exists():
            self._load(json.loads(path.read_text()))

    def _load(self, data: dict[str, Any]) -> None:
        stored = decode(m.AssignmentsFull, data, unknown="ignore")
        self.epoch, self.rev, self.networks = stored.epoch, stored.rev, stored.networks
        self.tasks = {task.task_id: task for task in stored.tasks}

    def observe_epoch(self, epoch: int) -> bool:
        """Note the epoch of a welcome; False when it is below one already seen."""
        if epoch < self.epoch:
            return False
        if epoch > self.epoch:
            self.epoch = epoch
            self._store()
        return True

    def replace(self, message: m.AssignmentsFull) -> bool:
        """Take a whole set; False when it is of a stale epoch."""
        if message.epoch < self.epoch:
            log.warning("refused an assignment set of epoch %d, the highest seen is %d", message.epoch, self.epoch)
            return False
        self.epoch, self.rev, self.networks = message.epoch, message.rev, message.networks
        self.tasks = {task.task_id: task for task in message.tasks}
        self._store()
        return True

    def change(self, message: m.AssignmentsDelta) -> bool:
        """Apply a delta; False when its base is not what is held (the caller asks for the whole set) or its epoch is stale."""
        if message.epoch < self.epoch or message.base != self.rev:
            return False
        for task_id in message.drop:
            self.tasks.pop(task_id, None)
        for task in message.put:
            self.tasks[task.task_id] = task
        self.epoch, self.rev = message.epoch, message.rev
        self.networks = message.networks or self.networks
        self._store()
        return True

    def _store(self) -> None:
        full = m.AssignmentsFull(self.epoch, self.rev, tuple(self.tasks.values()), self.networks)
        write_durable(self._path, json.dumps(encode(full)).encode())
