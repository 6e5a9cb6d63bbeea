"""Ranges of host ids for containers with a user namespace: one a tenant, apart from all others.

Ids of two tenants never meet on the host, so what breaks out of a container of one owns no process or file of another. A tenant
keeps its range as long as the node has one to spare: files that its containers own outside shifted mounts stay its own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from agent.containers.errors import IdRangesExhausted
from agent.protocol.codec import InvalidSpec
from agent.sys.files import write_durable

SIZE = 65_536
HIGHEST = 0xFFFF_FFFE  # 2**32-1 is "no id"


@dataclass(frozen=True, slots=True)
class NodeRange:
    """Ids `first` … of the node that are for containers: room for `tenants` of them.

    The default lies above what systemd, shadow's /etc/subuid and directories of users hand out (systemd, UIDS-GIDS.md).
    """

    first: int = 0x7000_0000
    tenants: int = 2048

    def __post_init__(self) -> None:
        if self.first < SIZE or self.tenants < 1 or self.first + self.tenants * SIZE > HIGHEST:
            raise InvalidSpec(
                f"user namespace range {self.first}:{self.tenants * SIZE} is not usable: begin above {SIZE}, with at least"
                f" {SIZE} ids, that fit in 32 bits",
                field="userns_range",
            )

    @classmethod
    def parse(cls, text: str) -> NodeRange:
        """ "FIRST:COUNT", in ids; "" is the default. Raises `InvalidSpec`."""
        if not text:
            return cls()
        first, _, count = text.partition(":")
        if not (first.isdigit() and count.isdigit()):
            raise InvalidSpec(f"user namespace range {text!r} is not FIRST:COUNT, two numbers of ids", field="userns_range")
        return cls(int(first), int(count) // SIZE)

    def bases(self) -> range:
        return range(self.first, self.first + self.tenants * SIZE, SIZE)


class IdRanges:
    """Kept in the file `path` as {"tenants": {tenant: first id}}."""

    def __init__(self, path: Path, node: NodeRange) -> None:
        self._path, self._node = path, node
        self._lock = threading.Lock()
        self._bases: dict[str, int] = {}
        if path.exists():
            self._bases = {str(tenant): int(base) for tenant, base in json.loads(path.read_text())["tenants"].items()}

    def of(self, tenant: str, in_use: Callable[[], Collection[str]]) -> tuple[int, int]:
        """(first id, count) of the tenant, durable before it is returned. `in_use`: tenants that have such containers now; only
        asked for when the node's range is full, when another's may be taken. Raises `IdRangesExhausted`."""
        with self._lock:
            known = self._bases.get(tenant)
            if known is not None and known in self._node.bases():
                return known, SIZE
            base = self._free() or self._take_back(in_use())
            self._bases[tenant] = base
            write_durable(self._path, json.dumps({"tenants": self._bases}).encode())
            return base, SIZE

    def _free(self) -> int:
        """The lowest that nobody has, 0 for none. Ranges of an earlier setting are not handed out twice either."""
        taken = sorted(self._bases.values())
        return next((base for base in self._node.bases() if not any(abs(base - other) < SIZE for other in taken)), 0)

    def _take_back(self, in_use: Collection[str]) -> int:
        for tenant, base in self._bases.items():  # the one that came first
            if tenant not in in_use and base in self._node.bases():
                del self._bases[tenant]
                return base
        raise IdRangesExhausted(
            f"all {self._node.tenants} ranges of ids are taken by tenants with containers here: give the node a larger range"
            " (--userns-range), or remove containers"
        )
