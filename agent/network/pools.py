"""Where subnets come from when nobody names one: Docker's default pools."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from agent.network.errors import AddressesExhausted, InvalidNetwork, SubnetTaken

Subnet = ipaddress.IPv4Network


def default_pools() -> Iterator[Subnet]:
    """172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 and on."""
    for second in range(17, 32):
        yield ipaddress.IPv4Network(f"172.{second}.0.0/16")
    yield from ipaddress.IPv4Network("192.168.0.0/16").subnets(new_prefix=20)


def parse_pools(texts: Iterable[str], size: int) -> tuple[Subnet, ...]:
    """Own pools: each base network cut into subnets of prefix length `size`."""
    found: list[Subnet] = []
    for text in texts:
        base = ipaddress.IPv4Network(text)
        found += base.subnets(new_prefix=max(size, base.prefixlen))
    return tuple(found)


def first_free(pools: Iterable[Subnet], taken: Iterable[Subnet]) -> Subnet:
    """The first pool that overlaps nothing the node can reach already."""
    busy = list(taken)
    for subnet in pools:
        if not any(subnet.overlaps(other) for other in busy):
            return subnet
    raise AddressesExhausted("every subnet of the node's pools is taken: remove unused networks, or name a subnet yourself")


def check(text: str, taken: Iterable[Subnet]) -> Subnet:
    """A subnet that a user named: IPv4, with room for a gateway and a container, overlapping nothing."""
    subnet = ipaddress.ip_network(text)
    if not isinstance(subnet, ipaddress.IPv4Network):
        raise InvalidNetwork(f"subnet {text}: only IPv4 networks are supported so far")
    if not 8 <= subnet.prefixlen <= 29:
        raise InvalidNetwork(f"subnet {text}: the prefix length must be 8-29")
    if subnet.is_loopback or subnet.is_multicast or subnet.is_link_local:
        raise InvalidNetwork(f"subnet {text}: loopback, multicast and link-local ranges cannot be used")
    for other in taken:
        if subnet.overlaps(other):
            raise SubnetTaken(
                f"subnet {text} overlaps {other}, which the node uses already: choose another one", overlaps=str(other)
            )
    return subnet


def gateway_of(subnet: Subnet, wanted: str) -> str:
    """The gateway: the wanted one if it lies within, else the first address."""
    if not wanted:
        return str(subnet.network_address + 1)
    try:
        gateway = ipaddress.IPv4Address(wanted)
    except ValueError:
        raise InvalidNetwork(f"gateway {wanted!r} is not an IPv4 address") from None
    if gateway not in subnet or gateway in (subnet.network_address, subnet.broadcast_address):
        raise InvalidNetwork(f"gateway {wanted} is not a host address of {subnet}")
    return str(gateway)
