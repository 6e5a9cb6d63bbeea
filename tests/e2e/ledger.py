"""What a host of the fleet holds in the kernel and on disk, counted so that two counts can be compared."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

from tests.e2e.fleet import Host
from tests.nodes import cgroup_directories

Ledger = dict[str, int]


def start_time(pid: int) -> int:
    """Clock ticks after boot (field 22 of proc_pid_stat(5)): with the pid it names one process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def processes(hosts: list[Host]) -> set[tuple[str, int, int]]:
    """(host, pid, start time) of each process in a container: the kernel's word, not the control plane's."""
    found = set()
    for name, pid in ((host.name, pid) for host in hosts for pid in host.container_pids()):
        with contextlib.suppress(OSError):  # ended meanwhile
            found.add((name, pid, start_time(pid)))
    return found


def holdings(host: Host) -> Ledger:
    """Everything that a container makes outside itself: each must be back when the container is gone."""
    run, links = _found(host, "/run", "-xdev"), json.loads(host.run("ip", "-j", "link", "show", "type", "veth"))
    homes = str(host.home / "agent")
    return {
        "cgroups": sum(len(names) + 1 for top in cgroup_directories(host.cgroup) for _, names, _ in os.walk(top)),
        "mounts": len(host.run("cat", "/proc/1/mountinfo").splitlines()),
        "veths": len(links),
        "files in /run": len(run),
        "fifos": len(_found(host, homes, "-type", "p")),
        "sockets": len(_found(host, homes, "-type", "s")),
        "container directories": len(
            _found(host, homes, "-mindepth", "2", "-maxdepth", "4", "-type", "d", "-not", "-path", "*/content/*")
        ),
        "published ports": _elements(json.loads(host.run("nft", "-j", "list", "ruleset"))),
        "processes": len(host.pids("")),
    }


def _found(host: Host, *words: str) -> list[str]:
    return host.run("find", *words).splitlines()


def _elements(ruleset: dict[str, Any]) -> int:
    """Elements of all nft sets and maps."""
    entries = [entry.get("map") or entry.get("set") for entry in ruleset["nftables"]]
    return sum(len(entry.get("elem", [])) for entry in entries if entry)


def descriptors(pid: int) -> Counter[str]:
    """Open descriptors of a process by what they are, numbers left out."""
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[re.sub(r"[0-9a-z]{25,}|[0-9]+", "N", os.readlink(entry))] += 1
        except FileNotFoundError:
            continue  # closed meanwhile
    return found
