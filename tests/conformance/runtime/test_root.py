"""config.md, root: where it is looked for, and whether it can be written. Kinds of root filesystems are in test_roots."""

from __future__ import annotations

import pytest

from tests.conformance.runtime.command import Command


def test_relative_to_the_bundle_and_absolute(command: Command) -> None:
    config = command.configure("echo", "here")
    for path in ("rootfs", "./rootfs", "../bundle/rootfs", str((command.bundle / "rootfs").resolve())):
        config["root"]["path"] = path
        command.write(config)
        assert command.run(cwd="/").stdout == "here\n", path


@pytest.mark.parametrize("path", ["absent", "/no/such/directory", "config.json"])
def test_without_a_directory_there_is_no_container(command: Command, path: str) -> None:
    config = command.configure("true")
    config["root"]["path"] = path
    command.write(config)
    assert "root" in command.run(check=1).stdout
    assert command("list", "-q").stdout == ""


@pytest.mark.parametrize(("readonly", "said"), [(True, "touch: /x: Read-only file system"), (False, ""), (None, "")])
def test_read_only_when_asked(command: Command, readonly: bool | None, said: str) -> None:
    config = command.configure("touch", "/x")
    config["root"]["readonly"] = readonly
    command.write(config)
    try:
        assert command.run(check=1 if said else 0).stdout.strip() == said
    finally:
        (command.bundle / "rootfs/x").unlink(missing_ok=True)


def test_a_read_only_root_leaves_mounts_writable(command: Command) -> None:
    config = command.configure("touch", "/tmp/x")
    config["root"]["readonly"] = True
    config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "t"})
    command.write(config)
    command.run()
