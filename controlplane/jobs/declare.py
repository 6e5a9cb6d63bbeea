"""The decorator that declares a kind of job, and the register of all kinds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.protocol.errors import InvalidInput
from controlplane.api import guests

Function = Callable[..., Any]
SLOTS = "slots"  # the capacity that every job takes one of


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of job.

    operation: what an actor must hold to run it by hand ("" = nobody can: only code and schedules make it).
    max_attempts: attempts that may fail or be lost before the job is given up. backoff: seconds before the second attempt,
    doubled each time.
    capacity: what a worker must have free, for example {"gc": 1}. lease: seconds without a sign of life before the job is
    taken back.
    single: at most one of its jobs runs in the whole cluster.
    process: run in a process group of its own, which a cancel ends by SIGTERM and, after stop_timeout seconds, by SIGKILL.
    quiet: its failures are no events (it runs every few seconds, or tests the machinery).
    """

    name: str
    function: Function
    operation: str = ""
    max_attempts: int = 4
    backoff: float = 5.0
    capacity: Mapping[str, int] = field(default_factory=dict)
    lease: float = 15.0
    single: bool = False
    process: bool = False
    stop_timeout: float = 10.0
    quiet: bool = False

    @property
    def needs(self) -> dict[str, int]:
        """All it takes of a worker's capacity."""
        return {SLOTS: 1, **self.capacity}

    def check_payload(self, payload: Mapping[str, Any]) -> None:
        """Raises InvalidInput when the function does not take `payload`."""
        try:
            inspect.signature(self.function).bind(None, **payload)
        except TypeError as error:
            raise InvalidInput(f"A job {self.name} does not take this payload: {error}.") from None


@dataclass(frozen=True, slots=True)
class Schedule:
    """A cron row that makes jobs. `cron` has 6 fields, seconds first, UTC: "57 54 3 * * *" is 03:54:57. `name`: the kind."""

    kind: str
    cron: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    priority: int = 1000
    enabled: bool = True

    @property
    def row_name(self) -> str:
        return self.name or self.kind


_KINDS: dict[str, Kind] = {}
_SCHEDULES: dict[str, Schedule] = {}


def job(name: str, **options: Any) -> Callable[[Function], Function]:
    """Declares a function `(ctx: JobContext, **payload)` as the work of the kind `name`; options are the fields of Kind.

    What it returns, if a dict, becomes the job's result.
    """

    def declare(function: Function) -> Function:
        known = _KINDS.get(name)
        if known is not None and known.function.__module__ != function.__module__:
            raise InvalidInput(f"Two modules declare the job {name}: {known.function.__module__} and {function.__module__}.")
        _KINDS[name] = Kind(name, function, **options)
        return function

    return declare


def kind_of(name: str) -> Kind:
    """Raises InvalidInput when no installed app declares `name`."""
    kind = _KINDS.get(name)
    if kind is None:
        raise InvalidInput(f"There is no kind of job called {name!r}. GET /api/v1/job-kinds lists them.")
    return kind


def kinds() -> Mapping[str, Kind]:
    """All declared kinds by name."""
    return dict(_KINDS)


def schedules() -> Mapping[str, Schedule]:
    """All declared schedules by row name."""
    return dict(_SCHEDULES)


def discover() -> None:
    """Imports `<guest>.jobs` of every guest that has one, and takes its SCHEDULES."""
    for module in guests.modules("jobs"):
        adopt(getattr(module, "SCHEDULES", ()))


def adopt(declared: Iterable[Schedule]) -> None:
    """Takes schedules that are not in an app's SCHEDULES."""
    for schedule in declared:
        kind_of(schedule.kind)
        _SCHEDULES[schedule.row_name] = schedule
