"""A robot with a real client: it logs in, pushes and pulls where it may, and is refused elsewhere and once it is disabled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conformance.distribution.cases.manifests import push
from tests.conformance.distribution.client import Registry
from tests.conformance.distribution.content import image
from tests.integration.registry.clients import Host, skopeo, write_layout
from tests.integration.registry.server import RegistryServer
from tests.integration.registry.test_tokens import python_settings

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="this machine has no skopeo (Debian package skopeo)")

MAKE = """
from registry.actions import robots
alice = actor_of_user(User.objects.get(username="alice"))
rights = [{{"repositories": "{name}", "actions": ["pull", "push"]}}]
print(robots.create_robot(alice, "{robot}", namespace="alice", rights=rights)[1])
"""
DISABLE = """
from registry.actions import robots
robots.update_robot(SYSTEM, Robot.objects.get(full_name="alice+{robot}"), disabled=True)
"""


def test_skopeo_as_a_robot(server: RegistryServer, home: Path, host: Host, alice: Registry) -> None:
    address, options = host
    name, other, robot = alice.repository(), alice.repository(), f"ci-{len(options)}"
    push(alice, name, image(), "first")
    push(alice, other, image(), "first")
    secret = python_settings(server, MAKE.format(name=name, robot=robot)).strip()
    skopeo(home, "login", *options, "-u", f"alice+{robot}", "-p", secret, address)
    assert "invalid username/password" in skopeo(
        home, "login", *options, "-u", f"alice+{robot}", "-p", secret[:-2] + "xx", address, fails=True
    )
    skopeo(home, "login", *options, "-u", f"alice+{robot}", "-p", secret, address)
    document = image()
    write_layout(home / "layout", document)
    to = [option.replace("--", "--dest-", 1) if option.startswith("--") else option for option in options]
    skopeo(home, "copy", *to, f"oci:{home / 'layout'}:img", f"docker://{address}/{name}:robots")
    assert document.digest in skopeo(home, "inspect", *options, f"docker://{address}/{name}:robots")
    skopeo(home, "copy", *to, f"oci:{home / 'layout'}:img", f"docker://{address}/{other}:robots", fails=True)
    skopeo(home, "inspect", *options, f"docker://{address}/{other}:first", fails=True)
    python_settings(server, DISABLE.format(robot=robot))
    skopeo(home, "inspect", *options, f"docker://{address}/{name}:robots", fails=True)
