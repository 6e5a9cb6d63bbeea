"""linux.netDevices: links of the host that move into the container's network namespace (runtime-spec 1.3, config-linux.md).

A link keeps what it is; its addresses the kernel drops on the way, so the permanent global ones are given to it again. It is
never moved back: physical links return by themselves when the namespace dies. Everything is looked at before anything is moved,
since a namespace that dies after a failure takes virtual links with it.
"""

from __future__ import annotations

import os

from agent.runtime.errors import InvalidConfig, RuntimeFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from agent.sys.netlink import Netlink


def move(wanted: list[tuple[str, str]], pid: int) -> None:
    """`wanted`: (name here, name or template there), into the network namespace of process `pid`.

    Raises InvalidConfig for a device that cannot be moved, RuntimeFailed for one that the kernel keeps.
    """
    from agent.sys import netns  # sockets and threads: what a container without such devices need not pay for
    from agent.sys.netlink import Netlink

    target = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(target).st_ino == os.stat("/proc/self/ns/net").st_ino:
            raise InvalidConfig("netDevices: the container's network namespace is the runtime's own; give it another")
        with Netlink() as ours, netns.inside(target, Netlink) as theirs:
            _check(ours, theirs, wanted)
            for name, wish in wanted:
                _move(ours, theirs, target, name, wish)
    finally:
        os.close(target)


def _check(ours: Netlink, theirs: Netlink, wanted: list[tuple[str, str]]) -> None:
    from agent.sys import rtnetlink

    here, there = rtnetlink.links(ours), rtnetlink.links(theirs)
    for name, wish in wanted:
        if name not in here:
            raise InvalidConfig(f"netDevices names {name}, but this node has no such network device")
        if wish in there:
            raise InvalidConfig(f"netDevices: the container's network namespace has a {wish} already; give {name} another name")


def _move(ours: Netlink, theirs: Netlink, target: int, name: str, wish: str) -> None:
    from agent.sys import linkmove, rtnetlink
    from agent.sys.netlink import NetlinkError

    try:
        link = rtnetlink.link(ours, name)
        held = linkmove.permanent_addresses(ours, link.ifindex)
        before = set(rtnetlink.links(theirs))
        ours.batch([linkmove.move_link(link.ifindex, target, wish)])
        (arrived,) = [found for key, found in rtnetlink.links(theirs).items() if key not in before]
        if held:
            theirs.batch([linkmove.give_address(arrived.ifindex, address) for address in held])
        theirs.batch([rtnetlink.set_link(index=arrived.ifindex, up=True, link_local=True)])
    except NetlinkError as error:
        raise RuntimeFailed(
            f"network device {name} cannot be moved into the container: {error.strerror}", stage="netDevices", errno=error.errno
        ) from error
