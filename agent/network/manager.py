"""`Networks`: the one object through which the agent makes networks and attaches containers to them.

Synchronous and short (single milliseconds): callers on an event loop may call it directly. One lock guards everything.
Order of every change: reserve in memory, write the record, then change the kernel; so a crash leaves a record that `sync`
can act on, and never a kernel object that nobody knows.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from agent.network import bridge, files
from agent.network.addresses import Addresses
from agent.network.attach import Attached, AttachSpec, Report, outward
from agent.network.bridges import Bridges, taken
from agent.network.dns import DnsServer
from agent.network.errors import AlreadyAttached, InvalidNetwork, NetworkFailed, NetworkInUse, NetworkNotFound, NotAttached
from agent.network.names import Book
from agent.network.naming import Naming
from agent.network.networks import DEFAULT, NetworkStore
from agent.network.ports import PortTable
from agent.network.reconcile import Reconciler
from agent.network.records import Endpoint, Network, Sandbox
from agent.network.sandboxes import Sandboxes
from agent.protocol.spec import NetworkMode, NetworkSpec, PortSpec, Protocol
from agent.sys import netns, rtnetlink
from agent.sys.netlink import Netlink


class Networks:
    """Networks and sandboxes of one node.

    state_dir: survives reboots (networks). run_dir: does not (netns files, sandboxes, sysctls); best on a tmpfs.
    prefix: of every kernel name of ours. protect_ports: ports of the node that containers cannot open (TCP and UDP).
    subnets: pools instead of Docker's. upstream: the resolvers that names of no container are asked of.
    """

    def __init__(
        self,
        state_dir: str,
        run_dir: str,
        *,
        prefix: str = "wharf",
        protect_ports: Sequence[int] = (),
        subnets: Sequence[ipaddress.IPv4Network] = (),
        upstream: Callable[[], Sequence[str]] = files.upstream,
    ) -> None:
        self.naming = Naming(prefix)
        self._lock = threading.RLock()
        self._netns_dir = os.path.join(run_dir, "netns")
        self._run = os.path.join(run_dir, "network")
        netns.prepare_directory(self._netns_dir)
        self.store = NetworkStore(state_dir, self.naming, subnets)
        self._sandboxes = Sandboxes(os.path.join(self._run, "sandboxes"))
        self._addresses = Addresses(self._run, self._sandboxes, self.naming)
        self._inner: dict[str, Netlink] = {}  # a socket inside each fresh sandbox, until it is attached
        self.ports = PortTable()
        self.bridges = Bridges(
            self.store, prefix, os.path.join(self._run, "sysctl.json"), self._sandboxes.published, tuple(protect_ports)
        )
        self._upstream = upstream
        self._dns = DnsServer(self.book, self._resolvers_for)

    # -- networks

    def list(self) -> Sequence[Network]:
        with self._lock:
            self._default()
            return self.store.list()

    def get(self, name_or_id: str) -> Network:
        with self._lock:
            return self._default() if name_or_id == DEFAULT else self.store.get(name_or_id)

    def create(self, spec: NetworkSpec) -> Network:
        """Make a network and its bridge. Raises InvalidNetwork, NetworkExists, SubnetTaken, AddressesExhausted."""
        with self._lock:
            network = self.store.create(spec, taken())
            try:
                self.bridges.raise_one(network)
            except BaseException:
                self.bridges.lower(network)
                self.store.discard(network)
                raise
            return network

    def remove(self, name_or_id: str) -> None:
        """Remove a network that no container is on. Raises NetworkNotFound, NetworkInUse."""
        with self._lock:
            network = self.get(name_or_id)
            members = sorted(container[:12] for container, _ in self.members(network))
            if members:
                raise NetworkInUse(f"network {network.name!r} is in use by {', '.join(members)}", containers=members)
            self.store.remove(network)
            self.bridges.lower(network)
            self._addresses.forget(network)

    def prune(self) -> Sequence[Network]:
        """Remove every user network that no container is on; returns them."""
        with self._lock:
            idle = [network for network in self.store.list() if network.name != DEFAULT and not self.members(network)]
            for network in idle:
                self.remove(network.id)
            return idle

    def members(self, network: Network) -> Sequence[tuple[str, Endpoint]]:
        """(container id, endpoint) of everything on a network."""
        with self._lock:
            return [*self._sandboxes.members(network.id)]

    # -- sandboxes

    def sandbox(self, container_id: str, mode: NetworkMode = NetworkMode.BRIDGE, *, name: str = "") -> str | None:
        """Make the netns of a container, loopback up, and return the path to join it by; None in host mode.

        Done again it returns the same path. `name` is the container's, for DNS.
        """
        if not container_id or "/" in container_id or container_id.startswith("."):
            raise InvalidNetwork(f"container id {container_id!r} cannot name a file")
        if mode is NetworkMode.HOST:
            return None
        with self._lock:
            path = self.path(container_id)
            if container_id in self._sandboxes:
                if _kept(path):
                    return path
                self.detach(container_id)  # its namespace is gone: begin anew
            netns.drop(path)
            self._sandboxes.put(Sandbox(container_id, mode, name))
            try:
                inner = netns.create(path, bridge.open_loopback)
            except OSError as error:
                self._sandboxes.discard(container_id)
                raise NetworkFailed(f"cannot make a network namespace: {error.strerror or error}", errno=error.errno) from error
            self._keep_inner(container_id, inner)
            return path

    def path(self, container_id: str) -> str:
        return os.path.join(self._netns_dir, container_id)

    def known(self, container_id: str) -> bool:
        """Whether there is a sandbox."""
        with self._lock:
            return container_id in self._sandboxes

    def inspect(self, container_id: str) -> Sandbox:
        with self._lock:
            try:
                return self._sandboxes[container_id]
            except KeyError:
                raise NotAttached(f"container {container_id[:12]} has no network sandbox", container=container_id) from None

    def attach(self, container_id: str, networks: Sequence[AttachSpec] = (), ports: Sequence[PortSpec] = ()) -> Attached:
        """Join networks (none named = the default one) and publish ports: all of it, or nothing.

        Raises NetworkNotFound, AddressTaken, AddressesExhausted, PortInUse, AlreadyAttached, InvalidNetwork, NetworkFailed.
        """
        with self._lock:
            sandbox = self.inspect(container_id)
            if sandbox.mode is not NetworkMode.BRIDGE:
                raise InvalidNetwork(
                    f"container {container_id[:12]} is in network mode {sandbox.mode.value}: it joins no network"
                )
            if sandbox.endpoints:
                raise AlreadyAttached(f"container {container_id[:12]} is attached already: use connect to join more networks")
            joined = [(self.get(spec.network), spec) for spec in networks or (AttachSpec(DEFAULT),)]
            try:
                planned = self._plan(sandbox, joined, ports)
                self._sandboxes.put(planned)
                self._connect(planned, planned.endpoints)
                self.bridges.firewall.change(add=planned.ports)
                self.serve_names(container_id)
            except BaseException:
                self._withdraw(self._sandboxes[container_id], back_to=sandbox)
                raise
            return self._attached(planned)

    def connect(self, container_id: str, spec: AttachSpec) -> Attached:
        """Join one more network while the container runs."""
        with self._lock:
            before = self.inspect(container_id)
            network = self.get(spec.network)
            if any(endpoint.network_id == network.id for endpoint in before.endpoints):
                raise AlreadyAttached(f"container {container_id[:12]} is on network {network.name} already")
            endpoint = self._addresses.allocate(before, network, spec)
            after = replace(before, endpoints=(*before.endpoints, endpoint))
            try:
                self._sandboxes.put(after)
                self._connect(after, (endpoint,))
                self.serve_names(container_id)
            except BaseException:
                self._unplug(endpoint, container_id)
                self._sandboxes.put(before)
                raise
            return self._attached(after)

    def disconnect(self, container_id: str, name_or_id: str) -> None:
        """Leave one network while the container runs. Published ports move to the next network that leads outside."""
        with self._lock:
            before = self.inspect(container_id)
            network = self.get(name_or_id)
            gone = next((endpoint for endpoint in before.endpoints if endpoint.network_id == network.id), None)
            if gone is None:
                raise NotAttached(f"container {container_id[:12]} is not on network {network.name}")
            left = replace(before, endpoints=tuple(endpoint for endpoint in before.endpoints if endpoint is not gone))
            out = outward(left, self._internal())
            moved = tuple(replace(port, address=out.address) for port in before.ports) if out else ()
            after = replace(left, ports=moved)
            self._sandboxes.put(after)
            if moved != before.ports:
                self.bridges.firewall.change(remove=before.ports, add=moved)
            if not moved:
                self.ports.release(before.ports)
            self._unplug(gone, container_id)
            if out is not None:
                with bridge.inner_socket(self.path(container_id)) as inner:
                    inner.batch([rtnetlink.default_route(out.gateway)])

    def detach(self, container_id: str) -> None:
        """Kill the netns of a container and free its addresses and ports. Done again, or without a sandbox, it does nothing.

        The links are not deleted: that takes 10-40 ms each; they die in the background with the namespace.
        """
        with self._lock:
            sandbox = self._sandboxes.get(container_id)
            if sandbox is None:
                return
            self._sandboxes.hold(replace(sandbox, ports=()))
            if sandbox.ports:
                try:
                    self.bridges.firewall.change(remove=sandbox.ports)
                finally:
                    self.ports.release(sandbox.ports)
            self._dns.close(container_id)
            self._close_inner(container_id)
            netns.drop(self.path(container_id))
            for endpoint in sandbox.endpoints:
                self._free(endpoint, container_id)
            self._sandboxes.discard(container_id)
            if any(port.protocol is Protocol.UDP for port in sandbox.ports):
                self.bridges.firewall.forget({port.address for port in sandbox.ports})

    # -- names

    def resolver(self, networks: Sequence[str]) -> files.Resolver:
        """What belongs into the resolv.conf of a container on these networks: ours on user networks, else the node's."""
        node = files.of_node()
        return files.embedded(node) if any(self.get(network).name != DEFAULT for network in networks) else node

    def book(self) -> Book:
        with self._lock:
            return self._sandboxes.book()

    def serve_names(self, container_id: str) -> None:
        """Answer the DNS questions of a container that is on a user network."""
        if any(endpoint.network != DEFAULT for endpoint in self.inspect(container_id).endpoints):
            self._dns.open(container_id, self.path(container_id))

    def _resolvers_for(self, container_id: str) -> tuple[str, ...]:
        with self._lock:
            sandbox = self._sandboxes.get(container_id)
            if sandbox is None or outward(sandbox, self._internal()) is None:
                return ()  # an internal network leads nowhere, by DNS neither
        return tuple(self._upstream())

    # -- the whole

    def sync(self, live: Collection[str]) -> Report:
        """Make the kernel what the records say, after a restart of the agent or on a timer.

        live: ids of the containers that run; sandboxes of others are removed. Endpoints in order are not touched.
        """
        with self._lock:
            return Reconciler(self, self._sandboxes, self._netns_dir).run(live)

    def intact(self) -> bool:
        """Whether our packet filter is whole: cheap enough to ask every few seconds; if not, `sync` mends it."""
        with self._lock:
            return self.bridges.firewall.intact()

    def close(self) -> None:
        """Let go of sockets; everything in the kernel stays, for the next agent."""
        self._dns.stop()  # outside the lock, which its thread may be waiting for
        with self._lock:
            for container_id in list(self._inner):
                self._close_inner(container_id)
            self.ports.close()
            self.bridges.firewall.close()

    def teardown(self) -> None:
        """Remove everything of ours from the kernel and put the node's sysctls back: the node leaves for good."""
        with self._lock:
            for container_id in list(self._sandboxes):
                self.detach(container_id)
            for network in self.store.list():
                self.bridges.lower(network)
            self.bridges.settle()
        self.close()
        netns.release_directory(self._netns_dir)

    # -- inside

    def _default(self) -> Network:
        try:
            return self.store.get(DEFAULT)
        except NetworkNotFound:
            return self.store.create(NetworkSpec(DEFAULT), taken())

    def _internal(self) -> set[str]:
        return {network.id for network in self.store.list() if network.internal}

    def _plan(self, sandbox: Sandbox, joined: Sequence[tuple[Network, AttachSpec]], ports: Sequence[PortSpec]) -> Sandbox:
        """Reserve addresses and ports; what was reserved is remembered in `_sandboxes` at once, for the way back."""
        for network, spec in joined:
            if any(endpoint.network_id == network.id for endpoint in sandbox.endpoints):
                raise InvalidNetwork(f"network {network.name} is named twice")
            sandbox = replace(sandbox, endpoints=(*sandbox.endpoints, self._addresses.allocate(sandbox, network, spec)))
            self._sandboxes.hold(sandbox)
        if not ports:
            return sandbox
        out = outward(sandbox, self._internal())
        if out is None:
            raise InvalidNetwork("ports cannot be published from internal networks: join one that is not internal")
        return replace(sandbox, ports=self.ports.publish(sandbox.container_id, ports, out.address))

    def _connect(self, sandbox: Sandbox, endpoints: Sequence[Endpoint]) -> None:
        out = outward(sandbox, self._internal())
        for endpoint in endpoints:
            self.lay(sandbox.container_id, endpoint, default=endpoint is out)
        self._close_inner(sandbox.container_id)

    def lay(self, container_id: str, endpoint: Endpoint, *, default: bool) -> None:
        """Lay the veth of an endpoint."""
        network = self.store.get(endpoint.network_id)
        index = self.bridges.raise_one(network)
        path = self.path(container_id)
        try:
            netns_fd = netns.open_at(path)
        except FileNotFoundError as error:
            raise NetworkFailed(f"the network namespace {path} is gone: make the sandbox anew") from error
        try:
            inner = self._inner.get(container_id) or self._keep_inner(container_id, netns.inside(netns_fd, Netlink))
            with Netlink() as route:
                bridge.join(route, inner, netns_fd, index, network, endpoint, default=default)
        finally:
            os.close(netns_fd)

    def _unplug(self, endpoint: Endpoint, container_id: str) -> None:
        with Netlink() as route:
            bridge.remove(route, endpoint.veth)
        self._free(endpoint, container_id)

    def _free(self, endpoint: Endpoint, container_id: str) -> None:
        with contextlib.suppress(NetworkNotFound):
            self._addresses.free(self.store.get(endpoint.network_id), endpoint, container_id)

    def _withdraw(self, reached: Sandbox, *, back_to: Sandbox) -> None:
        """Undo a failed attach, however far it came."""
        self._sandboxes.put(back_to)
        for endpoint in reached.endpoints:
            self._unplug(endpoint, reached.container_id)
        if reached.ports:
            self.ports.release(reached.ports)
            with contextlib.suppress(NetworkFailed):  # the attach's own error is the one to tell; the next change tries again
                self.bridges.firewall.rewrite()

    def _attached(self, sandbox: Sandbox) -> Attached:
        out = outward(sandbox, self._internal())
        first = out or next(iter(sandbox.endpoints), None)
        return Attached(
            sandbox_path=self.path(sandbox.container_id),
            endpoints=sandbox.endpoints,
            ports=sandbox.ports,
            address=first.address if first else "",
            gateway=out.gateway if out else "",
            mac=first.mac if first else "",
        )

    def _keep_inner(self, container_id: str, inner: Netlink) -> Netlink:
        self._inner[container_id] = inner
        return inner

    def _close_inner(self, container_id: str) -> None:
        inner = self._inner.pop(container_id, None)
        if inner is not None:
            inner.close()


def _kept(path: str) -> bool:
    try:
        os.close(netns.open_at(path))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True
