"""CVE-2021-43784: a length that does not fit its 16-bit field wraps, and the rest of the bytes are read as attributes.

Runc hands mappings and paths to its first stage as netlink attributes. Ours has no serialised stage; netlink is spoken to the
kernel only, and its builder has to refuse what does not fit.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from agent.protocol.errors import WharfError
from agent.sys import netlink
from tests.conformance.runtime.conftest import Runner

HIDDEN = struct.pack("=HH", 8, 99) + b"evil"


def naive_attr(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", (len(payload) + 4) & 0xFFFF, kind) + payload + b"\0" * (-len(payload) % 4)


def test_an_attribute_that_does_not_fit_is_refused() -> None:
    payload = HIDDEN + b"A" * (65536 - len(HIDDEN))
    assert 99 in netlink.parse(naive_attr(1, payload)), "the probe does not find the hole"
    with pytest.raises(ValueError, match="65531"):
        netlink.attr(1, payload)
    with pytest.raises(ValueError, match="65531"):
        netlink.nest(1, *(netlink.u32(2, 0) for _ in range(9000)))
    assert netlink.parse(netlink.attr(1, b"A" * 65531)) == {1: b"A" * 65531}


def mappings(config: dict[str, Any]) -> None:
    entries = [{"containerID": number, "hostID": 200_000 + number, "size": 1} for number in range(100_000)]
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = entries


def path(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"][1]["path"] = "/proc/" + "x" * 100_000


def destination(config: dict[str, Any]) -> None:
    config["mounts"].append({"destination": "/" + "x/" * 50_000, "type": "tmpfs", "source": "x"})


def sources(config: dict[str, Any]) -> None:
    config["mounts"] += [{"destination": "/tmp", "type": "bind", "source": "/no/such/place", "options": ["bind"]}] * 100_000


@pytest.mark.parametrize("change", [mappings, path, destination, sources])
def test_a_hundred_thousand_entries_end_in_an_error(runner: Runner, change: Any) -> None:
    """The kernel takes 340 lines of a map and 4096 bytes of a path; the runner's own check finds anything left behind."""
    with pytest.raises(WharfError):
        runner.run("true", userns=(200_000, 200_000, 65_536), change=change)
