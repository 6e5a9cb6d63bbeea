"""The policy function covers every field of the spec: a new one must be judged or declared harmless."""

import dataclasses

from agent.protocol.spec import ContainerSpec, NetworkMode
from nodes.actions.policy import GATES, HARMLESS, gates


def test_every_field_of_the_spec_is_judged_or_harmless() -> None:
    judged = frozenset().union(*(fields for fields, _ in GATES.values()))
    fields = {field.name for field in dataclasses.fields(ContainerSpec)}
    assert fields == judged | HARMLESS


def test_the_default_container_needs_the_bridge_only() -> None:
    assert gates(ContainerSpec(image="a/b")) == {"Bridge Networking Mode"}
    assert gates(ContainerSpec(image="a/b", network_mode=NetworkMode.NONE)) == frozenset()


def test_gates_add_up() -> None:
    spec = ContainerSpec(image="a/b", privileged=True, cap_add=("NET_ADMIN",), network_mode=NetworkMode.HOST)
    assert gates(spec) == {"Privileged", "Additional Kernel Capabilities", "Host Networking Mode"}


def test_the_gates_are_those_that_roles_can_grant() -> None:
    from nodes.operations import GATES as GRANTABLE

    assert set(GATES) == set(GRANTABLE)
