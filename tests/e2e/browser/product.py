"""The running product that all browser stories share: `wharf up` with its local node, an image in the registry, a service."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane.launcher.layout import Layout
from controlplane.launcher.local_agent import LocalAgent
from tests.e2e.browser import image
from tests.e2e.test_launcher import Up
from tests.integration.controlplane.stores import wait_for

CHROMIUM = "/usr/bin/chromium"
STORY = [
    pytest.mark.browser,
    pytest.mark.root,
    pytest.mark.timeout(420),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a node"),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Debian's chromium is not installed"),
    pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed"),
]
PATIENCE = 90.0  # seconds; bounds a failure only


class Product:
    """`web` is a service of two tasks of the image admin/web:1; admin/web:2 is there too."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="wharf-browser-"))
        self.up = Up(self.home, agent=True)
        self.up.environment["WELCOME"] = "0"
        self.url = f"https://127.0.0.1:{self.up.environment['WHARF_PORT']}"
        self.password = ""
        self.token = ""

    def start(self) -> None:
        self.up.started()
        self.password = self.up.said().split("admin / ")[1].split()[0]
        answer = httpx.post(
            f"{self.url}/api/v1/login", json={"username": "admin", "password": self.password}, verify=False, timeout=60
        )
        self.token = answer.raise_for_status().json()["token"]
        for version in ("1", "2"):
            self.push(f"admin/web:{version}", version)
        self.until(lambda: [node["state"] for node in self.rows("nodes")] == ["ready"], "the local node is ready")
        self.serve("web", replicas=2)
        self.until(lambda: self.running("web") == 2, "two tasks of web run")

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The parsed answer of /api/v1/<path>; raises on an error status."""
        answer = httpx.request(
            method,
            f"{self.url}/api/v1/{path}",
            json=body,
            verify=False,
            timeout=60,
            headers={"Authorization": f"Bearer {self.token}", "If-Match": "*"},
        )
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def rows(self, path: str) -> list[dict[str, Any]]:
        answer = self.api("GET", path)
        return answer if isinstance(answer, list) else answer["results"]

    def serve(self, name: str, *, replicas: int = 1, tag: str = "admin/web:1", **spec: Any) -> dict[str, Any]:
        """A service of that name; what stands already is left alone."""
        body = {"name": name, "replicas": replicas, "container": {"image": tag, "ports": [{"target": 80}]}, **spec}
        made: dict[str, Any] = self.api("POST", "services", {"spec": body})
        return made

    def running(self, service: str) -> int:
        names = {row["id"]: row["name"] for row in self.rows("services")}
        return sum(row["observed"] == "running" and names.get(row["service"]) == service for row in self.rows("tasks"))

    def push(self, tag: str, version: str) -> None:
        """Makes the repository and the image of that version, and pushes it with skopeo, as a user would."""
        repository = tag.partition(":")[0]
        if not self.rows(f"repositories?name={repository}"):
            self.api("POST", "repositories", {"name": repository})
        layout = self.home / f"layout-{version}"
        if not layout.exists():
            image.make(layout, version)
        subprocess.run(
            ["skopeo", "copy", "-q", "--dest-tls-verify=false", "--dest-creds", f"admin:{self.password}",
             f"oci:{layout}:latest", f"docker://{self.url.removeprefix('https://')}/{tag}"],
            check=True, timeout=120,
        )  # fmt: skip

    def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            wait_for(condition, what, PATIENCE)
        except AssertionError:
            print(self.story())
            raise

    def story(self) -> str:
        """What the launcher and its children said last."""
        logs = [f"--- {name}.log\n{self._tail(name)}" for name in ("web", "worker", "agent")]
        return "\n".join([self.up.said()[-2000:], *logs])

    def _tail(self, name: str) -> str:
        path = self.home / "log" / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else "none"

    def stop(self) -> list[Path]:
        """Ends everything; returns what was left behind on the machine."""
        if self.up.ended():
            print(f"it ended by itself:\n{self.story()}")
        down = self.up.call("down")
        self.up.close()
        mark = LocalAgent(Layout(self.home)).places[1].removeprefix("/run/wharfinger-")
        left = [*Path("/run").glob(f"*{mark}*"), *Path("/sys/fs/cgroup").glob(f"*/*{mark}*")]
        assert down.returncode == 0, down.stderr
        shutil.rmtree(self.home)
        return left
