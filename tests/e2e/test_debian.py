"""A real Debian with nginx, made here by debootstrap: skopeo pushes it, `wharf service create` runs it on two nodes.

The mirror is the machine's own, from its apt sources. The download is some 60 MB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import images
from tests.e2e.fleet import ControlPlane, Host, fleet, page, wait_for
from tests.e2e.test_cli import Cli
from tests.nodes import outside

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: hosts are namespaces"),
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="needs debootstrap"),
]
WWW_DATA = 33  # nginx's workers; base-passwd gives it this number on every Debian
CODENAME = "bookworm"
Shop = tuple[Cli, ControlPlane, list[Host]]


def mirror() -> str:
    """The address from which this machine's apt has bookworm's main; skips when there is none or it does not answer."""
    targets = ["apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]
    lines = subprocess.run(targets, capture_output=True, text=True, check=False).stdout.splitlines()
    found = [line.split()[2] for line in lines if line.startswith(f"{CODENAME} main ")]
    if not found:
        pytest.skip(f"needs {CODENAME} main in the machine's apt sources")
    probe = outside("curl", "-fsS", "-m", "20", "-o", "/dev/null", f"{found[0]}dists/{CODENAME}/InRelease")
    if subprocess.run(probe, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs a Debian mirror: the one in the machine's apt sources does not answer")
    return found[0]


def debian(directory: Path) -> bytes:
    """A minimal Debian with nginx as a tar, without what a container gets from us."""
    root = directory / "root"
    command = ["unshare", "--mount", "debootstrap", "--variant=minbase", "--include=nginx-light", CODENAME, str(root), mirror()]
    made = subprocess.run(outside(*command), capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-1000:]
    kept = ["--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./var/cache/apt/archives/*.deb"]
    tar = ["tar", "--create", "--numeric-owner", "--xattrs", *kept, "--directory", str(root), "."]
    try:
        return subprocess.run(tar, capture_output=True, check=True).stdout
    finally:
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Two nodes, and the image `admin/debian-nginx:1` pushed by skopeo."""
    directory = tmp_path_factory.mktemp("debian")
    config = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "ExposedPorts": {"80/tcp": {}}}
    layout = images.layout_of(
        directory / "layout", debian(directory), command=["nginx", "-g", "daemon off;"], StopSignal="SIGQUIT", **config
    )
    with fleet("n1", "n2") as (control, hosts):
        control.push(layout, "admin/debian-nginx:1")
        shutil.rmtree(layout)
        cli = Cli(control, hosts)
        cli("login", control.url, "-u", "admin", "--password-stdin", "--yes", stdin=control.password.encode())
        cli("service", "create", "--name", "shop", "--replicas", "4", "--publish", "80", "admin/debian-nginx:1")
        yield cli, control, hosts


def test_nginx_answers_from_each_of_four_replicas_on_two_nodes(shop: Shop) -> None:
    cli, _, hosts = shop
    tasks = [task for task in cli.json("service", "ps", "shop") if task["observed"] == "running"]
    addresses = {host.name: host.address for host in hosts}
    doors = {(addresses[task["hostname"]], port["host_port"]) for task in tasks for port in task["ports"]}
    assert len(doors) == 4
    assert {address for address, _ in doors} == set(addresses.values())
    for address, port in doors:
        assert "Welcome to nginx!" in page(address, port)


def test_its_workers_are_www_data_and_its_master_is_root(shop: Shop) -> None:
    """nginx needs CAP_CHOWN, SETUID, SETGID and NET_BIND_SERVICE from us."""
    _, _, hosts = shop
    for host in hosts:
        status = [Path(f"/proc/{pid}/status").read_text() for pid in host.container_pids()]
        users = {int(line.split()[1]) for text in status for line in text.splitlines() if line.startswith("Uid:")}
        assert users == {0, WWW_DATA}


def test_the_files_are_as_debian_made_them(shop: Shop) -> None:
    """dpkg's own check of all sums finds nothing; owners and modes are kept, but for the setuid bits (docs/runtime.md)."""
    cli, _, _ = shop
    assert cli("container", "exec", "shop.1", "dpkg", "--verify") == ""
    wanted = {"/usr/bin/passwd": "755 root:root", "/usr/bin/expiry": "755 root:shadow", "/tmp": "1777 root:root"}
    for path, mode in wanted.items():
        assert cli("container", "exec", "shop.1", "stat", "-c", "%a %U:%G", path).strip() == mode
    assert "nginx" in cli("container", "exec", "shop.1", "sh", "-c", "echo $(apt-cache policy nginx-light); nginx -v 2>&1")


def test_an_ordinary_user_of_it_can_gain_nothing(shop: Shop) -> None:
    cli, _, _ = shop
    status = cli("container", "exec", "--user", "www-data", "shop.1", "grep", "NoNewPrivs", "/proc/self/status")
    assert status.split() == ["NoNewPrivs:", "1"]


def test_it_is_scaled_and_stops_by_its_own_signal(shop: Shop) -> None:
    cli, control, hosts = shop
    cli("service", "scale", "shop=2")
    wait_for(lambda: len(control.running("shop")) == 2, "two replicas", 60)
    ended = [
        task for task in control.call("GET", f"services/{control.service('shop')['id']}/ps") if task["observed"] == "shutdown"
    ]
    assert all(not task["exit_code"] for task in ended), "SIGQUIT is nginx's graceful end"
    cli("service", "rm", "shop")
    wait_for(lambda: not any(host.container_pids() for host in hosts), "all containers are gone", 60)
