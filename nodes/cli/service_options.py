"""Options of `wharf service` as the JSON of a ServiceSpec (agent.protocol.spec); the server judges what they say.

`--publish` and `--mount` are Docker's: short and long form of the one, the long form of the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from controlplane.cli.session import Failure
from nodes.cli.quantities import parse_size

_MOUNT_KEYS = {
    "type": "type", "src": "source", "source": "source", "dst": "target", "target": "target", "destination": "target",
    "ro": "read_only", "readonly": "read_only", "read_only": "read_only", "tmpfs-size": "tmpfs_size",
}  # fmt: skip
_PORT_KEYS = {"published": "published", "target": "target", "protocol": "protocol", "mode": "mode", "host_ip": "host_ip"}


def _number(text: str, what: str) -> int:
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise Failure(f"--publish: {text!r} is no {what} port; write [published:]target[/tcp|udp], such as 8080:80.", 2)
    return int(text)


def parse_storage(options: Iterable[str]) -> int | None:
    """Docker's --storage-opt of a container, which knows one key: "size=10g" -> bytes."""
    size = None
    for text in options:
        key, _, value = text.partition("=")
        if key != "size":
            raise Failure(f"--storage-opt: {text!r} is not known; write size=…, such as size=10g.", 2)
        size = parse_size(value)
    return size


def parse_port(text: str) -> dict[str, Any]:
    """ "8080:80/tcp", "127.0.0.1:8080:80", "80", "published=8080,target=80,mode=host" -> a PortSpec."""
    if "=" in text:
        return _long_port(text)
    ports, _, protocol = text.partition("/")
    head, _, target = ports.rpartition(":")
    address, _, published = head.rpartition(":")
    found: dict[str, Any] = {"target": _number(target, "target")}
    if published:
        found["published"] = _number(published, "published")
    if address:
        found["host_ip"] = address.strip("[]")
    if protocol:
        found["protocol"] = _protocol(protocol)
    return found


def _long_port(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in _fields(text, "--publish", _PORT_KEYS):
        found[key] = _number(value, key) if key in {"published", "target"} else value
    if "target" not in found:
        raise Failure(f"--publish {text!r} names no target port.", 2)
    return found


def _protocol(text: str) -> str:
    if text.lower() not in {"tcp", "udp"}:
        raise Failure(f"--publish: {text!r} is no protocol; there are tcp and udp.", 2)
    return text.lower()


def parse_mount(text: str) -> dict[str, Any]:
    """ "type=bind,src=/a,dst=/b,ro" -> a MountSpec; the type is volume unless said."""
    found: dict[str, Any] = {"type": "volume"}
    for key, value in _fields(text, "--mount", _MOUNT_KEYS):
        if key == "read_only":
            found[key] = value.lower() in {"", "1", "true"}
        else:
            found[key] = parse_size(value) if key == "tmpfs_size" else value
    if "target" not in found:
        raise Failure(f"--mount {text!r} does not say where: add dst=/path.", 2)
    return found


def _fields(text: str, option: str, known: dict[str, str]) -> Iterable[tuple[str, str]]:
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in known:
            raise Failure(f"{option}: {key!r} is not known; there are {', '.join(known)}.", 2)
        yield known[key], value


def without_empty(value: Any) -> Any:
    """Dictionaries without what was not asked for (None, "", empty); 0 and False are answers and stay."""
    if not isinstance(value, dict):
        return value
    kept = {key: without_empty(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item is not None and item != "" and item != {} and item != []}
