"""The committed OpenAPI document is the one the code makes."""

from __future__ import annotations

import io
from pathlib import Path

import yaml
from django.core.management import call_command

DOCUMENT = Path(__file__).parents[3] / "docs" / "openapi.yaml"


def generated() -> str:
    out = io.StringIO()
    call_command("spectacular", "--fail-on-warn", "--validate", stdout=out)
    return out.getvalue()


def test_committed_document_is_current():
    made, committed = yaml.safe_load(generated()), yaml.safe_load(DOCUMENT.read_text())
    assert sorted(made["paths"]) == sorted(committed["paths"])
    assert made == committed, "run: python manage.py spectacular --file docs/openapi.yaml"


def test_every_operation_says_what_it_asks_for_and_how_errors_look():
    document = yaml.safe_load(DOCUMENT.read_text())
    assert document["openapi"].startswith("3.1")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "default" in operation["responses"], (path, method)
            assert operation.get("x-wharf-operation"), (path, method)
