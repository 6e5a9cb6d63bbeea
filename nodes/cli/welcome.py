"""The service `welcome`: a small real image from this machine's busybox, pushed and run by the same code as the commands.

Made once in the life of a home: whoever removes it does not get it again at the next start.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controlplane.cli.context import Context
from controlplane.cli.session import Failure, Session
from nodes.cli import pushing
from nodes.cli.converge import wait
from nodes.cli.layers import Part
from nodes.cli.rootfs import image_config, import_rootfs
from nodes.cli.service import PATH, make

NAME = "welcome"
IMAGE = "library/welcome:1"
INSIDE = 8080  # above 1023: the page is served without any right
PORTS = range(8080, 8100)
TIMEOUT = 180.0  # seconds for the node to join, pull and start; a loaded machine takes its time
SCRIPT = """#!/bin/sh
# The page, written for each request. httpd -e encodes for HTML.
NODE=$(httpd -e "$WHARF_NODE")
TASK=$(httpd -e "$WHARF_TASK")
SERVICE=$(httpd -e "$WHARF_SERVICE")
CONTAINER=$(httpd -e "$(hostname)")
NOW=$(date -u '+%Y-%m-%d %H:%M:%S UTC')
printf 'Content-Type: text/html; charset=utf-8\\r\\nCache-Control: no-store\\r\\n\\r\\n'
cat <<PAGE
{page}PAGE
"""


class Given(Session):
    """A session with a context of its own instead of the one in the user's file."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._given = context

    @property
    def context(self) -> Context:
        return self._given


def rootfs(busybox: Path) -> bytes:
    """The tar: busybox with a link for each of its programs, and the page."""
    applets = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True).stdout.split()
    page = Path(__file__).with_name("welcome.html").read_text(encoding="utf-8")
    files = {
        "etc/passwd": "root:x:0:0:root:/:/bin/sh\nwww-data:x:33:33:www-data:/www:/bin/sh\n",
        "etc/group": "root:x:0:\nwww-data:x:33:\n",
        "www/cgi-bin/index.cgi": SCRIPT.replace("{page}", page),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "www", "www/cgi-bin"):
            archive.addfile(_entry(name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755))
        _add(archive, "bin/busybox", busybox.read_bytes(), 0o755)
        for applet in sorted({*applets} - {"busybox"}):
            link = _entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
            link.linkname = "busybox"
            archive.addfile(link)
        for name, text in files.items():
            _add(archive, name, text.encode(), 0o755 if name.endswith(".cgi") else 0o644)
    return out.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = _entry(name, tarfile.REGTYPE, mode)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def find_busybox() -> Path:
    """Debian's busybox-static. Raises Failure when there is none, or one that needs libraries."""
    found = shutil.which("busybox", path=f"{os.environ.get('PATH', '')}:/bin:/usr/bin")
    if found is None:
        raise Failure("busybox is not installed: apt-get install busybox-static")
    path = Path(found).resolve()
    if b"/ld-linux" in path.read_bytes():
        raise Failure(f"{path} needs libraries: apt-get install busybox-static")
    return path


def free_port() -> int:
    """The first of PORTS that nobody on this host listens on. Raises Failure."""
    for port in PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))  # noqa: S104  # asked, not served
            except OSError:
                continue
            return port
    raise Failure(f"The ports {PORTS.start} to {PORTS.stop - 1} are all taken.")


def welcome(session: Session, marker: Path, say: Callable[[str], None] = lambda text: None) -> int | None:
    """The published port of the service, made when this home never had it; None when it was removed. Raises Failure."""
    found = [row for row in session.get(PATH, name=NAME) if not row["removed_at"]]
    if found:
        ports = found[0]["spec"]["container"].get("ports") or [{}]
        published = ports[0].get("published")
        return int(published) if published else None
    if marker.exists():
        return None
    say("assembling the image")
    push(session)
    row = make(session, spec(free_port()))
    marker.touch()
    wait(session, row, timeout=TIMEOUT, show=lambda standing: None)
    return int(row["spec"]["container"]["ports"][0]["published"])


def push(session: Session) -> None:
    """The image into the registry."""
    with tempfile.NamedTemporaryFile(prefix="wharf-welcome-") as file:
        file.write(rootfs(find_busybox()))
        file.flush()
        config = image_config(
            cmd=["httpd", "-f", "-vv", "-p", str(INSIDE), "-h", "/www"],
            entrypoint=[],
            env=(),
            workdir="/www",
            user="33:33",
            expose=[f"{INSIDE}/tcp"],
            volumes=(),
            labels=("org.opencontainers.image.title=welcome",),
            stop_signal="SIGKILL",  # as the first process, httpd would not hear SIGTERM; it has nothing to put in order
        )
        repository = pushing.target(session, IMAGE).repository
        if not session.get("/api/v1/repositories", name=repository):
            session.post("/api/v1/repositories", {"name": repository, "description": "A page from a container, for newcomers."})
        image = import_rootfs(Part(file.name, 0, os.path.getsize(file.name)), config, comment="busybox and a page")
        pushing.push(session, image, pushing.target(session, IMAGE), quiet=True)


def spec(port: int) -> dict[str, Any]:
    """The ServiceSpec."""
    return {
        "name": NAME,
        "mode": "replicated",
        "replicas": 1,
        "container": {
            "image": IMAGE,
            "env": {
                "WHARF_NODE": "{{.Node.Hostname}}",
                "WHARF_TASK": "{{.Task.Name}}",
                "WHARF_SERVICE": "{{.Service.Name}}",
            },
            "ports": [{"target": INSIDE, "published": port}],
            "read_only": True,
            "cap_drop": ["ALL"],
            "resources": {"pids": 64},
        },
    }
