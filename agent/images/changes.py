"""Instructions that change an image's configuration: `docker import --change`, `docker commit --change`, the builder.

Source: Dockerfile reference. Supported: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR SHELL.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any, Final

from agent.images.errors import ImageInvalid

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS: Final = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_PORT: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?")
Config = dict[str, Any]


def apply_changes(config: Config, changes: Iterable[str]) -> Config:
    """A copy of a run configuration (keys as Cmd, Env) with instructions applied in order. Raises `ImageInvalid`."""
    result: Config = json.loads(json.dumps(config))
    for line in changes:
        word, _, rest = line.strip().partition(" ")
        instruction = _INSTRUCTIONS.get(word.upper())
        if instruction is None:
            raise ImageInvalid(f"change {line[:100]!r}: {word[:20]!r} is not one of {', '.join(sorted(_INSTRUCTIONS))}")
        try:
            instruction(result, rest.strip())
        except ValueError as error:
            raise ImageInvalid(f"change {line[:100]!r}: {error}") from error
    return result


def _command(text: str) -> list[str]:
    """Exec form (a JSON list of strings) or shell form."""
    if text.startswith("["):
        try:
            words = json.loads(text)
        except ValueError:
            words = None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return words
    return ["/bin/sh", "-c", text] if text else []


def _pairs(text: str) -> list[tuple[str, str]]:
    words = shlex.split(text)
    if not words:
        raise ValueError("needs KEY=VALUE")
    if "=" not in words[0]:  # the old form: one key, the rest is its value
        key, _, value = text.partition(" ")
        return [(key, value.strip())]
    pairs = [word.partition("=") for word in words]
    if not all(key and equals for key, equals, _ in pairs):
        raise ValueError("needs KEY=VALUE")
    return [(key, value) for key, _, value in pairs]


def _cmd(config: Config, text: str) -> None:
    config["Cmd"] = _command(text)


def _entrypoint(config: Config, text: str) -> None:
    config["Entrypoint"] = _command(text)


def _shell(config: Config, text: str) -> None:
    if not text.startswith("["):
        raise ValueError("needs a JSON list")
    config["Shell"] = _command(text)


def _env(config: Config, text: str) -> None:
    variables = dict(item.partition("=")[::2] for item in config.get("Env") or ())
    variables.update(_pairs(text))
    config["Env"] = [f"{key}={value}" for key, value in variables.items()]


def _label(config: Config, text: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **dict(_pairs(text))}


def _expose(config: Config, text: str) -> None:
    ports = dict(config.get("ExposedPorts") or {})
    for word in text.split():
        match = _PORT.fullmatch(word.lower())
        if match is None or not 0 < int(match[1]) <= int(match[2] or match[1]) < 65536:
            raise ValueError(f"{word!r} is not a port: 80, 80/udp or 8000-8010")
        for port in range(int(match[1]), int(match[2] or match[1]) + 1):
            ports[f"{port}/{match[3] or 'tcp'}"] = {}
    config["ExposedPorts"] = ports


def _volume(config: Config, text: str) -> None:
    paths = json.loads(text) if text.startswith("[") else text.split()
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise ValueError("needs at least one path")
    config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in paths}}


def _workdir(config: Config, text: str) -> None:
    if not text:
        raise ValueError("needs a path")
    config["WorkingDir"] = posixpath.normpath(posixpath.join(config.get("WorkingDir") or "/", text))


def _user(config: Config, text: str) -> None:
    if not text:
        raise ValueError("needs a user")
    config["User"] = text


def _stopsignal(config: Config, text: str) -> None:
    if not text:
        raise ValueError("needs a signal")
    config["StopSignal"] = text


def _onbuild(config: Config, text: str) -> None:
    config["OnBuild"] = [*(config.get("OnBuild") or ()), text]


def _healthcheck(config: Config, text: str) -> None:
    check: Config = {}
    words = text
    while words.startswith("--"):
        option, _, words = words.partition(" ")
        name, _, value = option[2:].partition("=")
        words = words.lstrip()
        if name == "retries":
            check["Retries"] = int(value)
        elif name in _HEALTH_TIMES:
            check[_HEALTH_TIMES[name]] = duration(value)
        else:
            raise ValueError(f"option --{name} is not known")
    kind, _, command = words.partition(" ")
    if kind.upper() == "NONE":
        check["Test"] = ["NONE"]
    elif kind.upper() == "CMD" and command.strip():
        parsed = _command(command.strip())
        check["Test"] = ["CMD-SHELL", command.strip()] if parsed[:2] == ["/bin/sh", "-c"] else ["CMD", *parsed]
    else:
        raise ValueError("needs CMD and a command, or NONE")
    config["Healthcheck"] = check


_HEALTH_TIMES: Final = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}


def duration(text: str) -> int:
    """Nanoseconds of a Go duration such as "1m30s". Raises `ValueError`."""
    position = total = 0
    for match in _DURATION.finditer(text):
        if match.start() != position:
            break
        position = match.end()
        total += int(float(match[1]) * _UNITS[match[2]])
    if position != len(text) or not text:
        raise ValueError(f"{text!r} is not a duration such as 1m30s")
    return total


_INSTRUCTIONS: Final[dict[str, Callable[[Config, str], None]]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
