"""Settings: every variable is documented, bad values are refused by name, the databases get their options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from controlplane import settings

ROOT = Path(__file__).parents[3]


def test_every_variable_is_documented_and_every_documented_one_exists():
    read = set(re.findall(r"\"(WHARF_[A-Z_]+)\"", (ROOT / "controlplane/settings.py").read_text()))
    read |= set(re.findall(r"'(WHARF_[A-Z_]+)'", (ROOT / "controlplane/settings.py").read_text()))
    documented = set(re.findall(r"^\| `(WHARF_[A-Z_]+)`", (ROOT / "docs/howto/configuration.md").read_text(), re.MULTILINE))
    assert read - documented == set()
    sources = [
        path.read_text() for floor in ("controlplane", "nodes", "registry", "agent") for path in (ROOT / floor).rglob("*.py")
    ]
    assert {name for name in documented if not any(re.search(rf"\b{name}\b", source) for source in sources)} == set()


def test_sqlite_takes_its_lock_at_begin_and_writes_ahead():
    entry = settings.database("sqlite:////srv/wharf.db")
    assert entry["NAME"] == "/srv/wharf.db"
    assert entry["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert "journal_mode=WAL" in entry["OPTIONS"]["init_command"]


def test_postgresql_by_host_and_by_socket():
    entry = settings.database("postgresql://u%40x:p%2Fw@db.example:5433/wharf?sslmode=verify-full")
    assert (entry["USER"], entry["PASSWORD"], entry["HOST"], entry["PORT"], entry["NAME"]) == (
        "u@x",
        "p/w",
        "db.example",
        "5433",
        "wharf",
    )
    assert entry["OPTIONS"]["sslmode"] == "verify-full"
    assert settings.database("postgresql://u@/wharf?host=/run/postgresql")["HOST"] == "/run/postgresql"


@pytest.mark.parametrize("url", ["mysql://x/y", "", "/srv/db"])
def test_other_databases_are_refused(url):
    with pytest.raises(ImproperlyConfigured, match="WHARF_DATABASE_URL"):
        settings.database(url)


def test_numbers_and_flags_are_checked_by_name(monkeypatch):
    monkeypatch.setenv("WHARF_PORT", "eighty")
    with pytest.raises(ImproperlyConfigured, match="WHARF_PORT"):
        settings._number("WHARF_PORT", 1)
    monkeypatch.setenv("WHARF_DEBUG", "maybe")
    with pytest.raises(ImproperlyConfigured, match="WHARF_DEBUG"):
        settings._flag("WHARF_DEBUG", False)


def test_cookies_are_bound_to_the_host_and_to_tls():
    for name, secure in (
        (settings.SESSION_COOKIE_NAME, settings.SESSION_COOKIE_SECURE),
        (settings.CSRF_COOKIE_NAME, settings.CSRF_COOKIE_SECURE),
    ):
        assert name.startswith("__Host-")
        assert secure is True
    assert settings.SESSION_COOKIE_HTTPONLY
    assert settings.AXES_LOCKOUT_PARAMETERS == [["username", "ip_address"]]


def test_policy_lets_no_inline_code_run():
    directives = settings.CONTENT_SECURITY_POLICY["DIRECTIVES"]
    assert not any("unsafe" in str(source) for sources in directives.values() for source in sources)
    assert directives["default-src"] == ["'none'"]
