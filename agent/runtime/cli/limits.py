"""update."""

from __future__ import annotations

import json
import re
import sys

from agent.protocol.errors import InvalidInput
from agent.runtime.cli import handles
from agent.runtime.errors import InvalidConfig, WrongState
from agent.runtime.state import StateDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from agent.runtime.cli.arguments import Options
    from agent.runtime.cli.logs import Log

_NUMBERS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "pids-limit": ("pids", "limit"),
}
_TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
_SIZES = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)


def update(options: Options, log: Log) -> int:
    directory = StateDirectory(handles.root(options), options.id)
    if not directory.alive():
        raise WrongState("container not running")
    if options.text("l3-cache-schema") or options.text("mem-bw-schema"):
        raise InvalidConfig("Intel RDT needs resctrl, which is not supported; leave --l3-cache-schema and --mem-bw-schema out")
    if options.text("kernel-memory"):
        log.warning("--kernel-memory is ignored: the kernel has no limit of its own memory since 5.16")
    resources = _file(options.text("resources")) if options.text("resources") else _resources(options)
    directory.cgroup().update(resources)
    return 0


def _file(path: str) -> dict[str, Any]:
    try:
        if path == "-":
            found = json.load(sys.stdin)
        else:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
    except ValueError as error:
        raise InvalidInput(f"the resources are not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInput("the resources are not a JSON object")
    found.pop("devices", None)  # as runc: a wrong list here would open or close every device
    return found


def _resources(options: Options) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for option, (section, key) in _NUMBERS.items():
        number = options.number(option)
        if number is not None:
            resources.setdefault(section, {})[key] = number
    for option, (section, key) in (*_TEXTS.items(), *_SIZES.items()):
        text = options.text(option)
        if text:
            resources.setdefault(section, {})[key] = size(text, option) if option in _SIZES else text
    return resources


def size(text: str, option: str) -> int:
    """Bytes of "50M", "1.5GiB", "67108864"; -1 is no limit. Raises InvalidInput."""
    if text == "-1":
        return -1
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidInput(f'invalid value for {option}: invalid size: "{text}"; use a number of bytes, or a unit as in 50M')
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))
