"""What `wharf up` starts, in which order, and the loop that keeps it alive."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from agent.protocol.errors import InvalidInput, Unavailable
from controlplane.launcher import valkey
from controlplane.launcher.child import Child, how
from controlplane.launcher.layout import Layout
from controlplane.launcher.local_agent import LocalAgent
from controlplane.launcher.privileges import ROOT, SystemUser, View, bind_fate, drop, needed_paths
from controlplane.launcher.welcome import Aside

START_TIMEOUT = 120.0  # seconds until a child must be ready; a loaded machine may need a while to migrate
TICK = 1.0


class Leaving(Exception):
    """SIGTERM or SIGINT came."""


def blob_directories() -> list[Path]:
    """Directories of blobs outside of the home. A store on S3 is none."""
    stores = (os.environ.get(name, "") for name in ("WHARF_BLOB_STORE", "WHARF_BLOB_STORE_ALSO"))
    return [Path(store) for store in stores if store and "://" not in store]


class Launcher:
    """The parent. Single-threaded, for the kernel's parent-death signal follows the thread that forked."""

    def __init__(self, layout: Layout, *, with_agent: bool, say: Callable[[str], None]) -> None:
        self.layout = layout
        self.with_agent = with_agent
        self.say = say
        self.user = SystemUser.find()
        self.children: list[Child] = []
        self.aside: Aside | None = None
        self.leaving = False
        self.view: View | None = None
        self.environment = self._environment()
        self.address = os.environ.get("WHARF_ADDRESS", "0.0.0.0")  # noqa: S104  # a server: every host of the fleet reaches it
        self.port = int(os.environ.get("WHARF_PORT", "8443"))

    def _environment(self) -> dict[str, str]:
        environment = {
            **os.environ,
            "WHARF_HOME": str(self.layout.home),
            "DJANGO_SETTINGS_MODULE": os.environ.get("DJANGO_SETTINGS_MODULE", "controlplane.settings"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "MALLOC_ARENA_MAX": "2",
        }
        environment.pop("NOTIFY_SOCKET", None)
        if self.user is not None:
            environment.update(HOME="/nonexistent", USER=self.user.name, LOGNAME=self.user.name)
        return environment

    # --- life -------------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Starts everything and keeps it alive until a signal. Raises GivenUp, InvalidInput, Conflict or Unavailable."""
        owner = (self.user.uid, self.user.gid) if self.user else None
        self.layout.check()
        self.layout.prepare(owner)
        lock = self.layout.lock()
        wake = self._catch_signals()
        try:
            self._prepare_view()
            self._check_ports()
            self._start_all(owner, wake)
            self._keep(wake)
        except Leaving:
            pass
        finally:
            self._stop_all()
            os.close(lock)

    def _catch_signals(self) -> int:
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write)

        def leave(number: int, frame: FrameType | None) -> None:
            self.leaving = True

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, leave)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # only to wake the loop
        return read

    def _prepare_view(self) -> None:
        if self.user is None:
            return
        paths = needed_paths()
        for path in paths:
            if not path.stat().st_mode & 0o001:
                raise InvalidInput(f"{self.user.name}, as whom the control plane runs, cannot read {path}: chmod -R go+rX {path}")
        writable = [self.layout.home, *blob_directories()]
        stage = (
            self.layout.run / "view"
        )  # stays an empty directory: what is mounted there exists in the children's namespaces only
        stage.mkdir(mode=0o700, exist_ok=True)
        self.view = View(self.user, paths, writable, stage)
        if self.view.needed:
            self.say(
                f"{self.user.name} may not enter {', '.join(map(str, self.view.hidden))}: it gets a view with our files only."
            )

    def _check_ports(self) -> None:
        for variable, default in (("WHARF_PORT", "8443"), ("WHARF_NODE_PORT", "8444")):
            port = int(os.environ.get(variable, default))
            with socket.socket(socket.AF_INET6 if ":" in self.address else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.address, port))
                except OSError as error:
                    raise Unavailable(f"Port {port} on {self.address}: {error.strerror}. {variable} chooses another.") from None

    # --- children ---------------------------------------------------------------------------------------------------------------

    def _start_all(self, owner: tuple[int, int] | None, wake: int) -> None:
        if not os.environ.get("WHARF_REDIS_URL"):
            self._start(wake, self._child("valkey", valkey.command(self.layout.home), probe=self._valkey_answers))
        first = self._first_start()
        python = [sys.executable, "-m"]
        web = self._child("web", [*python, "controlplane.server"], owner=owner, notify=True)
        celery = ["celery", "-A", "controlplane.celery", "worker", "--pool", "threads", "-c", "4", "-l", "WARNING"]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        self._start(wake, web, self._child("worker", [*python, *celery, *quiet], owner=owner, notify=True))
        self._announce(first)
        self._start_agent(wake)

    def _child(self, name: str, command: list[str], *, notify: bool = False, **options: Any) -> Child:
        if notify:
            options["notify"] = self.layout.run / f"{name}.notify"
        wrapped = drop(command, self.user, self.view)
        return Child(name, wrapped, self.environment, self.layout.logs / f"{name}.log", cwd=Path("/"), **options)

    def _start(self, wake: int, *children: Child) -> None:
        """Starts them side by side and returns when all are ready."""
        for child in children:
            self.children.append(child)
            child.start()
        deadline = time.monotonic() + START_TIMEOUT
        while late := [child for child in children if not child.ready]:
            if time.monotonic() > deadline:
                raise Unavailable(f"{late[0].name} was not ready after {START_TIMEOUT:.0f} seconds.\n{late[0].tail()}")
            self._wait(wake, 0.02 if late[0].probe else 0.2)
            self._round()

    def _valkey_answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(str(self.layout.home / "valkey.sock"))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def _first_start(self) -> dict[str, Any]:
        """Migrates, makes what a home needs, in a process of its own; {"admin", "password" (None when it existed), …}."""
        manage = [sys.executable, str(ROOT / "manage.py"), "first_start", "--json"]
        return dict(self._ask(manage, "the preparation of the home"))

    def _ask(self, command: list[str], what: str) -> Any:
        """The JSON that a helper process prints."""
        wrapped = drop(command, self.user, self.view)
        with subprocess.Popen(wrapped, env=self.environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, errors = process.communicate()
        if self.leaving:
            raise Leaving
        if process.returncode:
            raise Unavailable(f"{what} failed {how(process.returncode)}.\n{errors.decode('utf-8', 'replace')[-2000:]}")
        return json.loads(out)

    @property
    def _host(self) -> str:
        """How people reach this host."""
        names = os.environ.get("WHARF_HOSTNAMES", "").replace(",", " ").split()
        if names:
            return names[0]
        everywhere = self.address in {"0.0.0.0", "::"}  # noqa: S104  # compared, not bound
        return socket.gethostname() if everywhere else self.address

    @property
    def _here(self) -> str:
        """Host and port of the web process as this very host reaches it."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # where a listener on all addresses is reached from here
        return f"{everywhere.get(self.address, self.address)}:{self.port}"

    def _announce(self, first: dict[str, Any]) -> None:
        self.say(f"Console   https://{self._host}:{self.port}/")
        if first.get("password"):
            self.say(f"Sign in   {first['admin']} / {first['password']}    (the password is shown this once)")

    def _start_agent(self, wake: int) -> None:
        if not self.with_agent:
            return
        if os.geteuid() != 0:
            self.say("No local node: containers need root. Join nodes with `wharf node token`.")
            return
        agent = LocalAgent(self.layout)
        environment = {**self.environment, "HOME": "/root", "USER": "root", "LOGNAME": "root"}
        if not agent.joined:
            self._join(agent, environment)
        command = bind_fate(agent.command("run", *agent.places, *agent.guarded))
        # umask: the directories of images and containers have the modes that the agent gives them
        self._start(wake, Child("agent", command, environment, self.layout.logs / "agent.log", cwd=Path("/"), umask=0o022))
        if os.environ.get("WELCOME") != "0":
            helper = [sys.executable, "-m", "controlplane.launcher.welcome", f"https://{self._here}"]
            self.aside = Aside(drop(helper, self.user, self.view), self.environment, self._host)

    def _join(self, agent: LocalAgent, environment: dict[str, str]) -> None:
        token = self._ask([sys.executable, "-m", "controlplane.launcher.local_node"], "the local node's token")["token"]
        if token is None:
            raise Unavailable("No guest makes a token for the local node. Start without it: wharf up --no-agent")
        command = agent.command("join", "--token", "-", self._here)
        done = subprocess.run(command, env=environment, cwd="/", input=token, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"The local node could not join.\n{done.stderr[-2000:]}")

    # --- loop -------------------------------------------------------------------------------------------------------------------

    def _keep(self, wake: int) -> None:
        while True:
            self._wait(wake, TICK)
            self._round()

    def _wait(self, wake: int, seconds: float) -> None:
        """Until a child dies, says something, a signal comes, or `seconds` have passed. Raises Leaving."""
        if self.leaving:
            raise Leaving
        due = [child.restart_at - time.monotonic() for child in self.children if not child.running]
        listeners = [child.listener for child in self.children if child.listener is not None and child.running]
        pidfds = [child.pidfd for child in self.children if child.running]
        watched: list[Any] = [wake, *listeners, *pidfds]
        readable, _, _ = select.select(watched, [], [], max(0.0, min([seconds, *due])))
        if wake in readable:
            os.read(wake, 512)
        if self.leaving:
            raise Leaving

    def _round(self) -> None:
        if self.aside is not None:
            self.aside.look(self.say)
        for child in self.children:
            code = child.reap()
            if code is not None:
                self.say(f"{child.name} ended {how(code)}; it is started again.")
            if not child.running and time.monotonic() >= child.restart_at:
                child.start()
            child.look()

    def _stop_all(self) -> None:
        """Agent, worker, web, Valkey. Containers stay: their supervisor is no child of ours."""
        if self.aside is not None:
            self.aside.stop()
        for child in reversed(self.children):
            child.stop()
