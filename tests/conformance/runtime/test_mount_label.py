"""config-linux.md, mountLabel: without SELinux left out, and told; the option is what mount(8) would be given."""

from __future__ import annotations

import pytest

from agent.runtime import labels
from tests.conformance.runtime.conftest import Runner

LABEL = "system_u:object_r:svirt_sandbox_file_t:s0:c715,c811"


def test_without_selinux_it_is_a_warning(runner: Runner) -> None:
    if labels.selinux_runs():
        pytest.skip("SELinux runs here")
    plan = runner.plan("true", change=lambda config: config["linux"].update(mountLabel=LABEL))
    assert any("mountLabel" in warning for warning in plan.warnings)
    assert runner.start_plan(plan).wait().status == 0


def test_filesystems_are_mounted_in_its_context(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "selinux_runs", lambda: True)
    plan = runner.plan("true", change=lambda config: config["linux"].update(mountLabel=LABEL))
    given = {step.target: [value for _, key, value, _ in step.params if key == b"context"] for step in plan.mounts}
    assert given[b"dev/shm"] == [LABEL.encode()]
    assert given[b"proc"] == []  # procfs has labels of its own
