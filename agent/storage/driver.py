"""The graph driver: how layers and containers' file systems lie on disk.

One Protocol, one suite (tests/contract/test_graph_drivers.py). Drivers hand out `list[Mount]` and attach no mount anywhere: they
and the runtime meet in that plain datum. A driver whose layers are no directories looks into them through detached mounts, which
vanish with their descriptor. All methods block; the agent calls them from threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol

from agent.storage.table import LayerTable
from agent.sys.mount import Mount


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """A layer that is now whole and durable.

    Digests as "algorithm:hex"; `size` sums its files, `tar_size` is the plain archive's length.
    """

    chain_id: str
    diff_id: str
    size: int
    tar_size: int


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between a container and its image: kind "A"dded, "C"hanged or "D"eleted, path absolute in the container."""

    kind: str
    path: str


class GraphDriver(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def table(self) -> LayerTable:
        """Which layers and containers this driver holds."""
        ...

    def apply(self, chain_id: str | None, parent: str | None, source: IO[bytes], *, compressed: str | None = None) -> ApplyResult:
        """Unpack an archive (plain, gzip, zstd, xz or bzip2) as the layer on top of `parent`.

        The result's chain id must be `chain_id` (None: whatever comes out), and the stored bytes' digest `compressed`, else
        `DigestMismatch` and nothing is kept. An existing layer is returned without reading. Idempotent, crash-safe.
        """
        ...

    def prepare(self, container_id: str, chain: list[str], *, size: int = 0) -> list[Mount]:
        """The container's writable root; `chain` topmost first, [] = empty. At most `size` bytes, 0 = the driver's default.

        Idempotent; `LayerInUse` when the container stands on another chain; `SizeUnsupported`.
        """
        ...

    def view(self, chain: list[str]) -> list[Mount]:
        """The image's root, read-only."""
        ...

    def remove_container(self, container_id: str) -> None:
        """Give its writable layer up; absent is fine. The caller has unmounted it."""
        ...

    def remove_layer(self, chain_id: str) -> None:
        """Absent is fine; `LayerInUse` while a layer or container stands on it."""
        ...

    def usage(self, container_id: str) -> int:
        """Bytes of disk that the container's own layer takes."""
        ...

    def changes(self, container_id: str) -> list[Change]:
        """What the container changed, sorted by path."""
        ...

    def diff(self, container_id: str) -> Iterator[bytes]:
        """What the container changed, as a plain layer archive."""
        ...

    def export_layer(self, chain_id: str) -> Iterator[bytes]:
        """A layer back as a plain archive: the same view, not necessarily the same bytes."""
        ...
