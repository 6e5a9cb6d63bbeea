"""Finished one-shot actions, kept until the control plane has acknowledged their results.

At-least-once delivery becomes exactly-once acting: an action that comes again is answered with what happened the first time. An
action that was begun but not finished when the agent died is reported as `interrupted`; it is not tried again on its own, because
nobody knows how far it came.
"""

from __future__ import annotations

import json
from pathlib import Path

from agent.protocol import messages as m
from agent.protocol.codec import decode, encode
from agent.protocol.errors import Conflict
from agent.sys.files import write_durable


class Interrupted(Conflict):
    code = "interrupted"


class Journal:
    """Files `<state>/actions/<id>.json`, each an ActionResult; until it is finished it says error.code `interrupted`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._results: dict[str, m.ActionResult] = {}
        for path in directory.glob("*.json"):
            result = decode(m.ActionResult, json.loads(path.read_text()), unknown="ignore")
            self._results[result.action_id] = result

    def find(self, action_id: str) -> m.ActionResult | None:
        return self._results.get(action_id)

    def begin(self, action: m.Action) -> None:
        error = Interrupted("the agent stopped in the middle of this action: look at the container's state, then ask again")
        self._put(m.ActionResult(action.epoch, action.action_id, ok=False, error=error.as_dict()))

    def finish(self, result: m.ActionResult) -> None:
        """Remember how it ended, in memory even when the disk refuses: only a crash then makes it `interrupted`."""
        self._results[result.action_id] = result
        self._put(result)

    def unacknowledged(self) -> list[m.ActionResult]:
        """Results to report again under a new session."""
        return list(self._results.values())

    def acknowledged(self, action_id: str) -> None:
        """The control plane has the result."""
        if self._results.pop(action_id, None) is not None:
            (self._directory / f"{action_id}.json").unlink(missing_ok=True)

    def _put(self, result: m.ActionResult) -> None:
        write_durable(self._directory / f"{result.action_id}.json", json.dumps(encode(result)).encode())
        self._results[result.action_id] = result
