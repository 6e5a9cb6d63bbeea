"""Device mapper through dmsetup(8): devices, tables, messages. Needs the package dmsetup and CONFIG_BLK_DEV_DM.

Raises `ProgramFailed` with dmsetup's own words. Tables and messages: Linux documentation, thin-provisioning.rst.
"""

from __future__ import annotations

import os

from agent.sys import programs

CONTROL = "/dev/mapper/control"
DIRECTORY = "/dev/mapper"


def available() -> bool:
    return os.path.exists(CONTROL)


def path(name: str) -> str:
    return f"{DIRECTORY}/{name}"


def exists(name: str) -> bool:
    return os.path.exists(path(name))


def create(name: str, table: str) -> None:
    programs.run("dmsetup", "create", name, "--table", table)
    if not exists(name):
        _tell_node(name)


def remove(name: str, *, deferred: bool = False) -> None:
    """`deferred`: as soon as its last user lets go; else it fails while the device is in use."""
    programs.run("dmsetup", "remove", *(["--deferred"] if deferred else ["--retry"]), name)
    if os.path.lexists(path(name)):
        _tell_node(name)


def _tell_node(name: str) -> None:
    """Make or remove the node in /dev/mapper as the kernel has the device: dmsetup leaves that to udev, which may not run."""
    programs.run("dmsetup", "mknodes", name)


def suspend(name: str) -> None:
    """Flush and hold; a file system on it is frozen, so that a snapshot taken now is whole."""
    programs.run("dmsetup", "suspend", name)


def resume(name: str) -> None:
    programs.run("dmsetup", "resume", name)


def message(name: str, text: str) -> None:
    programs.run("dmsetup", "message", name, "0", text)


def status(name: str) -> list[str]:
    """The words of the target's status line, from its kind on."""
    return programs.run("dmsetup", "status", name).split()[2:]
