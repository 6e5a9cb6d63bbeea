"""What every container's handling needs of its surroundings."""

from __future__ import annotations

from agent.supervisor.compressor import Compressor
from agent.supervisor.leases import Leases
from agent.supervisor.ledger import Ledger
from agent.supervisor.log import LogParts
from agent.supervisor.loop import Loop
from agent.supervisor.processes import Processes
from agent.supervisor.shims import Shims
from agent.supervisor.transition import Transitions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.supervisor.container import Container
    from agent.supervisor.launch import Runtime


class Context:
    """Passed down, never changed."""

    __slots__ = (
        "entrust",
        "leases",
        "ledger",
        "logs",
        "loop",
        "processes",
        "publish",
        "runtime",
        "shims",
        "statedir",
        "transitions",
    )

    def __init__(
        self,
        loop: Loop,
        processes: Processes,
        runtime: Runtime,
        statedir: str,
        publish: Callable[[dict[str, Any]], None],
        entrust: Callable[[Container], None],
        leases: Leases,
        shims: Shims,
        ledger: Ledger,
    ) -> None:
        self.loop = loop
        self.logs = LogParts(loop, Compressor(loop, processes).want)
        self.processes = processes
        self.runtime = runtime
        self.statedir = statedir
        self.publish = publish
        self.entrust = entrust
        self.leases = leases
        self.shims = shims
        self.ledger = ledger
        self.transitions = Transitions(loop, processes)
