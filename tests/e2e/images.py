"""Small real images for stories: OCI layouts around Debian's static busybox, made without any engine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from agent.protocol.oci import MEDIA_OCI_CONFIG, MEDIA_OCI_LAYER_GZIP, MEDIA_OCI_MANIFEST

APPLETS = ("sh", "httpd", "sleep", "echo", "cat", "stty", "ls", "hostname", "true", "false", "kill", "test", "id", "nc", "date")


def layout(directory: Path, *, command: list[str], files: dict[str, str] | None = None, **config: Any) -> Path:
    """An OCI layout at `directory` with the tag `latest`; `config` are more fields of the run configuration (Env, User …)."""
    return layout_of(directory, _rootfs(files or {}), command=command, **config)


def layout_of(directory: Path, tar: bytes, *, command: list[str], **config: Any) -> Path:
    """Likewise, around the uncompressed `tar` of a root file system."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    layer = put(gzip.compress(tar, 1, mtime=0))
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": command, **config},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
        "history": [{"created_by": "a root file system"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA_OCI_MANIFEST,
        "config": {"mediaType": MEDIA_OCI_CONFIG, **put(json.dumps(document).encode())},
        "layers": [{"mediaType": MEDIA_OCI_LAYER_GZIP, **layer}],
    }
    entry = {"mediaType": MEDIA_OCI_MANIFEST, **put(json.dumps(manifest).encode())}
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


def _rootfs(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "root", "dev", "proc", "sys", "www"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add("/bin/busybox", "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name, text in {"etc/passwd": "root:x:0:0::/root:/bin/sh\n", **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def web(directory: Path, text: str = "hello from the wharf\n") -> Path:
    """A web server on port 80 that logs each request and says `text`."""
    command = ["httpd", "-f", "-vv", "-p", "80", "-h", "/www"]
    return layout(directory, command=command, files={"www/index.html": text}, ExposedPorts={"80/tcp": {}})
