"""Log drivers and options as users write them."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol.codec import InvalidSpec
from agent.protocol.logoptions import InvalidLogOptions, LogSettings, parse, parse_address
from agent.protocol.spec import ContainerSpec


def test_defaults_rotate_everywhere() -> None:
    plain, local, remote, none = (LogSettings({"driver": driver}) for driver in ("json-file", "local", "syslog", "none"))
    assert (plain.max_size, plain.max_file, plain.compress, plain.cached) == (10 << 20, 3, False, True)
    assert (local.max_size, local.max_file, local.compress, local.cached) == (20 << 20, 5, True, True)
    assert (remote.max_size, remote.max_file, remote.compress, remote.cached) == (20 << 20, 5, True, True)
    assert not none.cached
    assert LogSettings({}).driver == "json-file"
    assert (remote.blocking, remote.buffer, remote.facility, remote.address.path) == (True, 1 << 20, 3, "/dev/log")


@pytest.mark.parametrize(
    ("driver", "options", "attribute", "value"),
    [
        ("json-file", {"max-size": "10m"}, "max_size", 10 << 20),
        ("json-file", {"max-size": "512kb"}, "max_size", 512 << 10),
        ("json-file", {"max-size": "-1"}, "max_size", 0),
        ("json-file", {"compress": "true"}, "compress", True),
        ("local", {"max-file": "1"}, "compress", False),
        ("local", {"mode": "non-blocking"}, "blocking", False),
        ("local", {"max-buffer-size": "4m"}, "buffer", 4 << 20),
        ("syslog", {"syslog-facility": "local3"}, "facility", 19),
        ("syslog", {"syslog-facility": "7"}, "facility", 7),
        ("syslog", {"syslog-format": "rfc5424micro"}, "micro", True),
        ("journald", {"cache-disabled": "true"}, "cached", False),
        ("journald", {"cache-max-size": "1m"}, "max_size", 1 << 20),
    ],
)
def test_values(driver: str, options: dict[str, str], attribute: str, value: Any) -> None:
    assert getattr(LogSettings({"driver": driver, **options}), attribute) == value


@pytest.mark.parametrize(
    ("driver", "options", "said"),
    [
        ("fluentd", {}, "use json-file, local, journald, syslog or none"),
        ("json-file", {"max-sise": "1m"}, "has no option 'max-sise'"),
        ("json-file", {"max-size": "much"}, "write a size such as 10m"),
        ("json-file", {"max-file": "0"}, "whole number from 1"),
        ("json-file", {"compress": "true", "max-file": "1"}, "needs rotated files"),
        ("json-file", {"mode": "fast"}, "blocking or non-blocking"),
        ("json-file", {"tag": "{{.Weather}}"}, "{{.FullID}}"),
        ("json-file", {"syslog-address": "udp://a"}, "no option"),
        ("none", {"max-size": "1m"}, "it takes none"),
        ("syslog", {"syslog-facility": "weather"}, "local7"),
        ("syslog", {"syslog-facility": "24"}, "from 0 to 23"),
        ("syslog", {"syslog-format": "rfc3164"}, "rfc5424micro"),
        ("syslog", {"syslog-address": "tcp+tls://logs:6514"}, "TLS is not spoken here"),
        ("syslog", {"syslog-address": "http://logs"}, "udp://host:port"),
        ("syslog", {"syslog-address": "unix://dev/log"}, "absolute"),
        ("syslog", {"syslog-address": "udp://logs:0"}, "1 to 65535"),
        ("journald", {"max-buffer-size": "1"}, "from 4k"),
    ],
)
def test_what_cannot_work_is_said(driver: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidLogOptions) as refused:
        parse(driver, options)
    assert said in refused.value.detail
    assert refused.value.extra["option"] == next(iter(options), "")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("unix:///dev/log", ("unix", "/dev/log", "", 0)),
        ("udp://10.0.0.1", ("udp", "", "10.0.0.1", 514)),
        ("tcp://logs.example.org:6514", ("tcp", "", "logs.example.org", 6514)),
        ("udp://[fd00::1]:5514", ("udp", "", "fd00::1", 5514)),
        ("tcp://[::1]", ("tcp", "", "::1", 514)),
    ],
)
def test_addresses(text: str, parts: tuple[str, str, str, int]) -> None:
    address = parse_address(text)
    assert (address.scheme, address.path, address.host, address.port) == parts


def test_a_spec_names_the_field() -> None:
    spec = ContainerSpec(image="a", log_driver="syslog", log_options={"tag": "{{.Name}}"})
    assert spec.log_options["tag"] == "{{.Name}}"
    with pytest.raises(InvalidSpec) as refused:
        ContainerSpec(image="a", log_driver="splunk")
    assert refused.value.extra["field"] == "log_driver"
    with pytest.raises(InvalidSpec) as refused:
        ContainerSpec(image="a", log_options={"colour": "red"})
    assert refused.value.extra["field"] == "log_options"
