"""Placeholders in environment and hostname."""

from __future__ import annotations

import dataclasses

from agent.protocol.spec import ContainerSpec
from nodes.templates import NAMES, fill

VALUES = {name: f"<{name}>" for name in NAMES}


def test_known_placeholders_are_filled_and_the_rest_stays() -> None:
    env = {"A": "{{.Node.Hostname}}/{{ .Task.Slot }}", "B": "{{.Node.Secret}} {{", "C": "x"}
    spec = ContainerSpec("web", env=env, hostname="h-{{.Task.Slot}}")
    filled = fill(spec, VALUES)
    assert filled.env == {"A": "<Node.Hostname>/<Task.Slot>", "B": "{{.Node.Secret}} {{", "C": "x"}
    assert filled.hostname == "h-<Task.Slot>"
    assert dataclasses.replace(filled, env=spec.env, hostname=spec.hostname) == spec


def test_without_placeholders_nothing_is_made_anew() -> None:
    spec = ContainerSpec("web", env={"A": "b"})
    assert fill(spec, VALUES) is spec


def test_a_value_is_not_read_again() -> None:
    filled = fill(ContainerSpec("web", env={"A": "{{.Node.Hostname}}"}), {**VALUES, "Node.Hostname": "{{.Task.ID}}"})
    assert filled.env == {"A": "{{.Task.ID}}"}
