"""A fleet on one machine: each host is a network namespace and a PID namespace with a mount, UTS and IPC namespace of its own.

The test process sits in a network namespace too (tests.nodes.isolate), where the control plane runs; a bridge in the namespace
`fab` joins them all. `power_off` pulls the cable first and kills the host's init then: a bare SIGKILL would let the kernel send
FIN, and the peers would see an end where a real power loss is silence.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.nodes import cgroup_directories, isolate, remove_cgroups

ROOT = Path(__file__).resolve().parents[2]
CONTROL = "10.77.0.1"
PASSWORD_MARK = "Sign in"
# The host's first process: it makes the host's own places and then only reaps what is left to it.
INIT = """
hostname "$1"
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$2" /proc/sys/kernel/random/boot_id
exec "$3" -I -c 'import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
print("up", flush=True)
while True:
    signal.sigwait({signal.SIGCHLD})
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass'
"""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Poll until `condition()` is true; its value. Fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def page(address: str, port: int) -> str:
    """What a web server says at "/". A container runs before its program listens: who is refused asks again."""
    answers: list[str] = []

    def answered() -> bool:
        with contextlib.suppress(httpx.ConnectError):
            answers.append(httpx.get(f"http://{address}:{port}/", timeout=10).text)
        return bool(answers)

    wait_for(answered, f"somebody listens at {address}:{port}", 20)
    return answers[0]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Fabric:
    """The bridge that all hosts hang on, in a namespace of its own; our own end has the address 10.77.0.1."""

    def __init__(self) -> None:
        isolate()
        self.hosts: list[Host] = []
        ip("netns", "add", "fab")
        ip("-n", "fab", "link", "add", "br0", "type", "bridge")
        ip("-n", "fab", "link", "set", "br0", "up")
        self._plug("cp", None)
        ip("addr", "add", f"{CONTROL}/24", "dev", "cp")
        ip("link", "set", "cp", "up")

    def _plug(self, name: str, namespace: str | None) -> None:
        ip("link", "add", name, "type", "veth", "peer", "name", f"fab-{name}", "netns", "fab")
        if namespace:
            ip("link", "set", name, "netns", namespace)
        ip("-n", "fab", "link", "set", f"fab-{name}", "master", "br0", "up")

    def host(self, name: str) -> Host:
        host = Host(self, name, f"10.77.0.{10 + len(self.hosts)}")
        self.hosts.append(host)
        return host

    def wire(self, host: Host) -> None:
        """The host's interface, with its address and a route."""
        ip("netns", "add", host.name)
        self._plug(host.name, host.name)
        ip("-n", host.name, "link", "set", "lo", "up")
        ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.name)
        ip("-n", host.name, "link", "set", host.name, "up")
        ip("-n", host.name, "route", "add", "default", "via", CONTROL)

    def cable(self, host: Host, state: str) -> None:
        ip("-n", "fab", "link", "set", f"fab-{host.name}", state)

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        # a namespace goes when its last user does, maybe later; our own end must be free for the next fabric now
        subprocess.run(["ip", "link", "del", "cp"], check=False, capture_output=True)
        for name in [*(host.name for host in self.hosts), "fab"]:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class Host:
    """One machine of the fleet. Its home survives a power cut, its /run and processes do not."""

    def __init__(self, fabric: Fabric, name: str, address: str) -> None:
        self.fabric = fabric
        self.name = name
        self.address = address
        self.home = Path(tempfile.mkdtemp(prefix=f"wharf-{name}-", dir="/tmp"))
        self.cgroup = f"wharf-e2e-{os.getpid()}-{name}"
        self.init: subprocess.Popen[str] | None = None
        self.agent: subprocess.Popen[bytes] | None = None
        fabric.wire(self)

    # -- power -----------------------------------------------------------------------------------------------------------

    def power_on(self) -> None:
        boot = self.home / "boot_id"
        boot.write_text(f"{uuid.uuid4()}\n")
        self.fabric.cable(self, "up")
        spaces = ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "--pid", "--mount", "--uts", "--ipc", "--fork"]
        command = [*spaces, "--mount-proc", "--kill-child=KILL", "sh", "-c", INIT, "init", self.name, str(boot), sys.executable]
        # unshare complains of its signal mask when its child is killed: noise
        self.init = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.init.stdout is not None
        assert self.init.stdout.readline() == "up\n"

    def power_off(self) -> None:
        self.fabric.cable(self, "down")
        self.kill_init()

    def kill_init(self) -> None:
        if self.init is not None:
            os.kill(self._init_pid(), signal.SIGKILL)
            self.init.wait()
            if self.init.stdout is not None:
                self.init.stdout.close()
        if self.agent is not None:
            self.agent.wait()
        self.init = self.agent = None

    def _init_pid(self) -> int:
        """The pid, in our namespace, of the host's pid 1: unshare's only child."""
        assert self.init is not None
        children = Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children").read_text().split()
        return int(children[0])

    # -- programs --------------------------------------------------------------------------------------------------------

    def inside(self, *words: str) -> list[str]:
        """A command line that runs `words` on this host."""
        return ["nsenter", f"--target={self._init_pid()}", "--mount", "--uts", "--ipc", "--net", "--pid", *words]

    def attempt(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.inside(*words), capture_output=True, text=True, check=False, env=self._environment())

    def run(self, *words: str) -> str:
        result = self.attempt(*words)
        assert result.returncode == 0, f"{words} on {self.name}: {result.stderr}"
        return result.stdout

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"}

    def agent_command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "agent", "--home", str(self.home / "agent"), *words]

    def join(self, token: str, server: str) -> None:
        self.run(*self.agent_command("join", "--token", token, server))

    def start_agent(self) -> None:
        words = self.agent_command("run", "--cgroup-parent", f"/{self.cgroup}")
        log = (self.home / "agent.log").open("ab")
        self.agent = subprocess.Popen(self.inside(*words), stdout=log, stderr=log, env=self._environment())
        log.close()

    def pids(self, mark: str) -> list[int]:
        """Pids, in our namespace, of this host's processes whose command line holds `mark`."""
        found = []
        wanted = os.readlink(f"/proc/{self._init_pid()}/ns/pid")
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                same = os.readlink(entry / "ns/pid") == wanted
                if same and mark in (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"):
                    found.append(int(entry.name))
        return sorted(found)

    def container_pids(self) -> list[int]:
        """Pids, in our namespace, of the processes in this host's containers (in the pids hierarchy, or the one of v2)."""
        tops = [top for top in cgroup_directories(self.cgroup) if top.parent.name in ("pids", "cgroup")]
        found: set[int] = set()
        for file in (file for top in tops for file in top.glob("*/cgroup.procs") if file.parent.name != "supervisor"):
            with contextlib.suppress(OSError):  # removed meanwhile
                found.update(int(pid) for pid in file.read_text().split())
        return sorted(found)

    def kill_agent(self) -> None:
        assert self.agent is not None
        for pid in self.pids("-m agent "):
            os.kill(pid, signal.SIGKILL)
        self.agent.wait()
        self.agent = None

    def kill_supervisor(self) -> None:
        for pid in self.pids("agent/supervisor/__main__.py"):
            os.kill(pid, signal.SIGKILL)

    def log(self) -> str:
        path = self.home / "agent.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        if self.init is not None:
            self.kill_init()
        left = remove_cgroups(self.cgroup)
        subprocess.run(["rm", "-rf", str(self.home)], check=False)
        assert not left, f"processes are left in {left}"


class ControlPlane:
    """`wharf up` on the fabric's address, without a local node."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="wharf-cp-", dir="/tmp"))
        self.url = f"https://{CONTROL}:8443"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("WHARF_", "DJANGO_"))},
            "WHARF_HOME": str(self.home / "home"),
            "WHARF_ADDRESS": "0.0.0.0",
            "WHARF_HOSTNAMES": CONTROL,
            "PYTHONPATH": str(ROOT),
        }
        self.home.chmod(0o755)
        self.out = (self.home / "up.log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None
        self.password = ""
        self.token = ""

    def start(self) -> None:
        self.out.truncate(0)
        command = [sys.executable, "-m", "controlplane.launcher", "up", "--no-agent"]
        self.process = subprocess.Popen(command, env=self.environment, cwd=ROOT, stdout=self.out, stderr=self.out)
        # the password stands in the line after the console's
        mark = "Console" if self.password else "shown this once"
        wait_for(lambda: mark in self.said() or self.process is None or self.process.poll() is not None, "the console", 150)
        assert self.process.poll() is None, self.said()
        for line in self.said().splitlines():
            if PASSWORD_MARK in line and "/" in line:
                self.password = line.split("/")[1].split()[0]
        wait_for(self.healthy, "a healthy control plane", 60)
        if not self.token:
            answer = self.call("POST", "login", json={"username": "admin", "password": self.password})
            self.token = answer["token"]

    def said(self) -> str:
        return (self.home / "up.log").read_text(errors="replace")

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", verify=False, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def call(self, method: str, path: str, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers.update(options.pop("headers", {}))
        answer = httpx.request(method, f"{self.url}/api/v1/{path}", verify=False, timeout=30, headers=headers, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def pids(self, mark: str) -> list[int]:
        """The launcher's children whose command line holds `mark`."""
        assert self.process is not None
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and mark in (entry / "cmdline").read_bytes().decode("utf-8", "replace"):
                    found.append(int(entry.name))
        return found

    def kill(self, mark: str) -> None:
        """kill -9 of one child; waits until the launcher has another."""
        before = wait_for(lambda: self.pids(mark), f"a process with {mark}", 30)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: [pid for pid in self.pids(mark) if pid not in before], f"a new process with {mark}", 60)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)
        self.process = None

    def close(self) -> None:
        self.stop()
        self.out.close()
        subprocess.run(["rm", "-rf", str(self.home)], check=False)

    # -- what stories do -------------------------------------------------------------------------------------------------

    def join(self, host: Host) -> None:
        token = self.call("POST", "join-tokens", json={"name": host.name})["token"]
        host.join(token, f"{CONTROL}:8443")
        host.start_agent()
        wait_for(lambda: self.node(host.name)["state"] == "ready" and self.node(host.name)["memory"], f"{host.name} ready", 60)

    def node(self, hostname: str) -> dict[str, Any]:
        return next(node for node in self.call("GET", "nodes") if node["hostname"] == hostname)

    def tasks(self, service: str) -> list[dict[str, Any]]:
        """The wanted tasks of a service."""
        rows: list[dict[str, Any]] = self.call("GET", f"services/{self.service(service)['id']}/ps")
        return [row for row in rows if row["desired"] in ("running", "ready")]

    def service(self, name: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.call("GET", "services", params={"name": name})
        return rows[0]

    def create(self, name: str, image: str, *, replicas: int = 1, **container: Any) -> None:
        spec = {"name": name, "replicas": replicas, "container": {"image": image, **container}}
        self.call("POST", "services", json={"spec": spec})

    def running(self, service: str) -> list[dict[str, Any]]:
        return [task for task in self.tasks(service) if task["observed"] == "running"]

    def whole(self, service: str, replicas: int) -> bool:
        """As many running tasks as wanted, each on a node that is ready."""
        ready = {node["id"] for node in self.call("GET", "nodes") if node["state"] == "ready"}
        return len([task for task in self.running(service) if task["node"] in ready]) == replicas

    def push(self, layout: Path, name: str) -> None:
        """A real client pushes an OCI layout into a repository, which is made first."""
        repository = name.partition(":")[0]
        if not self.call("GET", "repositories", params={"name": repository}):
            self.call("POST", "repositories", json={"name": repository})
        target = f"docker://{CONTROL}:8443/{name}"
        credentials = ["--dest-tls-verify=false", "--dest-creds", f"admin:{self.password}"]
        result = subprocess.run(
            ["skopeo", "copy", "-q", *credentials, f"oci:{layout}:latest", target], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr


@contextlib.contextmanager
def fleet(*names: str) -> Iterator[tuple[ControlPlane, list[Host]]]:
    """A control plane and joined hosts; everything is gone at the end."""
    fabric = Fabric()
    control = ControlPlane()
    try:
        control.start()
        hosts = []
        for name in names:
            host = fabric.host(name)
            host.power_on()
            control.join(host)
            hosts.append(host)
        yield control, hosts
    finally:
        control.close()
        fabric.close()
