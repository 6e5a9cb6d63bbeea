"""/etc/hosts, /etc/hostname and /etc/resolv.conf of a container, as files beside its state that are bound over the image's."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agent.sys.mount import Mount

EMBEDDED = "127.0.0.11"  # the resolver that the agent serves inside the netns of a container on a user network
FALLBACK = ("8.8.8.8", "8.8.4.4")  # Docker's: only if the node names no resolver that a container could reach
_HOST_FILES = (
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
)  # the second when the first names systemd's 127.0.0.53 only
_LOCALHOST = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


@dataclass(frozen=True, slots=True)
class Resolver:
    """What goes into a resolv.conf."""

    nameservers: tuple[str, ...]
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def text(self) -> str:
        lines = [f"nameserver {server}" for server in self.nameservers]
        if self.search:
            lines.append("search " + " ".join(self.search))
        if self.options:
            lines.append("options " + " ".join(self.options))
        return "\n".join(lines) + "\n"


def parse(text: str) -> Resolver:
    """Read a resolv.conf (resolv.conf(5)); unknown lines are left out."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
        elif words[0] == "options":
            options = tuple(words[1:])
    return Resolver(tuple(servers), search, options)


def of_node(paths: Sequence[str] = _HOST_FILES, fallback: Sequence[str] = FALLBACK) -> Resolver:
    """The node's resolvers without those on loopback, which a container cannot reach; `fallback` if none is left."""
    first: Resolver | None = None
    for path in paths:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found = parse(file.read())
        except OSError:
            continue
        first = first or found
        reachable = tuple(server for server in found.nameservers if _reachable(server))
        if reachable:
            return Resolver(reachable, found.search, found.options)
    kept = first or Resolver(())
    return Resolver(tuple(fallback), kept.search, kept.options)


def upstream(path: str = _HOST_FILES[0], fallback: Sequence[str] = FALLBACK) -> tuple[str, ...]:
    """Whom the agent itself asks for names: the node's IPv4 resolvers, loopback ones included."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            servers = parse(file.read()).nameservers
    except OSError:
        servers = ()
    return tuple(server for server in servers if ":" not in server) or tuple(fallback)


def _reachable(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server.split("%", 1)[0])
    except ValueError:
        return False
    return address.version == 4 and not address.is_loopback  # our networks are IPv4 so far


def embedded(node: Resolver) -> Resolver:
    """The resolver of containers on user networks: ours, which forwards what it does not know to the node's."""
    return Resolver(
        (EMBEDDED,), node.search, ("ndots:0", *(option for option in node.options if not option.startswith("ndots:")))
    )


def hosts(hostname: str, addresses: Iterable[str] = (), extra: Mapping[str, str] | None = None) -> str:
    """/etc/hosts: localhost, the extra entries (name -> address), then the container itself on each of its addresses."""
    lines = [f"{address}\t{name}" for name, address in (extra or {}).items()]
    lines += [f"{address}\t{hostname}" for address in addresses]
    return _LOCALHOST + "".join(f"{line}\n" for line in lines)


def write(directory: str, *, hostname: str, hosts_text: str, resolver: Resolver) -> list[Mount]:
    """Write the three files and return the binds for them. Written in place: a running container keeps the inode it bound."""
    contents = {"hostname": f"{hostname}\n", "hosts": hosts_text, "resolv.conf": resolver.text()}
    mounts = []
    for name, text in contents.items():
        path = os.path.join(directory, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(fd, 0o644)
            os.write(fd, text.encode())
        finally:
            os.close(fd)
        mounts.append(Mount("bind", path, f"/etc/{name}", ("rbind", "rprivate")))
    return mounts
