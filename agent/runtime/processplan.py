"""The `process` object of config.json, parsed: a container's init, or an exec."""

from __future__ import annotations

from agent.runtime import caps, labels, ranges, schema, spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEEP_GROUPS = "run.oci.keep_original_groups"  # crun's annotation: the caller's supplementary groups stay
_TERMINAL_MOST = 0xFFFF  # struct winsize


class ProcessPlan:
    """A process to run in a container. `umask` None: the caller's; `groups` None: the caller's; `affinity`: (initial, final)."""

    __slots__ = (
        "affinity", "args", "caps", "console_size", "cwd", "env", "gid", "groups", "io_priority", "labels", "no_new_privs",
        "oom_score_adj", "rlimits", "scheduler", "terminal", "uid", "umask",
    )  # fmt: skip

    def __init__(self, config: dict[str, Any], annotations: dict[str, str] | None = None) -> None:
        spec.validate_process(config)
        user = config.get("user") or {}
        self.args = [arg.encode(errors="surrogateescape") for arg in config["args"]]
        self.env = [item.encode(errors="surrogateescape") for item in config.get("env") or ()]
        self.cwd = config["cwd"].encode(errors="surrogateescape")
        self.uid, self.gid = user.get("uid") or 0, user.get("gid") or 0
        keep = (annotations or {}).get(KEEP_GROUPS, "0") not in ("", "0", "false")
        self.groups: list[int] | None = None if keep else list(user.get("additionalGids") or ())
        self.umask: int | None = user.get("umask")
        self.caps = caps.CapabilitySets(config.get("capabilities") or {})
        self.no_new_privs = bool(config.get("noNewPrivileges"))
        self.rlimits = [(schema.RLIMITS[item["type"]], item["soft"], item["hard"]) for item in config.get("rlimits") or ()]
        self.oom_score_adj: int | None = config.get("oomScoreAdj")
        self.terminal = bool(config.get("terminal"))
        self.console_size = _console_size(config.get("consoleSize")) if self.terminal else None
        self.io_priority = _io_priority(config.get("ioPriority"))
        self.scheduler = _scheduler(config.get("scheduler"))
        self.labels = labels.of_process(config)
        self.affinity = _affinity(config.get("execCPUAffinity") or {})


def _console_size(size: dict[str, Any] | None) -> tuple[int, int] | None:
    if not size or not size.get("height") or not size.get("width"):
        return None
    return min(size["height"], _TERMINAL_MOST), min(size["width"], _TERMINAL_MOST)


def _affinity(wanted: dict[str, Any]) -> tuple[list[int], list[int]]:
    """(before joining the cgroup, after it); [] for no change."""
    first = ranges.numbers(wanted.get("initial") or "", "process.execCPUAffinity.initial")
    last = ranges.numbers(wanted.get("final") or "", "process.execCPUAffinity.final")
    return first, last


def _io_priority(config: dict[str, Any] | None) -> int | None:
    """Class and level as ioprio_set(2) takes them."""
    if not config:
        return None
    return schema.IO_CLASSES[config["class"]] << 13 | int(config.get("priority") or 0)


def _scheduler(config: dict[str, Any] | None) -> bytes | None:
    """struct sched_attr of SCHED_ATTR_SIZE_VER1 (sched_setattr(2)); the spec has no values for utilisation clamps."""
    if not config:
        return None
    import struct

    bits = 0
    for name in config.get("flags") or ():
        bits |= schema.SCHEDULER_FLAGS[name]
    nice, priority, *times = (config.get(key) or 0 for key in ("nice", "priority", "runtime", "deadline", "period"))
    priority &= 0xFFFFFFFF  # the kernel refuses what is out of its range
    return struct.pack("=IIQiIQQQII", 56, schema.POLICIES[config["policy"]], bits, nice, priority, *times, 0, 0)
