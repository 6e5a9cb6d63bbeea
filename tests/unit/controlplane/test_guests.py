"""Guests: an absent module is skipped, a broken one is an error."""

from __future__ import annotations

import sys

import pytest

from controlplane.api import guests


@pytest.fixture
def guest(tmp_path, monkeypatch):
    package = tmp_path / "visitor"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [name for name in sys.modules if name.split(".")[0] == "visitor"]:
        del sys.modules[name]


def test_absent_modules_are_skipped(guest):
    assert guests.optional("visitor.asgi") is None
    assert guests.optional("visitor.deep.asgi") is None
    assert guests.optional("no_such_guest.asgi") is None


def test_a_present_one_is_given(guest, settings):
    (guest / "asgi.py").write_text("mount = [('/v2', None)]")
    settings.GUESTS = ["visitor", "absent"]
    assert [module.mount for module in guests.modules("asgi")] == [[("/v2", None)]]


@pytest.mark.parametrize("text", ["import no_such_library", "from visitor import nothing", "1 / 0"])
def test_a_broken_import_inside_is_an_error(guest, text):
    (guest / "asgi.py").write_text(text)
    with pytest.raises((ImportError, ZeroDivisionError)):
        guests.optional("visitor.asgi")
