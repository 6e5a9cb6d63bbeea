"""The agent as a host of a simulated fleet: in a pid, mount and network namespace of its own, beside another one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.integration.agent.netlab import Lab, Space, ask, eventually, lab, mounts_under, needs_root

__all__ = ["lab"]
pytestmark = needs_root

AGENT = """
import json, sys
from agent.network.attach import AttachSpec
from agent.network.manager import Networks
from agent.protocol.spec import NetworkSpec, PortSpec
networks = Networks(sys.argv[1] + "/state", "/run/agent")
networks.create(NetworkSpec("blue"))
path = networks.sandbox("c1")
attached = networks.attach("c1", [AttachSpec("blue")], [PortSpec(80, 8080)])
print(json.dumps([path, attached.address, attached.ports[0].host_port]), flush=True)
for line in sys.stdin:
    if line.strip() == "detach":
        networks.detach("c1")
    elif line.strip() == "teardown":
        networks.teardown()
    print("done", flush=True)
"""


def start(space: Space, root: Path) -> subprocess.Popen[str]:
    script = f"mount -t tmpfs tmpfs /run && exec {sys.executable} -c '{AGENT}' {root}"
    argv = [
        "nsenter",
        f"--net={space.path}",
        "unshare",
        "--pid",
        "--mount",
        "--uts",
        "--ipc",
        "--fork",
        "--mount-proc",
        "--kill-child=KILL",
    ]
    return subprocess.Popen(
        [*argv, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )


def tell(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_two_hosts_publish_the_same_port(lab: Lab, tmp_path: Path) -> None:
    hosts = [start(space, tmp_path / name) for space, name in ((lab.node, "n1"), (lab.peer, "n2"))]
    try:
        for process in hosts:
            assert process.stdout is not None
            path, address, port = json.loads(process.stdout.readline())
            assert (path, address, port) == ("/run/agent/netns/c1", "172.17.0.2", 8080)
        for space in (lab.node, lab.peer):
            assert "wharf-" in space.ip("link")
            assert "8080" in space.nft("list", "ruleset")
            assert space.command("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"
        assert mounts_under(Path("/run/agent")) == [], "the machine's mounts are untouched"
        for process in hosts:
            tell(process, "detach")
        for space in (lab.node, lab.peer):
            eventually(lambda space=space: "wharf_" not in space.ip("link"), "the veth dies")  # type: ignore[misc]
        tell(hosts[0], "teardown")
        assert lab.node.nft("list", "ruleset") == ""
        assert "wharf" not in lab.node.ip("link")
    finally:
        for process in hosts:
            process.kill()
            process.communicate()


def test_power_off_leaves_what_power_on_clears(lab: Lab, tmp_path: Path) -> None:
    """SIGKILL of the pid namespace: bridges and rules survive in the netns; the next agent, its /run empty, clears ports."""
    first = start(lab.node, tmp_path)
    assert first.stdout is not None
    json.loads(first.stdout.readline())
    first.kill()
    first.communicate()
    eventually(lambda: "wharf_" not in lab.node.ip("link"), "the sandbox died with the mount namespace")
    assert "8080" in lab.node.nft("list", "ruleset")
    manager = lab.manager()
    lab.on_node(lambda: manager.sync(set()))
    assert "8080" not in lab.node.nft("list", "ruleset")
    assert lab.on_node(lambda: manager.get("blue")).bridge in lab.node.ip("link"), "networks outlive the power cut"
    lab.serve(lab.node, "0.0.0.0", 8080, name="node")
    assert ask(lab.peer, "10.77.0.1", 8080).startswith("node ")
