"""Mounts on a path that another process exchanges for a link to the host all the while.

A program of its own, in a mount namespace of its own. Prints where mounts came to lie outside the root, one a line.

    python race.py ours|naive ROOT VICTIM COUNT       ROOT/vol/target is a directory, ROOT/vol/link a link to VICTIM
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from agent.runtime import targets
from agent.sys import mountapi as api
from agent.sys import process

RENAME_EXCHANGE = 2


def exchange(volume: bytes, parent: int) -> None:
    """Until the parent is gone."""
    process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    libc = ctypes.CDLL(None)
    while os.getppid() == parent:
        libc.renameat2(-100, volume + b"/target", -100, volume + b"/link", RENAME_EXCHANGE)


def naive_target(root: bytes, path: bytes) -> int:
    """Check, then use: what looks like a directory inside is opened by its path, as runc did."""
    whole = root + b"/" + path
    resolved = os.path.realpath(whole)
    if not resolved.startswith(root + b"/"):
        resolved = root + b"/vol/target"
    return os.open(resolved, os.O_PATH | os.O_DIRECTORY)


def outside(root: str) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split()[4] for line in file if " - tmpfs wharf-race " in line]
    return [point for point in points if not point.startswith(root + "/")]


def new_filesystem() -> int:
    params: list[tuple[int, bytes, bytes | None, int]] = [(api.FSCONFIG_SET_STRING, b"source", b"wharf-race", 0)]
    return api.new_filesystem(b"tmpfs", params, 0)


def another(filesystem: int) -> int:
    try:
        return api.clone_tree(filesystem)
    except OSError as error:
        if error.errno != 22:  # EINVAL: before Linux 6.15 what is mounted nowhere cannot be copied
            raise
        return new_filesystem()


def main() -> None:
    mode, root, victim, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    process.unshare(process.CLONE_NEWNS)
    api.set_attributes(api.AT_FDCWD, 0, propagation=api.MS_PRIVATE, recursive=True, path=b"/")
    me = os.getpid()
    swapper = os.fork()
    if swapper == 0:
        exchange(os.fsencode(root) + b"/vol", me)
        os._exit(0)
    directory = os.open(root, os.O_PATH | os.O_DIRECTORY)
    filesystem = new_filesystem()
    done = failed = 0
    found: list[str] = []
    while done + failed < count and not found:
        try:
            target = (
                naive_target(os.fsencode(root), b"vol/target")
                if mode == "naive"
                else targets.target_in(directory, b"vol/target", True)
            )
        except OSError:
            failed += 1  # the path was gone for a moment: nothing was mounted
            continue
        mount = another(filesystem)
        api.attach(mount, target)
        os.close(mount)
        os.close(target)
        done += 1
        if done % 100 == 0:
            found = outside(root)
            unmount_all(root)
    os.kill(swapper, signal.SIGKILL)
    os.waitpid(swapper, 0)
    found = found or outside(root)
    print(*found, *(os.listdir(victim)), sep="\n")
    print(f"{done} mounts, {failed} lost", file=sys.stderr)
    if done * 2 < count and not found:
        sys.exit("most attempts failed: nothing was proved")


def unmount_all(root: str) -> None:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split()[4] for line in file if " - tmpfs wharf-race " in line]
    for point in points:
        try:
            api.unmount(os.fsencode(point))
        except OSError:
            pass  # exchanged away, or covered by another: it goes with the namespace


main()
