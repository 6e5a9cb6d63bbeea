"""Small disks run full: whoever asks is told, nothing that runs is touched, and room makes everything go on by itself."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import images
from tests.e2e.fleet import CONTROL, ControlPlane, Fabric, Host, page, wait_for
from tests.e2e.ledger import processes

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: hosts are namespaces"),
]
MB = 1 << 20
BLOBS, NODE = 32 * MB, 96 * MB  # of which a node keeps 16 MB for its own state
World = tuple[ControlPlane, Host, Path]


@contextlib.contextmanager
def small_disk(path: Path, size: int, mode: int) -> Iterator[Path]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode={mode:o}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A control plane whose blobs, and a node whose data, lie on small file systems; `admin/web:1` runs as `old`."""
    with contextlib.ExitStack() as stack:
        fabric = Fabric()
        stack.callback(fabric.close)
        parent = Path(tempfile.mkdtemp(prefix="wharf-blobs-", dir="/tmp"))
        stack.callback(subprocess.run, ["rm", "-rf", str(parent)], check=True)
        parent.chmod(0o755)
        blobs = stack.enter_context(small_disk(parent / "blobs", BLOBS, 0o1777))
        control = ControlPlane()
        stack.callback(control.close)
        control.environment["WHARF_BLOB_STORE"] = str(blobs)
        control.start()
        host = fabric.host("n1")
        stack.enter_context(small_disk(host.home / "agent", NODE, 0o700))
        stack.callback(host.kill_init)  # before its disk goes
        host.power_on()
        control.join(host)
        control.push(images.web(tmp_path_factory.mktemp("image") / "web"), "admin/web:1")
        control.create("old", "admin/web:1", replicas=2, ports=[{"target": 80}])
        wait_for(lambda: control.whole("old", 2), "two running tasks", 60)
        yield control, host, blobs


def large(directory: Path, size: int) -> Path:
    """An image of `size` bytes that compress to half of it."""
    noise = random.Random(size).randbytes(size // 2).hex()  # a digit has half a byte's worth
    return images.layout(directory, command=["sleep", "1000"], files={"noise": noise})


def skopeo(control: ControlPlane, layout: Path, name: str) -> subprocess.CompletedProcess[str]:
    words = ["skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds", f"admin:{control.password}"]
    return subprocess.run(
        [*words, f"oci:{layout}:latest", f"docker://{CONTROL}:8443/{name}"], capture_output=True, text=True, check=False
    )


def upload(control: ControlPlane, name: str, data: bytes) -> httpx.Response:
    """The answer to one chunk."""
    options: Any = {"verify": False, "auth": ("admin", control.password), "timeout": 60}
    location = httpx.post(f"{control.url}/v2/{name}/blobs/uploads/", **options).headers["location"]
    return httpx.patch(f"{control.url}{location}", content=data, **options)


def tags(control: ControlPlane, name: str) -> int:
    path = f"{control.url}/v2/{name}/tags/list"
    return httpx.get(path, verify=False, auth=("admin", control.password), timeout=30).status_code


def test_a_push_into_a_full_registry_says_so_and_succeeds_when_there_is_room(world: World, tmp_path: Path) -> None:
    control, _, blobs = world
    control.call("POST", "repositories", json={"name": "admin/large"})
    layout = large(tmp_path / "large", 3 * BLOBS)
    refused = skopeo(control, layout, "admin/large:1")
    assert refused.returncode != 0
    assert "503" in refused.stderr  # skopeo shows bodies of 4xx only; what the body says:
    answer = upload(control, "admin/large", bytes(2 * BLOBS))
    assert answer.status_code == 503
    assert "the registry's disk is full" in answer.json()["errors"][0]["message"]
    assert not list(blobs.glob("uploads/*"))
    control.push(images.web(tmp_path / "small", "small\n"), "admin/small:1")  # what did not fit occupies nothing
    subprocess.run(["mount", "-o", f"remount,size={4 * BLOBS}", str(blobs)], check=True)
    control.push(layout, "admin/large:1")
    assert tags(control, "admin/large") == 200


def problems(control: ControlPlane) -> list[str]:
    found: list[str] = control.node("n1")["inventory"].get("problems", [])
    return found


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(MB))


def test_a_node_with_a_full_disk_takes_nothing_new_loses_nothing_and_recovers(world: World, tmp_path: Path) -> None:
    control, host, _ = world
    control.push(images.web(tmp_path / "new", "new\n"), "admin/new:1")
    before = processes([host])
    assert len(before) == 2
    filler = host.home / "agent" / "filler"

    def full() -> bool:
        fill(filler)  # the ballast that the agent gave up too
        return "disk_full" in problems(control)

    wait_for(full, "the node says that its disk is full", 60)
    control.create("new", "admin/new:1")
    task: dict[str, Any] = wait_for(lambda: next((t for t in control.tasks("new") if t["why_pending"]), None), "a reason", 60)
    assert "disk" in str(task["why_pending"])
    assert processes([host]) == before
    door = control.running("old")[0]["ports"][0]["host_port"]
    assert page(host.address, door) == "hello from the wharf\n"
    host.kill_agent()  # a new one has to come up although it can write nothing
    host.start_agent()

    def linked_and_full() -> bool:
        fill(filler)  # what its start has freed
        node = control.node("n1")
        return bool(node["linked"]) and "disk_full" in problems(control)

    wait_for(linked_and_full, "the new agent says the same", 60)
    assert processes([host]) == before
    assert "no link" not in host.log(), "a full disk is no lost link"

    filler.unlink()
    wait_for(lambda: not problems(control), "the node is well", 60)
    wait_for(lambda: control.whole("new", 1), "the new service runs", 60)
    assert before <= processes([host])
