"""A private place on this machine for nodes: what tests make there disappears with the test process.

`isolate` moves the calling process into network and mount namespaces of its own, once. Everything started from it (supervisors,
containers, servers, browsers) is inside too; the machine's own interfaces, rules and mounts are never touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.sys import mountapi, process, rtnetlink
from agent.sys.netlink import Netlink

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
CGROUPS = Path("/sys/fs/cgroup")
DEADLINE = 10.0

_isolated = False
_outside: int | None = None  # the network namespace that we came from


def isolate() -> None:
    """Enter private namespaces, loopback up. Done again it does nothing. Needs root, and to be called from the main thread."""
    global _isolated, _outside
    if _isolated:
        return
    _outside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    process.unshare(CLONE_NEWNS | CLONE_NEWNET)
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        mountapi.set_attributes(root, 0, propagation=mountapi.MS_PRIVATE, recursive=True)
    finally:
        os.close(root)
    # Names of namespaces (`ip netns add n1`) are files: a directory of our own, or two runs on one machine would share them.
    os.makedirs("/run/netns", exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
    with Netlink() as route:
        route.batch([rtnetlink.set_link("lo", up=True)])
    _isolated = True


def outside(*words: str) -> list[str]:
    """A command line that runs `words` in the machine's own network, where its package mirror is."""
    return list(words) if _outside is None else ["nsenter", f"--net=/proc/{os.getpid()}/fd/{_outside}", *words]


@dataclass(frozen=True, slots=True)
class PrivateNode:
    """`cgroup` is a name under each hierarchy, for the parent of the node's containers."""

    home: Path
    cgroup: str


def cgroup_directories(name: str) -> list[Path]:
    """The directories of that name in every hierarchy of this machine."""
    return [path for path in [CGROUPS / name, *CGROUPS.glob(f"*/{name}")] if path.is_dir()]


def remove_cgroups(name: str) -> list[Path]:
    """Remove a cgroup tree in every hierarchy; what cannot be removed in time (a process is left in it) is returned."""
    deadline = time.monotonic() + DEADLINE
    while True:
        left = []
        for top in cgroup_directories(name):
            for directory in sorted((Path(found) for found, _, _ in os.walk(top)), key=lambda path: -len(path.parts)):
                try:
                    directory.rmdir()
                except OSError:
                    left.append(directory)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)  # the kernel removes a dead process's cgroup asynchronously: a deadline, not a guess


def remove_pretended_cgroups(name: str) -> None:
    """podman makes plain directories for controllers that are not mounted; gone after a cgroup's own removal."""
    for top in CGROUPS.glob(f"*/{name}"):
        for path in sorted((top, *top.rglob("*")), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


@pytest.fixture
def private_node() -> Iterator[PrivateNode]:
    """A home and a cgroup for one node; at the end no process may be left in the cgroup and no mount below the home."""
    isolate()
    home = Path(tempfile.mkdtemp(prefix="wharf-node-", dir="/tmp"))
    node = PrivateNode(home, f"wharf-test-{home.name[11:]}")
    yield node
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line]
    left = remove_cgroups(node.cgroup)
    assert not left, f"processes are left in {left}"
    assert not mounts, f"mounts are left below {home}: {mounts}"
    shutil.rmtree(home)
