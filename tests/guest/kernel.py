"""A Debian kernel to boot: fetched as a package and unpacked, never installed: the boot loader is none of our business."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

PACKAGE = "linux-image-amd64"
# what has to be there before the root filesystem is; the rest is loaded on demand
EARLY = ("virtio_pci", "9pnet_virtio", "9p", "overlay")


class Kernel:
    """`image`: the bzImage. `modules`: the directory of its modules, with modules.dep."""

    def __init__(self, directory: Path) -> None:
        self.image = next((directory / "boot").glob("vmlinuz-*"))
        self.modules = next((directory / "lib/modules").iterdir())

    def early_modules(self) -> list[Path]:
        """EARLY and what they need, in the order to load them."""
        files = {path.stem.replace("-", "_"): path for path in self.modules.rglob("*.ko")}
        ordered: dict[str, Path] = {}

        def add(name: str) -> None:
            if name in ordered or name not in files:  # absent: built in
                return
            for needed in _needs(files[name]):
                add(needed)
            ordered[name] = files[name]

        for name in EARLY:
            add(name)
        return list(ordered.values())


def _needs(module: Path) -> list[str]:
    found = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


def fetch(cache: Path) -> Kernel:
    """The newest kernel of the machine's own package sources, kept in `cache`. RuntimeError when apt cannot get it."""
    package = _newest()
    target = cache / package
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # beside the target, to be renamed as a whole; open to apt's own user, who writes the download
        with tempfile.TemporaryDirectory(dir=cache) as made:
            os.chmod(made, 0o777)
            _run("apt-get", "download", "-q", package, cwd=made)
            _run("dpkg-deb", "-x", str(next(Path(made).glob("*.deb"))), f"{made}/tree")
            release = next(Path(made, "tree/lib/modules").iterdir()).name
            _run("depmod", "-b", f"{made}/tree", release)
            shutil.rmtree(target, ignore_errors=True)
            os.rename(f"{made}/tree", target)
    return Kernel(target)


def _newest() -> str:
    """linux-image-amd64 is an empty package that depends on the newest kernel."""
    shown = _run("apt-cache", "depends", PACKAGE)
    found = re.search(r"Depends: (linux-image-\S+)", shown)
    if found is None:
        raise RuntimeError(f"apt knows no {PACKAGE}: run apt-get update, or add a Debian package source")
    return found[1]


def _run(*command: str, cwd: str | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
