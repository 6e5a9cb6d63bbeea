"""The contracts of the house bite: a bad import in a copy breaks the contract it should, and the real tree keeps all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("controlplane", "nodes", "registry", "agent")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

# contract → (file, line that must not be there); several where a contract says several things
BREACHES = [
    ("floors", "controlplane/rbac/engine.py", "import registry.queries"),
    ("floors", "registry/details.py", "from nodes.models import Node"),
    ("floors", "agent/protocol/wire.py", "import controlplane.house"),
    # lazy and TYPE_CHECKING imports count too
    ("floors", "registry/errors.py", "def late() -> None:\n    import nodes.queries"),
    ("floors", "registry/errors.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nodes.queries"),
    ("controlplane-layers", "controlplane/events/models.py", "import controlplane.users.models"),
    ("controlplane-layers", "controlplane/users/models.py", "import controlplane.pki.models"),
    ("registry-layers", "registry/models/__init__.py", "import registry.queries"),
    ("nodes-layers", "nodes/models/__init__.py", "import nodes.actions"),
    ("nodes-layers", "nodes/scheduler/__init__.py", "import nodes.orchestrator"),
    ("agent-layers", "agent/runtime/plan.py", "import agent.supervisor.main"),
    ("agent-layers", "agent/storage/vfs.py", "import agent.runtime.mounts"),
    ("agent-alone", "agent/worker/worker.py", "import django.db"),
    ("agent-alone", "agent/sys/fs.py", "import nodes.snapshot"),
    ("one-door", "nodes/actions/__init__.py", "import agent.worker.decide"),
    ("one-door", "controlplane/launcher/up.py", "import agent.sys.mount"),
    ("protocol-pure", "agent/protocol/wire.py", "import asyncio"),
    ("pure-decisions", "nodes/scheduler/__init__.py", "import time"),
    ("pure-decisions", "nodes/orchestrator/__init__.py", "import nodes.models"),
    ("pure-decisions", "nodes/orchestrator/__init__.py", "from django.utils import timezone"),
    ("pure-decisions", "registry/rules/__init__.py", "import registry.models"),
    ("pure-decisions", "registry/rules/__init__.py", "import time"),
]


def lint(tree: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    """import-linter over the packages of `tree`, by its own pyproject.toml; all contracts, or those named."""
    program = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; lint_imports_command()"
    options = [word for name in contracts for word in ("--contract", name)]
    # first in the path: an installed (editable) copy of the packages must not be the one that is read
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache", "--no-logo", *options],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages' .py files and pyproject.toml alone."""
    tree = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", tree)
    for package in PACKAGES:
        for source in (ROOT / package).rglob("*.py"):
            target = tree / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return tree


@pytest.fixture
def breach(copy: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The copy, with the bad line in; taken out again at the end."""
    _, file, line = request.param
    path = copy / file
    before = path.read_text()
    path.write_text(f"{before}\n{line}\n")
    yield copy
    path.write_text(before)


def test_the_tree_keeps_every_contract() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in result.stdout


def test_an_unharmed_copy_keeps_every_contract(copy: Path) -> None:
    """Else the breaches below would prove nothing."""
    result = lint(copy)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in result.stdout


def test_every_contract_is_breached_below() -> None:
    assert {contract["id"] for contract in CONTRACTS} == {name for name, _, _ in BREACHES}


@pytest.mark.parametrize(
    ("breach", "contract", "file"),
    [(case, case[0], case[1]) for case in BREACHES],
    indirect=["breach"],
    ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(BREACHES)],
)
def test_a_bad_import_breaks_its_contract(breach: Path, contract: str, file: str) -> None:
    result = lint(breach, contract)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Contracts: 0 kept, 1 broken." in result.stdout
    assert file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") in result.stdout, "the breach is named"
