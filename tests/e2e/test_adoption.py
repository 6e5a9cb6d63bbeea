"""The database comes back older than it was: nothing that it does not know is killed before somebody decides."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import images
from tests.e2e.fleet import ControlPlane, Host, fleet, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: hosts are namespaces"),
]

Fleet = tuple[ControlPlane, list[Host]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Fleet]:
    with fleet("n1") as (control, hosts):
        control.push(images.web(tmp_path / "web"), "admin/web:1")
        yield control, hosts


def database(control: ControlPlane) -> Path:
    return Path(control.environment["WHARF_HOME"]) / "db.sqlite3"


def save(control: ControlPlane, target: Path) -> None:
    """A consistent copy of the live database."""
    with sqlite3.connect(database(control)) as live, sqlite3.connect(target) as copy:
        live.backup(copy)
    live.close()
    copy.close()


def restore(control: ControlPlane, source: Path) -> None:
    """In the place of the present one, whose owner and mode it keeps. The control plane is down."""
    path = database(control)
    owner = path.stat()
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        name.unlink(missing_ok=True)
    shutil.copyfile(source, path)
    os.chown(path, owner.st_uid, owner.st_gid)
    path.chmod(owner.st_mode & 0o777)


def web_servers(host: Host) -> list[int]:
    """Pids, in our namespace, of the processes of this node's containers."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            ours = host.cgroup in (entry / "cgroup").read_text()
            if ours and (entry / "cmdline").read_bytes().startswith(b"httpd\0-f"):
                found.append(pid)
    return sorted(found)


def test_orphans_run_on_until_an_administrator_ends_the_adoption(world: Fleet, tmp_path: Path) -> None:
    control, (host,) = world
    control.create("known", "admin/web:1", replicas=1)
    wait_for(lambda: control.whole("known", 1), "the first service", 60)
    save(control, tmp_path / "old.sqlite3")
    control.create("forgotten", "admin/web:1", replicas=2)
    wait_for(lambda: control.whole("forgotten", 2), "the second service", 60)
    before = web_servers(host)
    assert len(before) == 3
    epoch = control.node("n1")["epoch"]

    control.stop()
    restore(control, tmp_path / "old.sqlite3")
    control.start()
    node = wait_for(lambda: _adopting(control), "adopt mode", 60)
    assert node["epoch"] > epoch
    assert not control.call("GET", "services", params={"name": "forgotten"})
    orphans = wait_for(lambda: _listed(control, "forgotten"), "the orphans are listed", 30)
    assert len(orphans) == 2
    assert web_servers(host) == before

    # An agent that starts again without hearing from anybody must not forget that it adopts.
    host.kill_agent()
    control.stop()
    host.start_agent()
    wait_for(lambda: "no link to" in host.log().rpartition("link up")[2], "the agent is up and alone", 60)
    assert web_servers(host) == before
    control.start()
    wait_for(lambda: _adopting(control), "adopt mode goes on", 60)
    assert web_servers(host) == before

    control.call("POST", f"nodes/{node['id']}/end-adoption")
    wait_for(lambda: len(web_servers(host)) == 1, "the orphans are gone", 60)
    assert web_servers(host)[0] in before, "the known one was never touched"
    assert not control.node("n1")["adopting"]
    wait_for(lambda: not _listed(control, "forgotten"), "they are no longer listed", 30)
    wait_for(lambda: control.whole("known", 1), "the known service is whole", 60)


def _adopting(control: ControlPlane) -> Any:
    node = control.node("n1")
    return node if node["adopting"] and node["state"] == "ready" else None


def _listed(control: ControlPlane, service: str) -> list[dict[str, Any]]:
    return [row for row in control.call("GET", "containers") if row["name"].startswith(f"{service}.")]
