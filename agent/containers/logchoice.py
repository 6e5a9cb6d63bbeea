"""From a container spec's log driver and options to what the supervisor is told: names filled in, hosts resolved."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from agent.containers.record import Record
from agent.protocol.errors import Unavailable
from agent.protocol.logoptions import InvalidLogOptions, LogSettings, parse, parse_address
from agent.protocol.spec import ContainerSpec


class LogServiceUnknown(Unavailable):
    """The name of the syslog service cannot be resolved now."""

    code = "log_service_unknown"


def is_kept(spec: ContainerSpec) -> bool:
    """Whether the node has the output on disk: as the log itself, or as a copy."""
    return LogSettings({"driver": spec.log_driver, **spec.log_options}).cached


def log_choice(record: Record, image: Mapping[str, Any]) -> dict[str, Any]:
    """The supervisor's `log` for a container whose image has this run config. It may ask the resolver, and so take its time.

    Raises InvalidLogOptions, LogServiceUnknown.
    """
    spec = record.spec
    options: dict[str, Any] = dict(spec.log_options)
    if spec.log_driver == "json-file":
        options = {"max-size": spec.log_max_size, "max-file": spec.log_max_files, **options}
    parsed = parse(spec.log_driver, options)
    attributes = _attributes(spec, image, parsed)
    log: dict[str, Any] = {"driver": spec.log_driver}
    log |= {key: value for key, value in options.items() if key not in ("labels", "env")}
    if "tag" in log:
        log["tag"] = _filled(log["tag"], record)
        if spec.log_driver == "json-file":
            attributes = {"tag": log["tag"], **attributes}
    if "syslog-address" in log:
        log["syslog-address"] = _resolved(log["syslog-address"])
    if LogSettings(log).remote:
        log |= {"name": record.name, "image": spec.image}
    return {**log, **({"attributes": attributes} if attributes else {})}


def _attributes(spec: ContainerSpec, image: Mapping[str, Any], parsed: Mapping[str, Any]) -> dict[str, str]:
    """What the options `labels` and `env` choose from the image's, and the spec's over them."""
    labels = {**(image.get("Labels") or {}), **spec.labels}
    variables = {**dict(item.partition("=")[::2] for item in image.get("Env") or ()), **spec.env}
    return {
        **{key: labels[key] for key in parsed.get("labels", ()) if key in labels},
        **{key: variables[key] for key in parsed.get("env", ()) if key in variables},
    }


def _filled(template: str, record: Record) -> str:
    words = {
        "ID": record.id[:12],
        "FullID": record.id,
        "Name": record.name,
        "ImageName": record.image,
        "ImageID": record.image_id.removeprefix("sha256:")[:12],
        "ImageFullID": record.image_id,
        "DaemonName": "wharfinger",
    }
    head, *parts = template.split("{{")
    pairs = (part.partition("}}")[::2] for part in parts)
    return head + "".join(words[word.strip().removeprefix(".")] + rest for word, rest in pairs)


def _resolved(text: str) -> str:
    """The address with an IP address for its host's name: the supervisor never waits for a resolver. Raises LogServiceUnknown."""
    address = parse_address(text)
    if address.path or _is_address(address.host):
        return text
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise LogServiceUnknown(f"the syslog service {address.host} cannot be resolved: {error}") from None
    host = str(found[0][4][0])
    own = ip_address(host.partition("%")[0])
    if own.is_loopback or own.is_unspecified or own.is_link_local:
        raise InvalidLogOptions(
            f"syslog-address: {address.host} is this node itself; write the address, if the node's own services are meant",
            option="syslog-address",
        )
    return f"{address.scheme}://{f'[{host}]' if ':' in host else host}:{address.port}"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
