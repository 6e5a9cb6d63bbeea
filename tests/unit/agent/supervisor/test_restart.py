from __future__ import annotations

from typing import Any

import pytest

from agent.supervisor import restart


@pytest.mark.parametrize(
    ("policy", "exit_code", "stopped", "count", "again"),
    [
        ({}, 1, False, 0, False),
        ({"name": "no"}, 1, False, 0, False),
        ({"name": "always"}, 0, False, 99, True),
        ({"name": "always"}, 0, True, 0, False),
        ({"name": "unless-stopped"}, 1, False, 0, True),
        ({"name": "unless-stopped"}, 1, True, 0, False),
        ({"name": "on-failure"}, 0, False, 0, False),
        ({"name": "on-failure"}, 1, False, 99, True),
        ({"name": "on-failure", "max": 3}, 1, False, 2, True),
        ({"name": "on-failure", "max": 3}, 1, False, 3, False),
        ({"name": "on-failure"}, None, False, 0, True),  # nobody saw the exit
    ],
)
def test_wanted(policy: dict[str, Any], exit_code: int | None, stopped: bool, count: int, again: bool) -> None:
    assert restart.wanted(policy, exit_code=exit_code, stopped=stopped, count=count) is again


def test_the_wait_doubles_to_a_minute_and_a_good_run_forgets_it() -> None:
    waits = []
    wait = 0.0
    for _round in range(12):
        wait = restart.backoff(wait, ran=0.5)
        waits.append(wait)
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8]
    assert waits[-1] == 60.0
    assert restart.backoff(60.0, ran=10.0) == 0.1
    assert restart.backoff(60.0, ran=9.99) == 60.0


@pytest.mark.parametrize("policy", [{"name": "sometimes"}, {"name": "on-failure", "max": -1}, {"max": "3"}, {"max": True}])
def test_policies_that_cannot_work(policy: dict[str, Any]) -> None:
    with pytest.raises(restart.InvalidRestartPolicy):
        restart.validate(policy)
