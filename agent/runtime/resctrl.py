"""linux.intelRdt: shares of caches and memory bandwidth by the kernel's resctrl (runtime-spec config-linux.md, "IntelRdt";
kernel x86/resctrl). A directory there is a class of service; a process belongs to the one whose `tasks` it was written to."""

from __future__ import annotations

import os

from agent.runtime.cgroup import files
from agent.runtime.errors import InvalidConfig, RuntimeFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def mounted(mountinfo: str = "/proc/self/mountinfo") -> str:
    """Where resctrl is; "" when it is nowhere."""
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            if after.startswith("resctrl "):
                return before.split(" ")[4].replace("\\040", " ")
    return ""


class Class:
    """The class of service of one container. Raises InvalidConfig; nothing is touched before `assign`."""

    __slots__ = ("_lines", "_monitored", "_own", "id", "path")

    def __init__(self, wanted: dict[str, Any], id: str, root: str | None = None) -> None:
        root = mounted() if root is None else root
        if not root:
            raise InvalidConfig("intelRdt needs a mounted resctrl, which this node does not have; leave it out")
        name = wanted.get("closID") or ""
        if name != "/" and ("/" in name or name in (".", "..", "info", "mon_groups", "mon_data")):
            raise InvalidConfig(f"intelRdt.closID is {name!r}; it must be a name without slashes, or / for the default class")
        self.id = id
        self.path = root if name == "/" else os.path.join(root, name or id)
        self._own = not name
        self._monitored = bool(wanted.get("enableMonitoring"))
        self._lines = [line for line in (wanted.get("l3CacheSchema"), wanted.get("memBwSchema")) if line]
        if (wanted.get("memBwSchema") or "MB:")[:3] != "MB:":
            raise InvalidConfig("intelRdt.memBwSchema must start with MB:")
        self._lines += wanted.get("schemata") or ()
        if any("\n" in line for line in self._lines):
            raise InvalidConfig("intelRdt: a schema is one line, without a newline")

    def assign(self, pid: int) -> None:
        """Make the class if need be, and put the process in. Raises InvalidConfig, RuntimeFailed."""
        try:
            if os.path.isdir(self.path) and not self._own:
                self._compare()
            elif not self._own and not self._lines:
                raise InvalidConfig(f"intelRdt.closID names {self.path}, which does not exist; make it, or give schemata")
            else:
                os.makedirs(self.path, exist_ok=True)
                for line in self._lines:
                    files.write(self.path + "/schemata", line + "\n")
            files.write(self.path + "/tasks", str(pid))
            if self._monitored:
                os.mkdir(f"{self.path}/mon_groups/{self.id}")
                files.write(f"{self.path}/mon_groups/{self.id}/tasks", str(pid))
        except OSError as error:
            raise RuntimeFailed(f"intelRdt: {error}", stage="intelRdt", errno=error.errno) from error

    def _compare(self) -> None:
        """Others may be in the class already: what is asked for must be what they have."""
        there = _shares(files.read(self.path + "/schemata").splitlines())
        for key, value in _shares(self._lines).items():
            if there.get(key) != value:
                raise InvalidConfig(f"intelRdt asks for {':'.join(key)}={value}, but {self.path} has {there.get(key)}")

    def remove(self) -> None:
        """What this container made, and nothing of others."""
        for made, path in ((self._monitored, f"{self.path}/mon_groups/{self.id}"), (self._own, self.path)):
            if made:
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    pass  # a creation that was cut short


def _shares(lines: list[str]) -> dict[tuple[str, str], str]:
    """{(resource, domain): value} of lines such as "L3:0=7f0;1=1f"; the kernel pads with blanks and zeros."""
    found = {}
    for line in lines:
        resource, _, rest = line.strip().partition(":")
        for part in rest.split(";"):
            domain, _, value = part.partition("=")
            found[resource.strip(), domain.strip()] = value.strip().lower().lstrip("0") or "0"
    return found
