"""The guided form of a service, to and from its spec. What the form does not show is kept as it was."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from agent.protocol import codec
from agent.protocol.codec import InvalidSpec
from agent.protocol.errors import WharfError
from agent.protocol.spec import ServiceSpec

MIB = 1 << 20
FIELDS = frozenset(
    {"name", "image", "replicas", "ports", "env", "constraints", "command", "memory", "cpus", "parallelism", "order", "raw"}
)
SPELLED = {"args": "command", "nano_cpus": "cpus"}  # the spec's name -> the form's
BY_CODE = {"name_taken": "name", "name_unknown": "image", "manifest_unknown": "image"}


def initial(spec: ServiceSpec | None) -> dict[str, str]:
    """What the form shows for a spec; defaults for a new service."""
    if spec is None:
        return {"replicas": "1", "order": "stop-first", "parallelism": "1"}
    box = spec.container
    return {
        "name": spec.name,
        "image": box.image,
        "replicas": str(spec.replicas),
        "command": shlex.join([*box.command, *box.args]),
        "env": "\n".join(f"{key}={value}" for key, value in box.env.items()),
        "ports": "\n".join(_port_text(port) for port in box.ports),
        "constraints": "\n".join(spec.placement.constraints),
        "memory": str(box.resources.memory // MIB) if box.resources.memory else "",
        "cpus": f"{box.resources.nano_cpus / 1e9:g}" if box.resources.nano_cpus else "",
        "order": spec.update.order.value,
        "parallelism": str(spec.update.parallelism),
    }


def _port_text(port: Any) -> str:
    published = f"{port.published}:" if port.published else ""
    return f"{published}{port.target}" + ("" if port.protocol.value == "tcp" else f"/{port.protocol.value}")


def spec_of(data: Mapping[str, str], base: dict[str, Any] | None = None) -> ServiceSpec:
    """The spec that the form asks for, over `base` (an encoded spec). Raises `InvalidSpec` naming the field."""
    spec: dict[str, Any] = {**(base or {})}
    box: dict[str, Any] = {**spec.get("container", {}), "image": data.get("image", "").strip()}
    spec["name"] = data.get("name", spec.get("name", "")).strip()
    spec["replicas"] = _number(data, "replicas", 1)
    words = _words(data.get("command", ""))
    if shlex.join([*box.get("command", ()), *box.get("args", ())]) != shlex.join(words):
        box.pop("command", None)
        box["args"] = words
    box["env"] = dict(_pair(line) for line in _lines(data, "env"))
    box["ports"] = [_port(line) for line in _lines(data, "ports")]
    box["resources"] = {**box.get("resources", {}), **_resources(data)}
    spec["container"] = box
    spec["placement"] = {**spec.get("placement", {}), "constraints": _lines(data, "constraints")}
    spec["update"] = {
        **spec.get("update", {}),
        "order": data.get("order", "stop-first"),
        "parallelism": _number(data, "parallelism", 1),
    }
    return codec.decode(ServiceSpec, spec)


def field_of(error: WharfError) -> str:
    """The form's field that an error is about, or "": "container.resources.nano_cpus" -> "cpus"."""
    steps = str(error.extra.get("field", "")).replace("[", ".").split(".")
    for step in reversed(steps):
        if SPELLED.get(step, step) in FIELDS:
            return SPELLED.get(step, step)
    return BY_CODE.get(error.code, "")


def _lines(data: Mapping[str, str], name: str) -> list[str]:
    return [line.strip() for line in data.get(name, "").splitlines() if line.strip()]


def _number(data: Mapping[str, str], name: str, default: int) -> int:
    text = data.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit():
        raise InvalidSpec(f"{name}: {text[:20]!r} is not a whole number", field=name)
    return int(text)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidSpec(f"command: {error}", field="command") from None


def _pair(line: str) -> tuple[str, str]:
    key, equals, value = line.partition("=")
    if not equals:
        raise InvalidSpec(f"env: {line[:40]!r} needs the form NAME=value", field="env")
    return key.strip(), value


def _port(line: str) -> dict[str, Any]:
    """[published:]target[/protocol]"""
    text, _, protocol = line.partition("/")
    published, colon, target = text.rpartition(":")
    if not target.isdigit() or (colon and not published.isdigit()):
        raise InvalidSpec(f"ports: {line[:40]!r} needs the form 8080:80, 80 or 53/udp", field="ports")
    return {"target": int(target), "published": int(published or 0), "protocol": protocol or "tcp"}


def _resources(data: Mapping[str, str]) -> dict[str, int]:
    memory = _number(data, "memory", 0) * MIB
    text = data.get("cpus", "").strip()
    try:
        cpus = round(float(text or 0) * 1e9)
    except ValueError:
        raise InvalidSpec(f"cpus: {text[:20]!r} is not a number", field="cpus") from None
    return {"memory": memory, "nano_cpus": cpus}
