"""A container's sample from its cgroup's figures."""

from __future__ import annotations

import os

from agent.containers.stats import flat_stats, network_bytes


def test_what_the_cgroup_does_not_say_is_nought() -> None:
    """A cgroup without a limit has None for it: the agent once ended of that, ten seconds after the container began."""
    stats = {"memory": {"usage": 4096, "limit": None}, "cpu": {"usage": 2_000_000_000}, "pids": {"current": 1}}
    assert flat_stats(stats) == {"cpu_seconds": 2.0, "memory_used": 4096.0, "memory_limit": 0.0, "pids": 1.0}
    assert set(flat_stats({}).values()) == {0.0}


def test_network_bytes_are_those_of_the_process() -> None:
    assert set(network_bytes(os.getpid())) == {"rx_bytes", "tx_bytes"}
    assert network_bytes(1 << 22) == {}, "the highest pid is lower: it has ended"
