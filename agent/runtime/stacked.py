"""An overlay on a kernel before 6.7, which takes layers neither one by one nor as a long fsconfig string: mount(2) with a page of
options, in a mount namespace of a helper's own, whence it comes as a detached mount like any other."""

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


def overlay(step: MountStep, attributes: int) -> int:
    """A detached mount of the overlay. OSError as the kernel gives it, InvalidConfig for too many layers."""
    ours, theirs = wire.pair()
    try:
        pid, pidfd = process.clone3(process.CLONE_NEWNS)
        if pid == 0:
            _make(step, attributes, theirs)
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


def _make(step: MountStep, attributes: int, channel: Channel) -> NoReturn:
    try:
        api.set_attributes(api.AT_FDCWD, 0, propagation=api.MS_PRIVATE, recursive=True, path=b"/")
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
