"""The agent as store of descriptors: duplicates that let a new supervisor take over what a killed one held.

pidfds (an exit status can be asked of a pidfd even after the process was reaped, but only of one opened before), console masters,
inputs, and the FIFOs (whose unread bytes live as long as somebody holds them open).
"""

from __future__ import annotations

import os
from typing import Any


class Store:
    """By container; one run's descriptors replace the run's before."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, int, dict[str, int]]] = {}

    def keep(self, held: dict[str, Any], fds: list[int]) -> None:
        """Take what a `hold` message brought."""
        self.drop(held["id"])
        self._kept[held["id"]] = (held["pid"], held["start_time"], dict(zip(held["kinds"], fds, strict=True)))

    def drop(self, id_: str) -> None:
        """The process has ended, and the supervisor has stored how."""
        for fd in self._kept.pop(id_, (0, 0, {}))[2].values():
            os.close(fd)

    def settle(self, event: dict[str, Any]) -> None:
        """Let go of what an event shows to be over: only of the run that it speaks of."""
        kept = self._kept.get(event["id"])
        if kept is not None and (event["kind"] == "delete" or (event["kind"] == "exit" and event["container"]["pid"] != kept[0])):
            self.drop(event["id"])

    def gifts(self) -> list[tuple[dict[str, Any], list[int]]]:
        """`give` messages for a new supervisor, with their descriptors (which stay ours)."""
        return [
            ({"op": "give", "id": id_, "pid": pid, "start_time": start_time, "kinds": list(kinds)}, list(kinds.values()))
            for id_, (pid, start_time, kinds) in self._kept.items()
        ]

    def close(self) -> None:
        for id_ in list(self._kept):
            self.drop(id_)
