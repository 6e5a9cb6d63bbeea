"""Subnets, addresses and names: the decisions, without a kernel."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.network import pools
from agent.network.errors import AddressesExhausted, AddressTaken, InvalidNetwork, SubnetTaken
from agent.network.ipam import QUARANTINE, AddressPool
from agent.network.naming import Naming, mac_of
from agent.network.ports import normalise

NET = ipaddress.IPv4Network


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def pool(path: Path, subnet: str = "10.0.0.0/29", clock: Clock | None = None) -> AddressPool:
    return AddressPool(subnet, "10.0.0.1", str(path / "turn.json"), clock or Clock())


def test_addresses_are_handed_out_in_turn_without_network_gateway_and_broadcast(tmp_path: Path) -> None:
    addresses = pool(tmp_path)
    assert [addresses.allocate("c") for _ in range(5)] == [f"10.0.0.{n}" for n in range(2, 7)]
    with pytest.raises(AddressesExhausted):
        addresses.allocate("c")


def test_a_freed_address_rests_a_minute_and_over_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    addresses = pool(tmp_path, clock=clock)
    first = addresses.allocate("a")
    addresses.free(first, "a")
    again = pool(tmp_path, clock=clock)
    taken = [again.allocate("b") for _ in range(4)]
    assert first not in taken
    clock.now += QUARANTINE + 1
    assert again.allocate("b") == first


def test_a_resting_address_is_better_than_none(tmp_path: Path) -> None:
    clock = Clock()
    addresses = pool(tmp_path, clock=clock)
    mine = [addresses.allocate("a") for _ in range(5)]
    for address in (mine[3], mine[1]):
        clock.now += 1
        addresses.free(address, "a")
    assert addresses.allocate("b") == mine[3], "the one that has rested longest"


def test_wanted_addresses(tmp_path: Path) -> None:
    addresses = pool(tmp_path)
    assert addresses.allocate("a", "10.0.0.5") == "10.0.0.5"
    with pytest.raises(AddressTaken, match="in use by a") as refusal:
        addresses.allocate("b", "10.0.0.5")
    assert refusal.value.extra["holder"] == "a"
    with pytest.raises(AddressTaken, match="gateway"):
        addresses.allocate("b", "10.0.0.1")
    for wrong in ("10.0.0.0", "10.0.0.7", "10.0.1.2", "nonsense", "::1"):
        with pytest.raises(InvalidNetwork):
            addresses.allocate("b", wrong)


def test_only_the_owner_frees(tmp_path: Path) -> None:
    addresses = pool(tmp_path)
    mine = addresses.allocate("a")
    addresses.free(mine, "b")
    assert addresses.holder(mine) == "a"


def test_the_first_free_pool_avoids_every_overlap() -> None:
    assert str(pools.first_free(pools.default_pools(), [])) == "172.17.0.0/16"
    taken = [NET("172.16.0.0/12")]
    assert str(pools.first_free(pools.default_pools(), taken)) == "192.168.0.0/20"
    assert str(pools.first_free(pools.default_pools(), [*taken, NET("192.168.5.0/24")])) == "192.168.16.0/20"
    with pytest.raises(AddressesExhausted):
        pools.first_free(pools.default_pools(), [NET("0.0.0.0/0")])


@given(st.lists(st.integers(0, 2**32 - 256).map(lambda n: NET((n & ~0xFF, 24))), max_size=20))
def test_a_free_pool_never_overlaps(taken: list[ipaddress.IPv4Network]) -> None:
    subnet = pools.first_free(pools.default_pools(), taken)
    assert not any(subnet.overlaps(other) for other in taken)


def test_named_subnets_are_checked() -> None:
    assert str(pools.check("10.1.0.0/16", [])) == "10.1.0.0/16"
    with pytest.raises(SubnetTaken, match=r"10\.0\.0\.0/8"):
        pools.check("10.1.0.0/16", [NET("10.0.0.0/8")])
    for wrong in ("10.0.0.0/30", "127.0.0.0/16", "224.0.0.0/16", "fd00::/64", "0.0.0.0/4"):
        with pytest.raises(InvalidNetwork):
            pools.check(wrong, [])


def test_gateways() -> None:
    assert pools.gateway_of(NET("10.1.0.0/16"), "") == "10.1.0.1"
    assert pools.gateway_of(NET("10.1.0.0/16"), "10.1.9.9") == "10.1.9.9"
    for wrong in ("10.2.0.1", "10.1.0.0", "10.1.255.255", "x"):
        with pytest.raises(InvalidNetwork):
            pools.gateway_of(NET("10.1.0.0/16"), wrong)


def test_own_pools_are_cut() -> None:
    assert [str(subnet) for subnet in pools.parse_pools(["10.0.0.0/14"], 16)] == [f"10.{n}.0.0/16" for n in range(4)]


def test_names_fit_the_kernel_and_are_known_again() -> None:
    naming = Naming("abcdef")
    assert len(naming.bridge("f" * 64)) <= 15
    assert len(naming.veth()) <= 15
    assert naming.is_bridge(naming.bridge("0123456789"))
    assert naming.is_bridge(naming.default_bridge)
    assert naming.is_veth(naming.veth())
    other = Naming("abc")
    assert not other.is_bridge(naming.bridge("f" * 64))
    assert not other.is_veth(naming.veth())
    assert not naming.is_bridge("abcdef-elsewher")
    for wrong in ("", "Wharf", "a-b", "toolong", "1a"):
        with pytest.raises(InvalidNetwork):
            Naming(wrong)
    assert mac_of("172.17.0.2") == "02:42:ac:11:00:02"


def test_host_addresses_of_ports() -> None:
    assert normalise("") == normalise("0.0.0.0") == ""
    assert normalise("127.0.0.1") == "127.0.0.1"
    with pytest.raises(InvalidNetwork):
        normalise("::")
