"""Ports of the node that lead to containers: reserved by a bound socket, so that no process can take them meanwhile.

The socket never sees a packet: the packet filter rewrites them before. It is bound, not listening, except where old
connections in TIME_WAIT force SO_REUSEADDR, which excludes others only while listening.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence

from agent.network.errors import InvalidNetwork, PortInUse, PortsExhausted
from agent.network.listeners import holder_of
from agent.network.records import PublishedPort
from agent.protocol.spec import PortSpec, Protocol

FIRST_DYNAMIC, LAST_DYNAMIC = 32768, 60999


def normalise(host_ip: str) -> str:
    """ "" for every IPv4 address of the node, else one address of it."""
    if not host_ip:
        return ""
    address = ipaddress.ip_address(host_ip)
    if address.version != 4:
        raise InvalidNetwork(f"host_ip {host_ip}: ports can be published on IPv4 addresses only, so far")
    return "" if address.is_unspecified else str(address)


class PortTable:
    """The reservations of this process. Not locked: its owner is."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, int, Protocol], tuple[socket.socket, str]] = {}
        self._next = FIRST_DYNAMIC

    def publish(self, owner: str, ports: Sequence[PortSpec], address: str) -> tuple[PublishedPort, ...]:
        """Reserve all of `ports` for `owner`, or none. Raises PortInUse, PortsExhausted, InvalidNetwork."""
        done: list[PublishedPort] = []
        try:
            for spec in ports:
                host_ip = normalise(spec.host_ip)
                number = self._reserve(owner, host_ip, spec)
                done.append(PublishedPort(host_ip, number, spec.target, spec.protocol, address))
        except BaseException:
            self.release(done)
            raise
        return tuple(done)

    def restore(self, owner: str, port: PublishedPort) -> bool:
        """Reserve again after a restart; False when a process took the port while nobody held it."""
        if (port.host_ip, port.host_port, port.protocol) in self._held:
            return True
        try:
            self._hold(owner, port.host_ip, port.host_port, port.protocol)
        except OSError:
            return False
        return True

    def release(self, ports: Sequence[PublishedPort]) -> None:
        for port in ports:
            held = self._held.pop((port.host_ip, port.host_port, port.protocol), None)
            if held is not None:
                held[0].close()

    def close(self) -> None:
        for sock, _ in self._held.values():
            sock.close()
        self._held.clear()

    def _reserve(self, owner: str, host_ip: str, spec: PortSpec) -> int:
        if not spec.published:
            return self._reserve_any(owner, host_ip, spec.protocol)
        try:
            self._hold(owner, host_ip, spec.published, spec.protocol)
        except OSError as error:
            raise self._refusal(error, host_ip, spec.published, spec.protocol) from error
        return spec.published

    def _reserve_any(self, owner: str, host_ip: str, protocol: Protocol) -> int:
        size = LAST_DYNAMIC - FIRST_DYNAMIC + 1
        for step in range(size):
            number = FIRST_DYNAMIC + (self._next - FIRST_DYNAMIC + step) % size
            try:
                self._hold(owner, host_ip, number, protocol)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise self._refusal(error, host_ip, number, protocol) from error
            self._next = number + 1
            return number
        raise PortsExhausted(f"every port from {FIRST_DYNAMIC} to {LAST_DYNAMIC} is in use on this node")

    def _hold(self, owner: str, host_ip: str, number: int, protocol: Protocol) -> None:
        key = (host_ip, number, protocol)
        if key in self._held:
            raise OSError(errno.EADDRINUSE, "in use")
        try:
            sock = _bind(host_ip, number, protocol, reuse=False)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or protocol is not Protocol.TCP or self._container_on(number, protocol):
                raise
            sock = _bind(host_ip, number, protocol, reuse=True)
        self._held[key] = (sock, owner)

    def _container_on(self, number: int, protocol: Protocol) -> str | None:
        for (_, held, kind), (_, owner) in self._held.items():
            if held == number and kind is protocol:
                return owner
        return None

    def _refusal(self, error: OSError, host_ip: str, number: int, protocol: Protocol) -> Exception:
        if error.errno == errno.EADDRNOTAVAIL:
            return InvalidNetwork(f"host_ip {host_ip} is not an address of this node", host_ip=host_ip)
        if error.errno != errno.EADDRINUSE:
            return error
        container = self._container_on(number, protocol)
        holder = f"container {container[:12]}" if container else holder_of(number, protocol)
        where = f"{host_ip}:{number}" if host_ip else str(number)
        return PortInUse(
            f"port {where}/{protocol.value} is in use by {holder}: publish another port, or stop the other one",
            port=number,
            protocol=protocol.value,
            host_ip=host_ip,
            holder=container or holder,
        )


def _bind(host_ip: str, number: int, protocol: Protocol, *, reuse: bool) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)
    try:
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host_ip or "0.0.0.0", number))  # noqa: S104  # "" means every address
        if reuse:
            sock.listen(0)
    except OSError:
        sock.close()
        raise
    return sock
