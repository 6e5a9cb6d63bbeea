"""Placeholders in what a task is made of, filled in once the node is known: {{.Node.Hostname}} and others of Docker's templates.

They work in the values of environment variables and in the hostname. What is no placeholder stays as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from agent.protocol.spec import ContainerSpec

NAMES = ("Service.ID", "Service.Name", "Node.ID", "Node.Hostname", "Task.ID", "Task.Name", "Task.Slot")
_PLACEHOLDER = re.compile(r"\{\{\s*\.(" + "|".join(map(re.escape, NAMES)) + r")\s*\}\}")


def fill(spec: ContainerSpec, values: Mapping[str, str]) -> ContainerSpec:
    """`spec` with each placeholder replaced by `values[name]`; the same object when there is none."""

    def put(text: str) -> str:
        return _PLACEHOLDER.sub(lambda match: values[match[1]], text)

    env = {key: put(value) for key, value in spec.env.items()}
    hostname = put(spec.hostname)
    if env == spec.env and hostname == spec.hostname:
        return spec
    return replace(spec, env=env, hostname=hostname)
