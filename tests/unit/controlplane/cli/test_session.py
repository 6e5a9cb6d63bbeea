"""The command line's frame without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane.cli import context as contexts
from controlplane.cli.context import Context
from controlplane.cli.session import Failure, Session, chosen, raise_for, when
from controlplane.cli.signing_in import bundle_digest


@pytest.fixture(autouse=True)
def _own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHARF_CONFIG", str(tmp_path / "wharf" / "context.json"))


def answer(status: int, body: Any) -> httpx.Response:
    return httpx.Response(status, json=body, request=httpx.Request("GET", "https://x/api/v1/jobs"))


@pytest.mark.parametrize(("status", "code"), [(400, 1), (401, 4), (403, 4), (404, 3), (409, 1), (429, 5), (500, 1), (503, 5)])
def test_a_problem_becomes_a_sentence_and_an_exit_code(status: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    problem = {"detail": "The job is still running.", "errors": [{"field": "cron", "detail": "six fields"}]}
    with pytest.raises(Failure) as caught:
        raise_for(answer(status, problem))
    assert caught.value.exit_code == code
    caught.value.show(as_json=False)
    shown = capsys.readouterr().err
    assert shown.startswith("wharf: The job is still running.")
    assert "cron: six fields" in shown
    caught.value.show(as_json=True)
    assert json.loads(capsys.readouterr().err) == problem


def test_a_page_that_is_no_problem_document_is_still_a_sentence() -> None:
    html = httpx.Response(502, text="<html>", request=httpx.Request("GET", "https://x/"))
    with pytest.raises(Failure, match="answered 502 to GET https://x/"):
        raise_for(html)


def test_contexts_are_private_and_survive() -> None:
    contexts.save("a", {"a": Context("https://a:8443", "PEM", "wharf_x_y", "alice")})
    assert contexts.path().stat().st_mode & 0o777 == 0o600
    assert contexts.load() == ("a", {"a": Context("https://a:8443", "PEM", "wharf_x_y", "alice")})


def test_a_token_is_not_sent_to_another_server() -> None:
    contexts.save("a", {"a": Context("https://a:8443", "", "wharf_x_y", "alice")})
    assert Session().context.token == "wharf_x_y"
    assert Session(server="https://a:8443/").context.token == "wharf_x_y"
    assert Session(server="https://b:8443").context.token == ""


def test_nobody_signed_in_is_said() -> None:
    with pytest.raises(Failure, match="wharf login") as caught:
        _ = Session().context
    assert caught.value.exit_code == 4


def test_lists_follow_the_link_header(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        second = "cursor" in request.url.params
        links = {} if second else {"Link": '<https://a/api/v1/jobs?cursor=2>; rel="next"'}
        return httpx.Response(200, json=[3] if second else [1, 2], headers=links)

    session = Session()
    session._client = httpx.Client(base_url="https://a", transport=httpx.MockTransport(handle))
    assert list(session.pages("/api/v1/jobs")) == [1, 2, 3]
    assert list(session.pages("/api/v1/jobs", limit=1)) == [1]
    session.client.close()


def test_tables_are_whole_in_a_pipe_and_json_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "x" * 100, "at": "2026-11-24T04:51:18.101000Z", "none": None}]
    Session().table(rows, {"ID": "id", "At": when("at"), "None": "none"})
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split() == ["x" * 100, "2026-11-24", "04:51:18Z", "-"]
    Session(as_json=True).table(rows, {"ID": "id"})
    assert json.loads(capsys.readouterr().out) == rows


def test_what_was_not_asked_for_is_left_out() -> None:
    assert chosen({"a": None, "b": "", "c": 0, "d": "x"}) == {"c": 0, "d": "x"}


def test_client_commands_load_no_django_and_no_httpx() -> None:
    code = (
        "import sys; sys.argv = ['wharf', 'context', 'ls']\n"
        "import controlplane.cli.main as m\n"
        "try:\n m.main()\nexcept SystemExit as e:\n assert not e.code, e.code\n"
        "assert not {'django', 'httpx', 'celery'} & set(sys.modules), sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_commands_are_wrong_usage() -> None:
    done = subprocess.run([sys.executable, "-m", "controlplane.cli.main", "frob"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "frob" in done.stderr


def test_the_digest_is_that_of_the_pki(db: Any) -> None:
    from controlplane.pki.cluster import bundle_digest as digest
    from controlplane.pki.cluster import bundle_pem, ensure_authorities

    ensure_authorities()
    assert bundle_digest(bundle_pem()) == digest()


@pytest.mark.parametrize(
    ("typed", "as_json", "left"),
    [
        (["node", "ls", "--json"], True, ["node", "ls"]),
        (["container", "exec", "web.1", "prog", "--json"], False, ["container", "exec", "web.1", "prog", "--json"]),
        (["--json", "container", "exec", "web.1", "prog"], True, ["container", "exec", "web.1", "prog"]),
        (["service", "create", "web", "prog", "--json"], False, ["service", "create", "web", "prog", "--json"]),
    ],
    ids=str,
)
def test_json_may_stand_last_but_a_programs_own_words_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, typed: list[str], as_json: bool, left: list[str]
) -> None:
    from controlplane.cli import main

    seen: list[list[str]] = []
    monkeypatch.setattr(main, "app", seen.append)
    monkeypatch.setattr(sys, "argv", ["wharf", *typed])
    main.main()
    assert seen == [["--json", *left] if as_json else left]


def test_a_guests_command_is_imported_when_it_is_called() -> None:
    code = (
        "import sys, controlplane.cli.main as m\n"
        "commands = m.Commands()\n"
        "assert {'node', 'service', 'container', 'image', 'repo'} <= set(commands.list_commands(None))\n"
        "assert 'nodes.cli.node' not in sys.modules\n"
        "assert commands.get_command(None, 'node').name == 'node'\n"
        "loaded = {name for name in sys.modules if name.startswith('nodes.cli.')}\n"
        "assert loaded == {'nodes.cli.node', 'nodes.cli.quantities'}, loaded\n"
        "assert not {'django', 'httpx', 'rich', 'websockets'} & set(sys.modules), sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
