"""The committed bundles are what their sources and the locked packages give."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
CONSOLE = ROOT / "controlplane" / "console"
STATIC = CONSOLE / "static"
MANIFEST = json.loads((STATIC / "vendor" / "manifest.json").read_text())


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(root: Path) -> dict[str, str]:
    found = [path for part in ("vendor", "console/js", "console/css") for path in (root / part).iterdir()]
    return {str(path.relative_to(root)): _hash(path) for path in found if path.name != "manifest.json"}


def test_the_manifest_names_every_bundle_and_its_hash() -> None:
    assert _files(STATIC) == MANIFEST["files"]


def test_the_bundles_were_built_from_these_sources() -> None:
    """Also where there is no npm: a source that changed after the last build has another hash."""
    rooms = [*(CONSOLE / "islands").iterdir(), *(CONSOLE / "styles").iterdir()]
    sources = {path.name: _hash(path) for path in rooms if path.suffix in (".ts", ".mjs", ".json", ".css")}
    assert sources == MANIFEST["sources"], "run npm ci && npm run build, and commit what it wrote"


def test_the_packages_are_the_locked_ones() -> None:
    locked = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in MANIFEST["packages"]} == {
        name: package["version"] for name, package in MANIFEST["packages"].items()
    }


def test_every_icon_that_a_page_shows_is_in_the_sprite() -> None:
    sprite = (STATIC / "vendor" / "icons.svg").read_text()
    templates = [path for room in ("controlplane", "nodes", "registry") for path in (ROOT / room / "console").rglob("*.html")]
    named = {name for path in templates for name in re.findall(r'\{% icon "([a-z0-9-]+)"', path.read_text())}
    code = [path for room in ("controlplane", "nodes", "registry") for path in (ROOT / room / "console").rglob("*.py")]
    assert named
    assert [name for name in sorted(named) if f'id="{name}"' not in sprite] == []
    for path in code:
        for name in re.findall(r'NavEntry\([^)]*?, "[a-z-]+", "([a-z0-9-]+)"', path.read_text()):
            assert f'id="{name}"' in sprite


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.skipif(not (ROOT / "node_modules" / "esbuild").is_dir(), reason="npm ci was not run")
def test_a_new_build_gives_the_same_bytes(tmp_path: Path) -> None:
    for room in ("islands", "styles"):
        shutil.copytree(CONSOLE / room, tmp_path / "controlplane/console" / room)
    (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    shutil.copy(ROOT / "package.json", tmp_path)
    subprocess.run(["node", "controlplane/console/islands/build.mjs"], cwd=tmp_path, check=True, timeout=110, capture_output=True)
    built = tmp_path / "controlplane/console/static"
    assert _files(built) == _files(STATIC)
    assert (built / "vendor/manifest.json").read_text() == (STATIC / "vendor/manifest.json").read_text()
