"""A registry program and nodes' image stores for the image tests."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.images.create import commit, import_rootfs
from agent.images.image import Image
from agent.images.images import ImageStore
from agent.images.store import ContentStore
from agent.protocol.oci import Reference
from agent.storage import choose
from agent.storage.limits import Limits, Rights
from tests.contract.archives import archive, entry, folder, symlink

REGISTRY_PROGRAM = shutil.which("docker-registry") or ""
BUSYBOX = shutil.which("busybox") or ""
_CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def node(root: Path, driver: str = "overlay2", limits: Limits | None = None) -> ImageStore:
    """An image store of its own, as one node has."""
    graph = choose(str(root), driver, rights=Rights(keep_setuid=True, keep_devices=True), limits=limits)
    return ImageStore(str(root / "image" / driver), ContentStore(str(root / "content")), graph)


def busybox_rootfs() -> bytes:
    with open(BUSYBOX, "rb") as file:
        program = file.read()
    return archive(
        folder("bin"),
        entry("bin/busybox", program, mode=0o755),
        symlink("bin/sh", "busybox"),
        folder("etc"),
        entry("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n"),
        folder("tmp", mode=0o1777),
    )


def busybox_image(store: ImageStore, name: str) -> Image:
    changes = ['CMD ["/bin/sh"]', "ENV PATH=/bin"]
    return import_rootfs(io.BytesIO(busybox_rootfs()), Reference.parse(name), store=store, changes=changes)


def layered_image(store: ImageStore, name: str, layers: int = 3, size: int = 300_000) -> Image:
    """Busybox and `layers` more, each with `size` bytes that do not compress."""
    image = busybox_image(store, f"{name}-base")
    for number in range(layers):
        container = f"make-{number}"
        store.driver.prepare(container, list(image.chain))
        upper = Path(store.driver.container_path(container))  # type: ignore[attr-defined]
        place = upper / ("upper" if store.driver.name == "overlay2" else "rootfs")
        (place / f"file-{number}").write_bytes(os.urandom(size))
        image = commit(container, Reference.parse(name), store=store, parent=image, message=f"layer {number}")
        store.driver.remove_container(container)
    return image


@contextmanager
def running_registry(root: Path) -> Iterator[str]:
    """Debian's docker-registry on a free loopback port; its "host:port"."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = root / "config.yml"
    config.write_text(_CONFIG.format(root=root / "data", port=port))
    with open(root / "log", "wb") as log:
        process = subprocess.Popen([REGISTRY_PROGRAM, "serve", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (root / "log").read_text()
                assert time.monotonic() < deadline, "the registry did not come up"
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
