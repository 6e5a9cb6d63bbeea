"""config.md, annotations: kept word for word, shown by `state` and to hooks; unknown ones mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conformance.runtime.command import Command

GIVEN = {
    "com.example.key": "value",
    "com.example.empty": "",
    "org.opencontainers.image.stopSignal": "SIGQUIT",
    "k\u00e9y": "\u2693",
}


def test_state_and_hooks_see_them(command: Command, tmp_path: Path) -> None:
    config = command.configure("sleep", "1000")
    config["annotations"] = {**config["annotations"], **GIVEN}
    script = f"cat > {tmp_path}/told"
    config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]}
    command.write(config)
    command.create("c1")
    assert json.loads(command("state", "c1").stdout)["annotations"] == config["annotations"]
    assert json.loads((tmp_path / "told").read_text())["annotations"] == config["annotations"]


def test_without_any(command: Command) -> None:
    config = command.configure("sleep", "1000")
    del config["annotations"]
    command.write(config)
    command.create("c1")
    assert not json.loads(command("state", "c1").stdout).get("annotations")
