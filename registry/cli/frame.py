"""What every `wharf repo` command stands on: the app they register with, names, sizes."""

from __future__ import annotations

import re
from typing import Any

import typer

from controlplane.cli.session import Failure, Session

app = typer.Typer(add_completion=False, help="Repositories of the trusted registry.", no_args_is_help=True)

Many = list[str] | None
_UNITS = ("B", "KB", "MB", "GB", "TB")


def size_text(count: int) -> str:
    """1234567 -> "1.2 MB", in powers of a thousand as registries show them."""
    value = float(count)
    for unit in _UNITS[:-1]:
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {_UNITS[-1]}"


def size_bytes(text: str) -> int:
    """ "1.5 GB" -> 1500000000; a bare number is bytes. Raises Failure."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise Failure(f"{text!r} is no size; say for instance 500MB or 20GB.", 2)
    power = _UNITS.index((found[2] or "B").upper())
    return int(float(found[1]) * 1000.0**power)


def scope(target: str) -> dict[str, str]:
    """What REST calls it: "ns/name" is a repository, "ns" a namespace."""
    return {"repository" if "/" in target else "namespace": target}


def find(session: Session, name: str) -> dict[str, Any]:
    """The repository as REST has it. Raises Failure."""
    rows = session.get("/api/v1/repositories", name=name)
    if not rows:
        raise Failure(f"There is no repository {name}, or you may not see it.", 3)
    found: dict[str, Any] = rows[0]
    return found


def split(text: str) -> tuple[str, str]:
    """ "ns/name:tag" or "ns/name@sha256:…" -> (name, tag or digest); the tag is "latest" unless said."""
    name, at, digest = text.partition("@")
    if at:
        return name, digest
    name, _, tag = text.partition(":")
    return name, tag or "latest"
