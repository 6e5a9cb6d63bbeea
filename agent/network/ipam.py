"""Addresses of one network: handed out in turn, and not again right after they were freed.

What is allocated follows from the sandboxes' records; only the turn and the recently freed are kept here, in the run
directory. Losing that file costs nothing but the quarantine.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.network import records
from agent.network.errors import AddressesExhausted, AddressTaken, InvalidNetwork

QUARANTINE = 60.0  # seconds: longer than neighbours cache an address, and than clients retry a dead connection


@dataclass(frozen=True, slots=True)
class _Turn:
    last: int = 0
    freed: Mapping[str, float] = field(default_factory=dict)  # address -> Unix time


class AddressPool:
    """Host addresses of a subnet but the gateway. Not locked: its owner is."""

    def __init__(self, subnet: str, gateway: str, path: str, clock: Callable[[], float] = time.time) -> None:
        self._subnet = ipaddress.IPv4Network(subnet)
        self._used: dict[str, str] = {gateway: "gateway"}
        self._path = path
        self._clock = clock
        turn = records.read(path, _Turn) or _Turn()
        self._last = turn.last
        self._freed = dict(turn.freed)

    def holder(self, address: str) -> str | None:
        return self._used.get(address)

    def restore(self, address: str, owner: str) -> None:
        """Mark what a record says is allocated."""
        self._used[address] = owner

    def allocate(self, owner: str, wanted: str = "") -> str:
        """The wanted address, or the next free one. Raises InvalidNetwork, AddressTaken, AddressesExhausted."""
        address = self._check(wanted) if wanted else self._next()
        self._used[address] = owner
        self._freed.pop(address, None)
        return address

    def free(self, address: str, owner: str) -> None:
        """Give an address back; it rests for a minute before its turn may come again. A foreign owner changes nothing."""
        if self._used.get(address) == owner:
            del self._used[address]
            self._freed[address] = self._clock()
            self._save()

    def forget(self) -> None:
        records.unnote(self._path)

    def _check(self, wanted: str) -> str:
        try:
            address = ipaddress.IPv4Address(wanted)
        except ValueError:
            raise InvalidNetwork(f"address {wanted!r} is not an IPv4 address") from None
        if address not in self._subnet or address in (self._subnet.network_address, self._subnet.broadcast_address):
            raise InvalidNetwork(f"address {wanted} is not a host address of {self._subnet}")
        holder = self._used.get(wanted)
        if holder is not None:
            raise AddressTaken(f"address {wanted} is in use by {holder}", holder=holder)
        return wanted

    def _next(self) -> str:
        now = self._clock()
        self._freed = {address: at for address, at in self._freed.items() if 0 <= now - at < QUARANTINE}
        first, size = int(self._subnet.network_address), self._subnet.num_addresses
        resting = ""
        for step in range(1, size):
            offset = (self._last + step) % size
            if offset in (0, size - 1):
                continue
            address = str(ipaddress.IPv4Address(first + offset))
            if address in self._used:
                continue
            if address not in self._freed:
                self._last = offset
                return address
            resting = resting or address
        if not resting:
            raise AddressesExhausted(f"every address of {self._subnet} is in use: remove containers or use a larger subnet")
        # Better an address that rests than none at all: take the one freed longest ago
        return min((address for address in self._freed if address not in self._used), key=lambda address: self._freed[address])

    def _save(self) -> None:
        records.note(self._path, _Turn(self._last, self._freed))
