"""What can go wrong with networks, and whether trying again helps."""

from __future__ import annotations

from agent.protocol.errors import Conflict, Internal, InvalidInput, NotFound, Unavailable


class InvalidNetwork(InvalidInput):
    code = "invalid_network"


class NetworkNotFound(NotFound):
    code = "network_not_found"


class NetworkExists(Conflict):
    code = "network_exists"


class NetworkInUse(Conflict):
    code = "network_in_use"


class SubnetTaken(Conflict):
    code = "subnet_taken"


class AddressTaken(Conflict):
    code = "address_taken"


class AddressesExhausted(Unavailable):
    code = "addresses_exhausted"


class PortInUse(Conflict):
    """`extra`: port, protocol, host_ip and, when known, `holder` (a container's id or a process)."""

    code = "port_in_use"


class PortsExhausted(Unavailable):
    code = "ports_exhausted"


class AlreadyAttached(Conflict):
    code = "already_attached"


class NotAttached(NotFound):
    code = "not_attached"


class NetworkFailed(Internal):
    """The kernel refused a step; the detail holds the step and the kernel's own words."""

    code = "network_failed"
