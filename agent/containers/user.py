"""Who a container's process runs as: `user[:group]` by name or number, looked up inside the image.

Docker's rules: a number needs no entry in /etc/passwd; a name must have one; supplementary groups come from /etc/group when no
group is named. The files are read from the layers before anything is mounted, never through a symlink that leaves them.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from agent.protocol.codec import InvalidSpec
from agent.storage.detached import device_opened
from agent.sys.fs import open_beneath
from agent.sys.mount import Mount

MAX_FILE = 1 << 20


class UnknownUser(InvalidSpec):
    code = "unknown_user"


@dataclass(frozen=True, slots=True)
class ProcessUser:
    uid: int
    gid: int
    additional: tuple[int, ...]
    home: str


def resolve_user(text: str, passwd: str, group: str) -> ProcessUser:
    """Resolve `text` ("" = root) against the contents of passwd(5) and group(5). Raises `UnknownUser`."""
    user_text, _, group_text = text.partition(":")
    entry = _user(user_text or "0", passwd)
    if entry is None and not user_text.isdigit() and user_text:
        raise UnknownUser(
            f"user {user_text!r} is not in the image's /etc/passwd: use its number, or add it to the image", field="user"
        )
    uid, gid, name, home = entry or (int(user_text or 0), 0, "", "/")
    if group_text:
        return ProcessUser(uid, _group(group_text, group), (), home)
    extra = sorted({number for _, number, members in _groups(group) if name and name in members and number != gid})
    return ProcessUser(uid, gid, tuple(extra), home)


def _user(text: str, passwd: str) -> tuple[int, int, str, str] | None:
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) < 6 or not (fields[2].isdigit() and fields[3].isdigit()):
            continue
        if fields[0] == text or fields[2] == text:
            return int(fields[2]), int(fields[3]), fields[0], fields[5] or "/"
    return None


def _groups(group: str) -> list[tuple[str, int, list[str]]]:
    rows = (line.split(":") for line in group.splitlines())
    return [(row[0], int(row[2]), row[3].split(",")) for row in rows if len(row) >= 4 and row[2].isdigit()]


def _group(text: str, group: str) -> int:
    for name, number, _ in _groups(group):
        if name == text:
            return number
    if text.isdigit():
        return int(text)
    raise UnknownUser(f"group {text!r} is not in the image's /etc/group: use its number, or add it to the image", field="user")


def read_text(rootfs: list[Mount], path: str) -> str:
    """A small text file of a root file system that is not mounted yet; "" when it is absent or not a regular file."""
    root = rootfs[0]
    layers = _layers(root)
    if not layers and root.type != "bind":
        with device_opened(root) as fd:
            return _read(f"/proc/self/fd/{fd}/.", path) or ""
    for directory in layers or [root.source]:
        data = _read(directory, path)
        if data is not None:
            return data
    return ""


def _layers(root: Mount) -> list[str]:
    """An overlay's directories, topmost first."""
    upper = [option.removeprefix("upperdir=") for option in root.options if option.startswith("upperdir=")]
    return upper + [option.removeprefix("lowerdir=") for option in root.options if option.startswith("lowerdir=")]


def _read(directory: str, path: str) -> str | None:
    """None: look in the layer below; "": a whiteout or something that is no regular file ends the search."""
    root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_beneath(root, os.fsencode(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return None if error.errno == errno.ENOENT else ""
    finally:
        os.close(root)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return os.read(fd, MAX_FILE).decode("utf-8", "replace")
    finally:
        os.close(fd)
