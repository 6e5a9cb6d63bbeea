"""Which repository a pull with `ns` means."""

from __future__ import annotations

import pytest

from registry.v2.upstreams import Upstream, hosts_of, is_host, is_ours, resolve

HUB = hosts_of("https://registry-1.docker.io")
SITE = hosts_of("https://registry.example.org:443")
UPSTREAMS = (
    Upstream("hub", HUB),
    Upstream("official", HUB, "library"),
    Upstream("again", HUB, "library"),
    Upstream("deep", SITE, "team/base"),
)


@pytest.mark.parametrize(
    ("host", "name", "ours"),
    [
        ("docker.io", "library/nginx", "official/nginx"),  # the longest prefix, the first of two
        ("Docker.IO", "grafana/grafana", "hub/grafana/grafana"),
        ("docker.io", "library", "hub/library"),  # the prefix itself is no repository below it
        ("docker.io", "libraryx/nginx", "hub/libraryx/nginx"),
        ("docker.io", "official/nginx", "official/nginx"),  # ours already
        ("docker.io", "deep/app", "hub/deep/app"),  # a namespace of another registry says nothing
        ("registry.example.org", "team/base/app", "deep/app"),
        ("registry.example.org:443", "team/base/app", "deep/app"),
        ("registry.example.org:5000", "team/base/app", None),
        ("registry.example.org", "team/app", None),
        ("registry.example.net", "team/base/app", None),
    ],
)
def test_the_repository_that_shows_it(host: str, name: str, ours: str | None) -> None:
    assert resolve(UPSTREAMS, host, name) == ours


@pytest.mark.parametrize(
    ("host", "base_url", "yes"),
    [
        ("wharf.example.org:8443", "https://wharf.example.org:8443", True),
        ("wharf.example.org:443", "https://wharf.example.org", True),
        ("wharf.example.org", "http://wharf.example.org:8080", False),
        ("Names.example.org", "https://10.0.0.1:8443", True),
        ("names.example.org:8443", "https://10.0.0.1:8443", True),
        ("names.example.org:5000", "https://10.0.0.1:8443", False),
        ("[::1]:8443", "https://[::1]:8443", True),
        ("other.example.org", "https://[::1]", False),
    ],
)
def test_our_own_name(host: str, base_url: str, yes: bool) -> None:
    assert is_ours(host, base_url, ["names.example.org"]) == yes


def test_what_cannot_be_a_host_is_never_echoed() -> None:
    assert all(map(is_host, ("a", "a.b:5000", "[::1]:5000", "10.0.0.1")))
    assert not any(map(is_host, ("", "a\r\nx: y", "a/b", "\u212aelvin", "a:b", "a b", "a\n")))
