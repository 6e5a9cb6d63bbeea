"""checkpoint and restore."""

from __future__ import annotations

from agent.runtime.errors import InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log


def checkpoint(options: Options, log: Log) -> int:
    raise InvalidConfig("checkpoint is not supported; stop the container, and start it anew elsewhere")


def restore(options: Options, log: Log) -> int:
    raise InvalidConfig("restore is not supported; create the container anew")
