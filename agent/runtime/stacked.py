"""An overlay by mount(2) with a page of options, in a mount namespace of a helper's own, whence it comes as a detached mount.

For kernels that take layers neither one by one nor as a long fsconfig string (before 6.7), or shifted ones not by descriptor
(before 6.13).
"""

from __future__ import annotations

import os

from agent.runtime import channel as wire
from agent.runtime.errors import InvalidConfig
from agent.sys import mountapi as api
from agent.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from agent.runtime.channel import Channel
    from agent.runtime.mounts import MountStep

PAGE = 4095  # bytes of options that mount(2) takes


def overlay(step: MountStep, attributes: int, owner: int = -1) -> int:
    """A detached mount of the overlay. `owner`: a user namespace to shift its layers into (Linux 5.19). OSError as the kernel
    gives it, InvalidConfig for too many layers."""
    ours, theirs = wire.pair()
    try:
        pid, pidfd = process.clone3(process.CLONE_NEWNS)
        if pid == 0:
            _make(step, attributes, owner, theirs)
        theirs.close()
        kind, payload, fds = ours.receive()
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
    finally:
        ours.close()
        theirs.close()
    if kind == b"M":
        return fds[0]
    stage, number, text = wire.unpack_failure(payload) if kind else ("", 0, "its helper died")
    if stage == "options":
        raise InvalidConfig(text)
    raise OSError(number, f"mount overlay: {text}")


def _make(step: MountStep, attributes: int, owner: int, channel: Channel) -> NoReturn:
    try:
        api.set_attributes(api.AT_FDCWD, 0, propagation=api.MS_PRIVATE, recursive=True, path=b"/")
        if owner >= 0:
            _shift(step, owner)
        options = _options(step)
        if len(options) > PAGE:
            count = len(step.lowers)
            text = f"{count} layers are more than this kernel can stack; use Linux 6.7 or newer, or an image of fewer layers"
            channel.send(b"E", wire.pack_failure("options", 0, text))
        else:
            target = step.lowers[0]  # a directory that is there, covered for nobody but us
            api.mount_with_options(b"overlay", target, b"overlay", options)
            mount = api.clone_tree(api.AT_FDCWD, target)
            api.set_attributes(mount, attributes)
            channel.send(b"M", b"", [mount])
    except OSError as error:
        channel.send(b"E", wire.pack_failure("mount", error.errno or 0, error.strerror or ""))
    finally:
        os._exit(0)


def _shift(step: MountStep, owner: int) -> None:
    """Cover each layer by a shifted view of itself: overlay takes nothing but what is mounted in its maker's namespace."""
    places = [*step.lowers, *{os.path.dirname(path) for path in writable(step).values()}]
    views = [(place, api.clone_tree(api.AT_FDCWD, place)) for place in places]  # all, before one hides another
    for place, view in views:
        api.set_attributes(view, api.MOUNT_ATTR_IDMAP, userns_fd=owner)
        api.attach_at(view, place)


def writable(step: MountStep) -> dict[bytes, bytes]:
    """upperdir and workdir, if there are any. Shifted ones must lie side by side: overlay wants them on one mount."""
    places = {key: value for _, key, value, _ in step.params if key in (b"upperdir", b"workdir") and value}
    if step.idmap and len({os.path.dirname(path) for path in places.values()}) > 1:
        raise InvalidConfig("upperdir and workdir must lie in one directory, to be shifted together")
    return places


def _options(step: MountStep) -> bytes:
    """Every directory by a descriptor: short, and free of the commas and colons that would end it."""

    def short(path: bytes) -> bytes:
        return b"/proc/self/fd/%d" % os.open(path, os.O_PATH | os.O_DIRECTORY)

    words = [b"lowerdir=" + b":".join(short(lower) for lower in step.lowers)]
    for _, key, value, _ in step.params:
        if key in (b"upperdir", b"workdir") and value:
            words.append(key + b"=" + short(value))
        elif key != b"source":
            words.append(key + (b"=" + value if value else b""))
    return b",".join(words)
