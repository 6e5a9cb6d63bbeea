"""config-linux.md, maskedPaths and readonlyPaths: as given; the default ones are in test_defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conformance.runtime.conftest import Runner


def fenced(**paths: list[str]) -> Any:
    return lambda config: config["linux"].update(paths)


def furnished(rootfs: Path) -> Path:
    (rootfs / "srv/deep").mkdir(parents=True)
    (rootfs / "srv/file").write_text("secret\n")
    (rootfs / "srv/deep/file").write_text("secret\n")
    (rootfs / "link").symlink_to("srv/file")
    return rootfs


def test_a_masked_file_is_empty_and_a_directory_too(runner: Runner, rootfs: Path) -> None:
    change = fenced(maskedPaths=["/srv/file", "/srv/deep", "/no/such/path"])
    script = "cat /srv/file; ls -A /srv/deep; echo x > /srv/file; cat /srv/file; touch /srv/deep/x; ls /no"
    outcome = runner.sh(script, root=furnished(rootfs), change=change)
    assert [line.rpartition(": ")[2] for line in outcome.lines] == ["Read-only file system", "No such file or directory"]
    assert (rootfs / "srv/file").read_text() == "secret\n"


def test_a_link_is_masked_where_it_leads(runner: Runner, rootfs: Path) -> None:
    assert runner.sh("cat /srv/file /link", root=furnished(rootfs), change=fenced(maskedPaths=["/link"])).output == ""


def test_a_read_only_directory_with_all_below_it(runner: Runner, rootfs: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["readonlyPaths"] = ["/srv", "/no/such/path"]
        config["mounts"].append({"destination": "/srv/deep/t", "type": "tmpfs", "source": "t"})

    script = "cat /srv/deep/file; touch /srv/x; touch /srv/deep/x; touch /tmp/x && echo free"
    outcome = runner.sh(script, root=furnished(rootfs), change=change)
    assert [line.rpartition(": ")[2] for line in outcome.lines] == ["secret", *["Read-only file system"] * 2, "free"]


def test_a_masked_path_below_a_read_only_one(runner: Runner, rootfs: Path) -> None:
    change = fenced(maskedPaths=["/srv/file"], readonlyPaths=["/srv"])
    outcome = runner.sh("cat /srv/file; cat /srv/deep/file; touch /srv/x", root=furnished(rootfs), change=change)
    assert outcome.lines[0] == "secret"
    assert "Read-only" in outcome.lines[1]


def test_an_exec_finds_the_same(runner: Runner, rootfs: Path) -> None:
    change = fenced(maskedPaths=["/srv/file"], readonlyPaths=["/srv/deep"])
    running = runner.start("sleep", "1000", root=furnished(rootfs), change=change)
    assert "Read-only" in running.exec("sh", "-c", "cat /srv/file; touch /srv/deep/x").output
