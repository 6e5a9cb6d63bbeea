"""An image of one layer from the tar of a root file system (OCI image-spec, config.md)."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from controlplane.cli.session import Failure
from nodes.cli.archives import Image, assemble
from nodes.cli.layers import Part, pack
from nodes.cli.quantities import parse_pairs

_GO = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def image_config(
    *,
    cmd: list[str],
    entrypoint: list[str],
    env: Iterable[str],
    workdir: str,
    user: str,
    expose: Iterable[str],
    volumes: Iterable[str],
    labels: Iterable[str],
    stop_signal: str,
) -> dict[str, Any]:
    """The `config` object, without what was not asked for. Raises Failure."""
    pairs = parse_pairs(env, "--env")
    pairs.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    found: dict[str, Any] = {
        "User": user,
        "ExposedPorts": {_port(text): {} for text in expose},
        "Env": [f"{key}={value}" for key, value in pairs.items()],
        "Entrypoint": entrypoint,
        "Cmd": cmd,
        "Volumes": {path: {} for path in volumes},
        "WorkingDir": workdir,
        "Labels": parse_pairs(labels, "--label"),
        "StopSignal": stop_signal,
    }
    return {key: value for key, value in found.items() if value}


def _port(text: str) -> str:
    number, _, protocol = text.partition("/")
    if not number.isdigit() or not 0 < int(number) < 65536 or protocol not in {"", "tcp", "udp"}:
        raise Failure(f"--expose {text!r}: write a port such as 80 or 53/udp.", 2)
    return f"{number}/{protocol or 'tcp'}"


def import_rootfs(
    part: Part,
    config: dict[str, Any],
    *,
    arch: str = "",
    comment: str = "",
    advance: Callable[[int], None] = lambda count: None,
) -> Image:
    """The image, ready to push. Raises Failure when `part` is no tar."""
    layer = pack(part, advance)
    machine = platform.machine()
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    step = {"created": now, "created_by": "wharf image import", **({"comment": comment} if comment else {})}
    document = {
        "created": now,
        "architecture": arch or _GO.get(machine, machine),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [step],
    }
    return assemble(json.dumps(document, separators=(",", ":")).encode(), [layer.blob])
