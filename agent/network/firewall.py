"""The ruleset in the kernel: one atomic transaction a change, against the generation that was read."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence

from agent.network import nft
from agent.network.errors import NetworkFailed
from agent.network.records import Network, PublishedPort
from agent.sys import nftables
from agent.sys.netlink import Message, NetlinkError
from agent.sys.nfnetlink import ConntrackSocket, NftSocket

_ATTEMPTS = 20  # somebody else may commit between our reading the generation and our commit, again and again
_UNKNOWN = -1  # no generation has this number
_AGAIN = (errno.ERESTART, errno.EAGAIN, errno.EINTR, errno.ENOBUFS)


class Firewall:
    """Not locked: its owner is. `networks` and `ports` are asked for whenever the whole table is written."""

    def __init__(
        self,
        table: str,
        networks: Callable[[], Sequence[Network]],
        ports: Callable[[], Iterable[PublishedPort]],
        protect: Sequence[int] = (),
    ) -> None:
        self._table = table
        self._networks = networks
        self._ports = ports
        self._protect = protect
        self._generation = _UNKNOWN
        self._sock: NftSocket | None = None
        self.guard = False
        self._stale = False  # a change could not be made: the table is no longer what the records say

    def rewrite(self) -> None:
        """Write the whole table anew: level-triggered, whatever is there now."""
        try:
            self._commit(lambda _: self._whole(), self._whole)
        except NetlinkError as error:
            raise _failed("write the packet filter", error) from error

    def change(self, *, add: Sequence[PublishedPort] = (), remove: Sequence[PublishedPort] = ()) -> None:
        """Publish and withdraw ports. `networks` and `ports` must give the state after the change already: if the table is not
        as we left it (somebody flushed the ruleset), it is written whole."""
        if not add and not remove:
            return
        table, stale, expected = self._table, self._stale, len([*self._ports()]) - len(add) + len(remove)

        def build(generation: int) -> list[Message]:
            if stale or not self._whole_at(generation, expected):
                return self._whole()
            return [*nft.port_elements(table, remove, remove=True), *nft.port_elements(table, add)]

        try:
            self._commit(build, self._whole)
        except NetlinkError as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST):
                raise _failed("publish ports", error) from error
            self.rewrite()

    def intact(self) -> bool:
        """Whether our table still has all its rules and ports; nothing is read if nobody committed since we last looked."""
        generation = self._socket().generation()
        if not self._whole_at(generation, len([*self._ports()])):
            return False
        self._generation = generation
        return True

    def _whole_at(self, generation: int, ports: int) -> bool:
        """Whether the table at this generation has every rule, and as many ports as it should."""
        if generation == self._generation:
            return True
        sock = self._socket()
        if self._table not in nftables.tables(sock, nft.FAMILY):
            return False
        rules = sum(1 for message in self._whole() if message.type & 0xFF == nftables.NEWRULE)
        maps = (nft.PORTS, nft.BOUND)
        try:
            published = sum(len(nftables.keys(sock, nft.FAMILY, self._table, name)) for name in maps)
        except NetlinkError:  # ENOENT: a map is gone
            return False
        return published == ports and len(nftables.rules(sock, nft.FAMILY, self._table)) == rules

    def remove(self) -> None:
        self._commit(lambda _: nft.removal(self._table), lambda: nft.removal(self._table))

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def forget(self, addresses: Iterable[str]) -> None:
        """Drop tracked connections that lead to these addresses, which belong to nobody any more."""
        with ConntrackSocket() as sock:
            for address in addresses:
                sock.forget(address)

    def _socket(self) -> NftSocket:
        """One socket for good: closing one waits 10 ms and more for whatever nf_tables still has to free."""
        if self._sock is None:
            self._sock = NftSocket()
        return self._sock

    def _whole(self) -> list[Message]:
        return nft.ruleset(self._table, self._networks(), self._ports(), self._protect, guard=self.guard)

    def _commit(self, build: Callable[[int], list[Message]], whole: Callable[[], list[Message]]) -> None:
        """Commit what `build` makes of the generation it is given, again for each newer one. Until then the table is stale.

        Beside a program that commits without a rest no generation lasts until ours is there: then `whole` is committed, which
        replaces the table and so needs to know nothing about it.
        """
        sock = self._socket()
        self._stale = True
        for attempt in range(2 * _ATTEMPTS):
            generation = sock.generation() if attempt < _ATTEMPTS else None
            try:
                sock.transaction(whole() if generation is None else build(generation), generation)
            except NetlinkError as error:
                if error.errno not in _AGAIN:
                    raise
                continue
            self._generation = _UNKNOWN if generation is None else generation + 1
            self._stale = False
            return
        raise NetworkFailed(f"the kernel put off our packet filter {2 * _ATTEMPTS} times; is the node short of memory?")


def _failed(step: str, error: NetlinkError) -> NetworkFailed:
    return NetworkFailed(f"cannot {step}: {error.strerror} (errno {error.errno})", errno=error.errno)
