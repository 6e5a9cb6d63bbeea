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
        # The control plane's database went back in time: kill nothing that it does not know. Persisted like the set itself, for
        # an agent that restarts without a link would kill otherwise.
        self.adopting = False
        if path.exists():
            self._load(json.loads(path.read_text()))

    def _load(self, data: dict[str, Any]) -> None:
        stored = decode(m.AssignmentsFull, data, unknown="ignore")
        self.epoch, self.rev, self.networks = stored.epoch, stored.rev, stored.networks
        self.tasks = {task.task_id: task for task in stored.tasks}
        self.adopting = bool(data.get("adopting", False))

    def observe_epoch(self, epoch: int) -> bool:
        """Note the epoch of a welcome; False when it is below one already seen."""
        if epoch < self.epoch:
            return False
        if epoch > self.epoch:
            self.epoch = epoch
            self._remember()
        return True

    def set_adopting(self, adopting: bool) -> None:
        """As the welcome says, or the end of the adoption."""
        if adopting != self.adopting:
            self.adopting = adopting
            self._remember()

    def _remember(self) -> None:
        """Write what is held. It counts now in any case: a full disk must neither end the link nor have a container killed."""
        try:
            self._store(self.epoch, self.rev, self.tasks, self.networks)
        except OSError as error:
            log.error("the epoch is not on disk yet, the next assignments bring it there: %s", error)

    def replace(self, message: m.AssignmentsFull) -> bool:
        """Take a whole set; False when it is of a stale epoch."""
        if message.epoch < self.epoch:
            log.warning("refused an assignment set of epoch %d, the highest seen is %d", message.epoch, self.epoch)
            return False
        self._take(message.epoch, message.rev, {task.task_id: task for task in message.tasks}, message.networks)
        return True

    def change(self, message: m.AssignmentsDelta) -> bool:
        """Apply a delta; False when its base is not what is held (the caller asks for the whole set) or its epoch is stale."""
        if message.epoch < self.epoch or message.base != self.rev:
            return False
        tasks = {task_id: task for task_id, task in self.tasks.items() if task_id not in message.drop}
        tasks.update({task.task_id: task for task in message.put})
        self._take(message.epoch, message.rev, tasks, message.networks or self.networks)
        return True

    def _take(self, epoch: int, rev: int, tasks: dict[str, m.TaskAssignment], networks: tuple[NetworkSpec, ...]) -> None:
        """On disk first: when that fails (OSError), what is held stays what it was, and the set is asked for again."""
        self._store(epoch, rev, tasks, networks)
        self.epoch, self.rev, self.tasks, self.networks = epoch, rev, tasks, networks

    def _store(self, epoch: int, rev: int, tasks: dict[str, m.TaskAssignment], networks: tuple[NetworkSpec, ...]) -> None:
        full = m.AssignmentsFull(epoch, rev, tuple(tasks.values()), networks)
        write_durable(self._path, json.dumps({**encode(full), "adopting": self.adopting}).encode())
