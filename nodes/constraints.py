"""Placement constraints: "node.labels.zone==a", as SwarmKit's manager/constraint reads them.

Comparison ignores case. A label that a node lacks is the empty string, so `!=` matches it. Architectures are compared by
their Go names, so that x86_64 and amd64 are the same machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from agent.protocol.codec import InvalidSpec
from nodes.snapshot import NodeView

_EXPRESSION = re.compile(r"\s*(?P<key>[A-Za-z_][A-Za-z0-9_./-]*)\s*(?P<operator>==|!=)\s*(?P<value>[^\s=!][^=]*?)\s*")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i386": "386", "i686": "386"}
KEYS = (
    "node.id",
    "node.hostname",
    "node.ip",
    "node.role",
    "node.platform.os",
    "node.platform.arch",
    "node.labels.<key>",
    "engine.labels.<key>",
)


def architecture(name: str) -> str:
    """The Go name of a machine's architecture: what images carry and nodes are compared by."""
    return _ARCHITECTURES.get(name.lower(), name.lower())


@dataclass(frozen=True, slots=True)
class Constraint:
    key: str
    equal: bool
    value: str

    def __str__(self) -> str:
        return f"{self.key}{'==' if self.equal else '!='}{self.value}"

    def matches(self, node: NodeView) -> bool:
        wanted = self.value.lower()
        found = [item.lower() for item in _values(self.key, node)]
        if self.key == "node.platform.arch":
            wanted = architecture(wanted)
            found = [architecture(item) for item in found]
        return (wanted in found) is self.equal


@lru_cache(maxsize=4096)
def parse(text: str) -> Constraint:
    """Parse one constraint; raises `InvalidSpec` that lists the keys there are."""
    match = _EXPRESSION.fullmatch(text)
    if match is None:
        raise InvalidSpec(
            f"constraint {text[:120]!r} is not valid: write key==value or key!=value", field="placement.constraints"
        )
    key = match["key"]
    prefix = key.lower()
    known = prefix in KEYS or any(
        prefix.startswith(start) and len(prefix) > len(start) for start in ("node.labels.", "engine.labels.")
    )
    if not known:
        raise InvalidSpec(f"constraint key {key[:80]!r} is unknown; known are {', '.join(KEYS)}", field="placement.constraints")
    return Constraint(key, match["operator"] == "==", match["value"])


def first_unmet(constraints: Iterable[str], node: NodeView) -> Constraint | None:
    """The first constraint that `node` does not meet, or None."""
    return next((item for item in map(parse, constraints) if not item.matches(node)), None)


def label_value(key: str, node: NodeView) -> str:
    """Value of a spread preference's key on a node; "" where it has none."""
    found = _values(key, node)
    return found[0] if found else ""


def _values(key: str, node: NodeView) -> list[str]:
    lowered = key.lower()
    if lowered.startswith("node.labels."):
        return [node.labels.get(key[len("node.labels.") :], "")]
    if lowered.startswith("engine.labels."):
        return [node.engine_labels.get(key[len("engine.labels.") :], "")]
    single = {
        "node.id": node.id,
        "node.hostname": node.hostname,
        "node.role": node.role,
        "node.platform.os": node.os,
        "node.platform.arch": node.arch,
    }
    if lowered == "node.ip":
        return [address.partition("/")[0] for address in node.addresses]
    return [single.get(lowered, "")]
