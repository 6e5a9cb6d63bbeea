"""What people write on the command line, and the specs that come of it."""

from __future__ import annotations

from typing import Any

import pytest

from agent.protocol import codec
from agent.protocol.spec import ContainerSpec, Isolation, MountSpec, PortSpec
from controlplane.cli.session import Failure
from nodes.cli.image import _words
from nodes.cli.quantities import age_text, parse_cpus, parse_duration, parse_moment, parse_pairs, parse_size, size_text
from nodes.cli.service import _changes, _name_of, _replaces, without_env_loss
from nodes.cli.service_options import parse_mount, parse_port, parse_storage


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("512", 512), ("512m", 512 << 20), ("1.5GiB", 3 << 29), ("2kb", 2048), ("1T", 1 << 40)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1 m m", "1e3"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(Failure, match="no size") as caught:
        parse_size(text)
    assert caught.value.exit_code == 2


def test_cores() -> None:
    assert parse_cpus("0.5") == 500_000_000
    assert parse_cpus("2") == 2_000_000_000
    for text in ("", "-1", "many", "nan", "inf"):
        with pytest.raises(Failure, match="cores"):
            parse_cpus(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5", 1.5), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("7d", 604800), ("0.5s", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "10x", "m10", "1m1h", "-5s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(Failure, match="no duration"):
        parse_duration(text)


def test_moments() -> None:
    assert parse_moment("10m", 10_000.0) == 9400.0
    assert parse_moment("1767225600", 0.0) == 1767225600.0
    assert parse_moment("2026-01-01T00:00:00Z", 0.0) == 1767225600.0
    assert parse_moment("2026-01-01T01:00:00+01:00", 0.0) == 1767225600.0
    assert parse_moment("2026-01-01", 0.0) == 1767225600.0
    with pytest.raises(Failure, match="no time"):
        parse_moment("2026-13-01", 0.0)


def test_isolation() -> None:
    asked = without_env_loss({"name": "web", "container": {"image": "web", "env": {}, "labels": {}, "isolation": "shim"}})
    assert codec.decode(ContainerSpec, asked["container"]).isolation is Isolation.SHIM
    left = without_env_loss({"name": "web", "container": {"image": "web", "env": {}, "labels": {}, "isolation": ""}})
    assert codec.decode(ContainerSpec, left["container"]).isolation is Isolation.NODE
    with pytest.raises(codec.InvalidSpec, match="isolation"):
        codec.decode(ContainerSpec, {"image": "web", "isolation": "vm"})


def test_pairs() -> None:
    assert parse_pairs(["a=1", "b=x=y", "c="], "--env") == {"a": "1", "b": "x=y", "c": ""}
    assert parse_pairs(["HOME", "NOSUCH"], "--env", defaults={"HOME": "/root"}) == {"HOME": "/root"}
    assert parse_pairs(["key"], "--label") == {"key": ""}
    with pytest.raises(Failure, match="no key"):
        parse_pairs(["=1"], "--env")


def test_figures_for_people() -> None:
    assert [size_text(count) for count in (0, 1023, 1536, 5 << 30, 3 << 40)] == ["0B", "1023B", "1.5KiB", "5.0GiB", "3.0TiB"]
    assert [age_text("2026-01-01T00:00:00Z", 1767225600 + s) for s in (5, 300, 9000, 400_000)] == ["5 s", "5 min", "2 h", "4 d"]
    assert age_text(None) == ""


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("80", {"target": 80}),
        ("8080:80", {"target": 80, "published": 8080}),
        ("53:53/udp", {"target": 53, "published": 53, "protocol": "udp"}),
        ("127.0.0.1:8080:80/tcp", {"target": 80, "published": 8080, "host_ip": "127.0.0.1", "protocol": "tcp"}),
        ("[::1]:8080:80", {"target": 80, "published": 8080, "host_ip": "::1"}),
        ("published=8080,target=80,protocol=udp,mode=host", {"target": 80, "published": 8080, "protocol": "udp", "mode": "host"}),
    ],
)
def test_ports(text: str, port: dict[str, Any]) -> None:
    assert parse_port(text) == port
    codec.decode(PortSpec, port)


def test_storage_size() -> None:
    assert parse_storage(()) is None
    assert parse_storage(("size=1g", "size=1.5g")) == 3 << 29
    for text in ("10g", "colour=red", "size=much"):
        with pytest.raises(Failure):
            parse_storage((text,))


@pytest.mark.parametrize("text", ["", "x", "80:", "8080:x", "99999:80", "80/sctp", "published=80", "target=80,colour=red"])
def test_no_ports(text: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_port(text)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("type=bind,src=/a,dst=/b,ro", {"type": "bind", "source": "/a", "target": "/b", "read_only": True}),
        ("src=data,dst=/b,readonly=false", {"type": "volume", "source": "data", "target": "/b", "read_only": False}),
        ("type=tmpfs,target=/t,tmpfs-size=64m", {"type": "tmpfs", "target": "/t", "tmpfs_size": 64 << 20}),
    ],
)
def test_mounts(text: str, mount: dict[str, Any]) -> None:
    assert parse_mount(text) == mount
    codec.decode(MountSpec, mount)


@pytest.mark.parametrize("text", ["type=bind,src=/a", "dst=/b,colour=red", ""])
def test_no_mounts(text: str) -> None:
    with pytest.raises(Failure) as caught:
        parse_mount(text)
    assert caught.value.exit_code == 2


def test_what_was_not_asked_for_is_left_to_the_server() -> None:
    spec = {
        "name": "web",
        "replicas": 0,
        "labels": {"empty": ""},
        "placement": {"constraints": None, "max_replicas_per_node": None},
        "container": {"image": "web", "env": {"EMPTY": ""}, "labels": {}, "user": "", "ports": [], "resources": {"memory": None}},
    }
    container = {"image": "web", "env": {"EMPTY": ""}}
    assert without_env_loss(spec) == {"name": "web", "replicas": 0, "labels": {"empty": ""}, "container": container}
    codec.decode(ContainerSpec, container)


def test_names_come_from_images() -> None:
    assert [_name_of(text) for text in ("team/web:1", "web", f"a/b/c@sha256:{'0' * 64}")] == ["web", "web", "c"]


def test_words_are_a_json_list_or_a_shells() -> None:
    assert _words('["a", "b c"]') == ["a", "b c"]
    assert _words("sh -c 'echo \"$HOME\"'") == ["sh", "-c", 'echo "$HOME"']
    assert _words("") == []
    for text in ("[1", "'open"):
        with pytest.raises(Failure):
            _words(text)


def test_a_patch_removes_by_null() -> None:
    assert _changes(["a=1"], ["b"], "--env-add") == {"a": "1", "b": None}
    assert _changes(None, None, "--env-add") is None


def test_an_update_is_expected_only_when_tasks_are_made_of_something_else() -> None:
    digest = f"@sha256:{'0' * 64}"

    def row(image: str, **container: Any) -> dict[str, Any]:
        return {"image": image, "spec": {"container": {"image": image.partition("@")[0], **container}}}

    assert not _replaces(row(f"web:1{digest}"), row(f"web:2{digest}")), "another tag of the same digest"
    assert _replaces(row(f"web:1{digest}"), row(f"web:1@sha256:{'1' * 64}"))
    assert _replaces(row(f"web:1{digest}"), row(f"web:1{digest}", env={"A": "1"}))
