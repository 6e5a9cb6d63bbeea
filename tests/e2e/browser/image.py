"""A small image around Debian's static busybox, made by hand as an OCI layout: a web server that also writes a log."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

APPLETS = ("sh", "httpd", "sleep", "echo", "cat", "stty", "ls", "true", "hostname")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
# a line on standard error, then numbered lines for as long as it lives
PROGRAM = (
    "trap 'exit 0' TERM; echo needle: version $VERSION is ready; echo a complaint >&2; httpd -p 80 -h /www; "
    "i=0; while true; do i=$((i+1)); echo line $i; sleep 1 & wait $!; done"
)


def _files(tar: tarfile.TarFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o644
        tar.addfile(entry, io.BytesIO(content))


def _base() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "root", "dev", "proc", "sys", "www"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add("/bin/busybox", "bin/busybox")
        for applet in APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
        _files(tar, {"etc/passwd": b"root:x:0:0::/root:/bin/sh\n"})
    return buffer.getvalue()


def _page(version: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _files(tar, {"www/index.html": f"version {version}\n".encode()})
    return buffer.getvalue()


def _put(layout: Path, content: bytes, media: str) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(content)
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}


def make(layout: Path, version: str) -> None:
    """An OCI layout at `layout` with one image, named `latest`."""
    (layout / "blobs" / "sha256").mkdir(parents=True)
    tars = [_base(), _page(version)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin", f"VERSION={version}"], "Cmd": ["sh", "-c", PROGRAM], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]},
        "history": [{"created_by": "busybox and its applets"}, {"created_by": f"the page of version {version}"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _put(layout, json.dumps(config).encode(), CONFIG),
        "layers": [_put(layout, gzip.compress(tar, mtime=0), LAYER) for tar in tars],
    }
    entry = _put(layout, json.dumps(manifest).encode(), MANIFEST)
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
