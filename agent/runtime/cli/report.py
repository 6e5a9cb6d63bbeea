"""state, list, ps, events, spec, features: what prints."""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
from typing import Any

from agent.protocol.errors import Conflict
from agent.runtime import caps, lock, mounts
from agent.runtime import spec as oci
from agent.runtime.cgroup import hierarchies
from agent.runtime.defaults import default_config
from agent.runtime.errors import WrongState
from agent.runtime.seccomp import compile as seccomp
from agent.runtime.seccomp import tables
from agent.runtime.state import StateDirectory, every
from agent.sys import landlock, nr

Options = argparse.Namespace


def _print(value: Any, indent: int | None = 2) -> None:
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")
    sys.stdout.flush()


def describe(directory: StateDirectory) -> dict[str, Any]:
    """The OCI state, with runc's additions."""
    state, config, status = directory.state(), directory.config(), directory.status()
    root = config["root"]["path"]
    return {
        "ociVersion": config["ociVersion"],
        "id": directory.id,
        "pid": 0 if status == "stopped" else state["pid"],
        "status": status,
        "bundle": state["bundle"],
        "rootfs": root if root.startswith("/") else os.path.join(state["bundle"], root),
        "created": state["created"],
        "annotations": config.get("annotations") or {},
        "owner": "root",
    }


def state(options: Options) -> int:
    _print(describe(StateDirectory(options.root, options.id)))
    return 0


def listing(options: Options) -> int:
    found = [describe(directory) for directory in every(options.root)]
    if options.quiet:
        for item in found:
            sys.stdout.write(item["id"] + "\n")
    elif options.format == "json":
        _print(found, None)
    else:
        columns = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
        rows = [columns, *([str(item[name.lower()]) for name in columns] for item in found)]
        widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
        for row in rows:
            sys.stdout.write("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
    return 0


def processes(options: Options) -> int:
    pids = StateDirectory(options.root, options.id).cgroup().pids()
    if options.format == "json":
        _print(pids, None)
        return 0
    sys.stdout.write(f"{'UID':<10}{'PID':<10}{'PPID':<10}CMD\n")
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8") as file:
                fields = {key: value.strip() for key, _, value in (line.partition(":") for line in file)}
            with open(f"/proc/{pid}/cmdline", "rb") as file2:
                command = file2.read().replace(b"\0", b" ").decode(errors="replace").strip() or fields["Name"]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
        sys.stdout.write(f"{fields['Uid'].split()[0]:<10}{pid:<10}{fields['PPid']:<10}{command}\n")
    return 0


def events(options: Options) -> int:
    directory = StateDirectory(options.root, options.id)
    if not directory.alive():
        raise WrongState(f"container with id {options.id} is not running")
    cgroup = directory.cgroup()
    if options.stats:
        _print({"type": "stats", "id": options.id, "data": cgroup.stats()}, None)
        return 0
    pidfd = os.pidfd_open(directory.state()["pid"])
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    killed = cgroup.oom_count()
    while not poller.poll(float(options.interval.rstrip("s")) * 1000):
        usage = cgroup.stats()
        _print({"type": "stats", "id": options.id, "data": usage}, None)
        if usage["memory"].get("oom_kills", 0) > killed:
            killed = usage["memory"]["oom_kills"]
            _print({"type": "oom", "id": options.id}, None)
    return 0


def spec(options: Options) -> int:
    userns = (os.getuid(), os.getgid(), 1) if options.rootless else None
    config = default_config(["sh"], terminal=True, hostname="wharf", userns=userns, readonly_rootfs=True)
    path = os.path.join(options.bundle, "config.json")
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(config, file, indent=4)
    except FileExistsError:
        raise Conflict(f"file {path} exists. Remove it first") from None
    return 0


def features(options: Options) -> int:
    words = [*mounts.ATTRIBUTES, *("r" + word for word in mounts.ATTRIBUTES)]
    words += [*mounts.PROPAGATION, *("r" + word for word in mounts.PROPAGATION), "bind", "rbind", "idmap", "ridmap", "tmpcopyup"]
    tree = hierarchies()
    _print(
        {
            "ociVersionMin": "1.0.0",
            "ociVersionMax": "1.2.0",
            "hooks": list(oci.HOOKS),
            "mountOptions": sorted(words),
            "annotations": {lock.ANNOTATION: "on, off", f"{lock.ANNOTATION}.abi": str(landlock.abi())},
            "linux": {
                "namespaces": list(oci.NAMESPACES),
                "capabilities": list(caps.NAMES[: caps.last() + 1]),
                "cgroup": {"v1": bool(tree.v1), "v2": tree.v2 is not None, "systemd": False, "systemdUser": False, "rdma": True},
                "seccomp": {
                    "enabled": True,
                    "actions": list(seccomp.ACTIONS),
                    "operators": list(seccomp.OPERATORS),
                    "archs": [tables.SCMP_ARCH[nr.MACHINE], tables.SCMP_ARCH[tables.COMPAT[nr.MACHINE]]],
                    "knownFlags": list(seccomp.FLAGS),
                    "supportedFlags": list(seccomp.FLAGS),
                },
                "apparmor": {"enabled": False},
                "selinux": {"enabled": False},
                "intelRdt": {"enabled": False},
                "mountExtensions": {"idmap": {"enabled": True}},
            },
        }
    )
    return 0
