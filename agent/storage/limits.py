"""What an untrusted archive may ask of us, as one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one layer. Sizes in bytes, `seconds` of wall clock for the helper process."""

    max_bytes: int = 64 << 30  # uncompressed archive, and the sum of the files' logical sizes (sparse files count in full)
    ratio: int = 200  # uncompressed : compressed ...
    ratio_slack: int = 32 << 20  # ... once this much came out: a few MiB of zeros are honest
    max_entries: int = 1_000_000
    max_path: int = 4096
    max_depth: int = 256
    max_xattr: int = 64 << 10  # one value
    max_pax: int = 1 << 20  # one extended header, or GNU long name
    zstd_window: int = 128 << 20
    memory: int = 2 << 30  # address space of the helper
    seconds: int = 1800


@dataclass(frozen=True, slots=True)
class Rights:
    """Which privileges files of an image keep on this node.

    Set-user-id programs and file capabilities are safe only where the container's root is not the node's: without user
    namespaces they are stripped at extraction. A layer that holds device nodes is refused unless they are kept; who may open one
    in a container is its device controller's matter.
    """

    keep_setuid: bool = False
    keep_capabilities: bool = False
    keep_devices: bool = False
