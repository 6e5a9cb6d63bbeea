"""What exec's options change of the container's own process. Imported by the supervisor, too: nothing heavy."""

from __future__ import annotations

from agent.runtime.cgroup import hierarchies
from agent.runtime.errors import CgroupRefused, InvalidConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from agent.runtime.cli.arguments import Options


def process(base: dict[str, Any], options: Options) -> dict[str, Any]:
    """An OCI process object. Raises InvalidConfig."""
    args = options.words[1:]
    if args[:1] == ["--"]:
        args = args[1:]
    if not args:
        raise InvalidConfig("process args cannot be empty")
    made = {**base, "args": args, "terminal": options.flag("tty"), "env": [*(base.get("env") or ()), *options.many("env")]}
    made.pop("consoleSize", None)
    for option, key in (("cwd", "cwd"), ("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if options.text(option):
            made[key] = options.text(option)
    if options.flag("no-new-privs"):
        made["noNewPrivileges"] = True
    made["user"] = _user(dict(base.get("user") or {}), options)
    if options.many("cap"):
        made["capabilities"] = _capabilities(base.get("capabilities") or {}, options.many("cap"), made["user"].get("uid", 0))
    return made


def read(path: str, loads: Callable[[bytes], Any]) -> dict[str, Any]:
    """The file of -p, as it is. Raises InvalidConfig."""
    try:
        with open(path, "rb") as file:
            found = loads(file.read())
    except ValueError as error:
        raise InvalidConfig(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidConfig(f"{path} is not a JSON object")
    return found


def _user(user: dict[str, Any], options: Options) -> dict[str, Any]:
    """Another uid does not keep the init's groups."""
    if options.text("user"):
        uid, colon, gid = options.text("user").partition(":")
        user["uid"] = _number(uid, "uid")
        if colon:
            user["gid"] = _number(gid, "gid")
    more = [_number(gid, "additional gid") for gid in options.many("additional-gids")]
    user["additionalGids"] = [*(user.get("additionalGids") or ()), *more]
    return user


def _capabilities(base: dict[str, Any], names: list[str], uid: int) -> dict[str, list[str]]:
    """runc's rule: to bounding, effective and permitted; and for a user without uid 0 to those that survive its execve."""
    added = [name if name.upper().startswith("CAP_") else "CAP_" + name for name in names]
    sets = {key: list(value or ()) for key, value in base.items()}
    for key in ("bounding", "effective", "permitted"):
        sets[key] = [*sets.get(key, []), *(name.upper() for name in added)]
    if uid and sets.get("ambient"):
        for key in ("inheritable", "ambient"):
            sets[key] = [*sets.get(key, []), *(name.upper() for name in added)]
    return sets


def _number(text: str, what: str) -> int:
    if not text.isdigit():
        raise InvalidConfig(f"{what} {text!r} is not a number; exec takes UID[:GID], and group ids")
    return int(text)


def below(wanted: list[str], container: str) -> dict[str, str]:
    """Of --cgroup: the directory below the container's cgroup by v1 controller, "" for every other hierarchy.

    Raises InvalidConfig and CgroupRefused, in runc's words.
    """
    tree, found = hierarchies(), {}
    for item in wanted:
        controllers, colon, path = item.rpartition(":")
        if ".." in path.split("/"):
            raise InvalidConfig(f"bad sub cgroup path: {path} is not a sub cgroup path")
        for name in controllers.split(",") if colon else [""]:
            key = name if name in tree.v1 or not name else f"name={name}"
            if key and key not in tree.v1:
                raise InvalidConfig(f"unknown controller {name} in --cgroup {item}")
            found[key] = path.strip("/")
    return _checked(found, container)


def _checked(found: dict[str, str], container: str) -> dict[str, str]:
    import os

    tree = hierarchies()
    for key, path in found.items():
        points = [tree.v1[key]] if key else tree.mount_points()
        for point in points:
            directory = os.path.join(point + container, path)
            if not os.path.isdir(directory):
                raise CgroupRefused(f"error adding pid to cgroups: open {directory}/cgroup.procs: no such file or directory")
    return found
