"""Log drivers and their options, under Docker's names: one table for the control plane, the agent and the supervisor.

Options are text, as a user writes them; whole numbers and booleans are taken as well. (No codec and no dataclass: the supervisor
imports this file.)
"""

from __future__ import annotations

from agent.protocol.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

DRIVERS = ("json-file", "local", "journald", "syslog", "none")
DEFAULT = "json-file"
BUFFER = 1 << 20  # bytes that wait for a slow service
JSON_FILE = (10 << 20, 3, False)  # max-size, max-file, compress; Docker's json-file never rotates unless told to
LOCAL = (20 << 20, 5, True)  # as Docker's; also of the cache that `logs` reads for drivers which cannot be read
FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
)  # fmt: skip
SCHEMES = ("unix", "unixgram", "udp", "tcp")
LOCAL_SYSLOG = "/dev/log"
TAG_WORDS = ("ID", "FullID", "Name", "ImageName", "ImageID", "ImageFullID", "DaemonName")
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class InvalidLogOptions(InvalidInput):
    """The log driver or one of its options cannot work. `extra.option` names it."""

    code = "invalid_log_options"


class Address:
    """Where a syslog service listens: a path, or a host (name or IP address) and port."""

    __slots__ = ("host", "path", "port", "scheme")

    def __init__(self, scheme: str, path: str, host: str, port: int) -> None:
        self.scheme = scheme  # one of SCHEMES
        self.path = path
        self.host = host
        self.port = port


class LogSettings:
    """What a driver and its options come to. `driver` is one of DRIVERS."""

    __slots__ = (
        "address", "attributes", "blocking", "buffer", "cached", "compress", "driver", "facility", "image", "max_file",
        "max_size", "micro", "name", "tag",
    )  # fmt: skip

    def __init__(self, log: Mapping[str, Any]) -> None:
        """`log`: {"driver", option…, "name", "image" (of the container), "attributes" {text: text}}. Raises InvalidLogOptions."""
        known = {"driver", "name", "image", "attributes"}
        self.driver = str(log.get("driver") or DEFAULT)
        found = parse(self.driver, {key: value for key, value in log.items() if key not in known})
        prefix = "cache-" if self.remote else ""
        size, files, compress = JSON_FILE if self.driver == "json-file" else LOCAL
        self.cached = self.driver != "none" and not found.get("cache-disabled", False)
        self.max_size: int = found.get(prefix + "max-size", size)
        self.max_file: int = found.get(prefix + "max-file", files)
        self.compress: bool = found.get(prefix + "compress", compress) and self.max_file > 1 and self.max_size > 0
        self.blocking = found.get("mode", "blocking") == "blocking"
        self.buffer: int = found.get("max-buffer-size", BUFFER)
        self.tag: str = found.get("tag", "")
        self.facility: int = found.get("syslog-facility", FACILITIES.index("daemon"))
        self.micro = found.get("syslog-format", "rfc5424") == "rfc5424micro"
        self.address: Address = found.get("syslog-address") or Address("unix", LOCAL_SYSLOG, "", 0)
        self.name = str(log.get("name") or "")
        self.image = str(log.get("image") or "")
        self.attributes: dict[str, str] = dict(log.get("attributes") or {})

    @property
    def remote(self) -> bool:
        """Whether the driver hands entries to a service."""
        return self.driver in ("journald", "syslog")


def parse(driver: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with their values. Raises InvalidLogOptions, saying what there is instead."""
    if driver not in DRIVERS:
        raise InvalidLogOptions(f"log driver {driver!r} is not supported: use {_listed(DRIVERS)}", option="")
    known = _OPTIONS[driver]
    found: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            there_is = f"it knows {_listed(sorted(known))}" if known else "it takes none"
            raise InvalidLogOptions(f"log driver {driver} has no option {key!r}: {there_is}", option=key)
        try:
            found[key] = known[key](value)
        except ValueError as error:
            raise InvalidLogOptions(f"log option {key} is {value!r}: {error}", option=key) from None
    if found.get("compress") and (found.get("max-file", 2) < 2 or found.get("max-size") == 0):
        raise InvalidLogOptions(
            "log option compress needs rotated files: set max-file to at least 2 and max-size", option="compress"
        )
    return found


def _listed(words: Any) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else str(last)


def _size(value: Any) -> int:
    """Bytes of 1024, "10m", "1g"; -1 (Docker's word for no limit) is 0."""
    text = str(value).strip().lower()
    if text == "-1":
        return 0
    text = text.removesuffix("b") if text[-2:-1].isalpha() else text
    digits, unit = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")
    if isinstance(value, bool) or not digits.isdecimal() or unit not in _UNITS:
        raise ValueError("write a size such as 10m, 512k or 1g")
    return int(digits) * _UNITS[unit]


def _buffer(value: Any) -> int:
    size = _size(value)
    if not 4096 <= size <= 64 << 20:
        raise ValueError("write a size from 4k to 64m")
    return size


def _count(value: Any) -> int:
    if isinstance(value, bool) or not str(value).isdecimal() or not 1 <= int(value) <= 1000:
        raise ValueError("it has to be a whole number from 1 to 1000")
    return int(value)


def _boolean(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError("write true or false")
    return text in ("true", "1")


def _mode(value: Any) -> str:
    if value not in ("blocking", "non-blocking"):
        raise ValueError("use blocking or non-blocking")
    return str(value)


def _names(value: Any) -> tuple[str, ...]:
    names = tuple(name.strip() for name in str(value).split(","))
    if not all(names):
        raise ValueError("write names, separated by commas")
    return names


def _tag(value: Any) -> str:
    for part in str(value).split("{{")[1:]:
        word, closed, _ = part.partition("}}")
        if not closed or word.strip().removeprefix(".") not in TAG_WORDS or not word.strip().startswith("."):
            raise ValueError("use " + _listed(["{{.%s}}" % name for name in TAG_WORDS]))  # noqa: UP031  # braces of its own
    return str(value)


def _facility(value: Any) -> int:
    text = str(value).lower()
    if text in FACILITIES:
        return FACILITIES.index(text)
    if not text.isdecimal() or int(text) >= len(FACILITIES):
        raise ValueError(f"use a number from 0 to {len(FACILITIES) - 1}, {_listed(FACILITIES)}")
    return int(text)


def _format(value: Any) -> str:
    if value not in ("rfc5424", "rfc5424micro"):
        raise ValueError("use rfc5424 or rfc5424micro")
    return str(value)


def parse_address(value: Any) -> Address:
    """Of "unix:///dev/log", "udp://logs.example.org:514", "tcp://[::1]". Raises ValueError."""
    scheme, separator, rest = str(value).partition("://")
    if scheme == "tcp+tls":
        raise ValueError("TLS is not spoken here: send to a relay on this node (unix:///dev/log) that does")
    if not separator or scheme not in SCHEMES:
        raise ValueError("write unix:///path, unixgram:///path, udp://host:port or tcp://host:port")
    if scheme.startswith("unix"):
        if not rest.startswith("/") or "\0" in rest or ".." in rest.split("/") or len(rest) > 100:
            raise ValueError("the path of the socket has to be absolute, without '..', of at most 100 characters")
        return Address(scheme, rest, "", 0)
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
    else:
        host, colon, digits = rest.partition(":")
        port = colon + digits
    number = port.removeprefix(":") or "514"
    if not host or not number.isdecimal() or not 1 <= int(number) <= 65535 or (port and port[0] != ":"):
        raise ValueError("write host:port, the port from 1 to 65535")
    return Address(scheme, "", host, int(number))


_FLOW: dict[str, Callable[[Any], Any]] = {"mode": _mode, "max-buffer-size": _buffer}
_FILE: dict[str, Callable[[Any], Any]] = {"max-size": _size, "max-file": _count, "compress": _boolean}
_NAMED: dict[str, Callable[[Any], Any]] = {"tag": _tag, "labels": _names, "env": _names}
_CACHE: dict[str, Callable[[Any], Any]] = {
    "cache-disabled": _boolean, **{f"cache-{key}": read for key, read in _FILE.items()}
}  # fmt: skip
_OPTIONS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "json-file": {**_FLOW, **_FILE, **_NAMED},
    "local": {**_FLOW, **_FILE},
    "journald": {**_FLOW, **_CACHE, **_NAMED},
    "syslog": {
        **_FLOW,
        **_CACHE,
        "tag": _tag,
        "syslog-address": parse_address,
        "syslog-facility": _facility,
        "syslog-format": _format,
    },
    "none": {},
}
