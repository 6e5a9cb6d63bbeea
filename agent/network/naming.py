"""Names of our kernel objects, and how we know our own again. A prefix keeps several agents in one kernel netns apart."""

from __future__ import annotations

import os
import re

from agent.network.errors import InvalidNetwork


class Naming:
    """Link names have at most 15 characters: prefix (1-6), a mark, eight hexadecimal digits."""

    def __init__(self, prefix: str = "wharf") -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,5}", prefix):
            raise InvalidNetwork(f"prefix {prefix!r} is not valid: a lower-case letter, then at most 5 letters or digits")
        self.prefix = prefix
        self.table = prefix
        self.default_bridge = f"{prefix}0"
        self._bridge = re.compile(rf"{prefix}(0|-[0-9a-f]{{8}})")
        self._veth = re.compile(rf"{prefix}_[0-9a-f]{{8}}")

    def bridge(self, network_id: str) -> str:
        return f"{self.prefix}-{network_id[:8]}"

    def veth(self) -> str:
        """A fresh name: the links of a dead netns linger for some milliseconds, so one made of the container's id could clash."""
        return f"{self.prefix}_{os.urandom(4).hex()}"

    def is_bridge(self, name: str) -> bool:
        return self._bridge.fullmatch(name) is not None

    def is_veth(self, name: str) -> bool:
        return self._veth.fullmatch(name) is not None


def mac_of(address: str) -> str:
    """02:42 and the address, as Docker had it: an address that is used again keeps its MAC, so no ARP entry is ever wrong."""
    return "02:42:" + bytes(int(part) for part in address.split(".")).hex(":")
