"""From a container spec and its image's config to what the runtime starts: pure."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping
from typing import Any

from agent.protocol.codec import InvalidSpec
from agent.protocol.spec import ContainerSpec

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NoCommand(InvalidSpec):
    code = "no_command"


def argv(spec: ContainerSpec, image: Mapping[str, Any]) -> list[str]:
    """Docker's rules: `command` replaces ENTRYPOINT and drops CMD; `args` replaces CMD. Raises `NoCommand` when none is left."""
    if spec.command:
        words = [*spec.command, *spec.args]
    else:
        words = [*(image.get("Entrypoint") or ()), *(spec.args or image.get("Cmd") or ())]
    if not words:
        raise NoCommand("the image names no command and the spec gives none: set `command` or `args`", field="command")
    return words


def environment(spec: ContainerSpec, image: Mapping[str, Any], *, hostname: str, home: str) -> list[str]:
    """The image's variables, then the spec's; PATH, HOSTNAME, HOME and (with a terminal) TERM where neither sets them."""
    values = dict(item.partition("=")[::2] for item in image.get("Env") or ())
    defaults = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": home}
    if spec.tty:
        defaults["TERM"] = "xterm"
    merged = {**defaults, **values, **spec.env}
    return [f"{key}={value}" for key, value in merged.items()]


def working_dir(spec: ContainerSpec, image: Mapping[str, Any]) -> str:
    return spec.working_dir or image.get("WorkingDir") or "/"


def user_text(spec: ContainerSpec, image: Mapping[str, Any]) -> str:
    return spec.user or image.get("User") or ""


def stop_signal(spec: ContainerSpec, image: Mapping[str, Any]) -> int:
    """Signal number of "SIGTERM", "TERM" or "15". Raises `InvalidSpec` for anything else."""
    return signal_number(spec.stop_signal or image.get("StopSignal") or "SIGTERM")


def signal_number(text: str) -> int:
    name = text.strip().upper()
    if name.isdigit() and 1 <= int(name) <= 64:
        return int(name)
    base = name if name.startswith("SIG") else f"SIG{name}"
    if base.startswith("SIGRTMIN+") and base[9:].isdigit() and int(base[9:]) <= 30:
        return int(signal.SIGRTMIN) + int(base[9:])
    member = signal.Signals.__members__.get(base)
    if member is None:
        raise InvalidSpec(f"{text!r} is not a signal", field="signal")
    return int(member)


def display(words: list[str]) -> str:
    return shlex.join(words)[:200]


def volumes(image: Mapping[str, Any]) -> list[str]:
    """Paths that the image declares as volumes."""
    return sorted(image.get("Volumes") or ())
