"""podman's default seccomp profile, resolved to what it hands to crun: the filter that peers' users really start with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path("/usr/share/containers/seccomp.json")  # Debian package golang-github-containers-common
ARCHITECTURES = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]


def podman_profile(capabilities: tuple[str, ...]) -> dict[str, Any] | None:
    """As an OCI linux.seccomp for amd64; None where the file is not installed."""
    if not FILE.exists():
        return None
    document = json.loads(FILE.read_text())
    rules = []
    for rule in document["syscalls"]:
        if _applies(rule.get("includes") or {}, rule.get("excludes") or {}, set(capabilities)):
            made = {"names": rule["names"], "action": rule["action"]}
            made.update({key: rule[key] for key in ("args", "errnoRet") if rule.get(key)})
            rules.append(made)
    profile = {"defaultAction": document["defaultAction"], "architectures": ARCHITECTURES, "syscalls": rules}
    if "defaultErrnoRet" in document:
        profile["defaultErrnoRet"] = document["defaultErrnoRet"]
    return profile


def _applies(includes: dict[str, list[str]], excludes: dict[str, list[str]], capabilities: set[str]) -> bool:
    """containers/common, pkg/seccomp: every listed capability, any listed architecture."""
    if "arches" in includes and "amd64" not in includes["arches"]:
        return False
    if "amd64" in excludes.get("arches", ()):
        return False
    return capabilities.issuperset(includes.get("caps", ())) and not capabilities.intersection(excludes.get("caps", ()))
