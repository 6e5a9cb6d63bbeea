"""What a command is given: the REST client, and how its answers and errors are shown.

session = Session.of(ctx)
for job in session.pages("/api/v1/jobs", kind="registry.gc"): …
session.table(rows, {"ID": "id", "State": "state"})
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import typer

from controlplane.cli import context as contexts
from controlplane.cli.context import Context

Column = str | Callable[[Mapping[str, Any]], str]
EXIT_CODES = {400: 1, 401: 4, 403: 4, 404: 3, 429: 5, 502: 5, 503: 5, 504: 5}


class Failure(Exception):
    """Ends the command with a sentence and an exit code. `problem` is the RFC 9457 document when a server sent one."""

    def __init__(self, sentence: str, exit_code: int = 1, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.exit_code = exit_code
        self.problem = problem

    def show(self, *, as_json: bool) -> None:
        """On stderr: the sentence, with the field errors below it; or the document."""
        if as_json:
            body = self.problem or {"detail": self.sentence, "code": "client", "status": None}
            print(json.dumps(body), file=sys.stderr)  # noqa: T201  # a program's own output
            return
        print(f"wharf: {self.sentence}", file=sys.stderr)  # noqa: T201  # likewise
        for error in (self.problem or {}).get("errors", []):
            print(f"  {error.get('field', '')}: {error.get('detail', '')}", file=sys.stderr)  # noqa: T201  # likewise


class Session:
    """One run of `wharf`."""

    def __init__(self, *, as_json: bool = False, server: str = "", context: str = "") -> None:
        self.as_json = as_json
        self._server = server
        self._name = context
        self._client: Any = None

    @classmethod
    def of(cls, ctx: typer.Context) -> Session:
        """The session of the running command."""
        return cast(Session, ctx.find_root().obj)

    # --- REST -------------------------------------------------------------------------------------------------------------------

    @property
    def context(self) -> Context:
        """The chosen context. Raises Failure when nobody is signed in."""
        current, known = contexts.load()
        found = known.get(self._name or current)
        if found is None:
            raise Failure(f"Not signed in{f' as {self._name}' if self._name else ''}. Run: wharf login https://<host>:8443", 4)
        if self._server and self._server.rstrip("/") != found.server:
            return Context(self._server.rstrip("/"), found.ca, "")  # a token is never sent to another server than its own
        return found

    @property
    def client(self) -> Any:
        """An httpx.Client that trusts the cluster's roots and sends the token."""
        if self._client is None:
            import httpx  # late: it costs more than the rest of the command line together

            chosen = self.context
            headers = {"Authorization": f"Bearer {chosen.token}"} if chosen.token else {}
            self._client = httpx.Client(base_url=chosen.server, verify=self.trust(), headers=headers, timeout=30)
        return self._client

    def close(self) -> None:
        """Ends the connections to the control plane."""
        if self._client is not None:
            self._client.close()

    def trust(self) -> Any:
        """An ssl.SSLContext with the roots of the context's server."""
        import ssl  # late, as httpx

        return ssl.create_default_context(cadata=self.context.ca or None)

    def call(self, method: str, path: str, **options: Any) -> Any:
        """The response (httpx.Response, read). Raises Failure for every status from 400 and for a server that is away."""
        import httpx

        try:
            answer = self.client.request(method, path, **options)
        except httpx.TransportError as error:
            raise Failure(f"Cannot reach {self.context.server}: {error}", 5) from None
        raise_for(answer)
        return answer

    def get(self, path: str, **query: Any) -> Any:
        """The JSON at `path`; parameters that are None or "" are left out."""
        return self.call("GET", path, params=chosen(query)).json()

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON answer to `body`, None when there is no content."""
        answer = self.call("POST", path, json=body) if body is not None else self.call("POST", path)
        return answer.json() if answer.content else None

    def patch(self, path: str, body: Any, *, etag: str = "") -> Any:
        """The JSON answer; `etag` becomes If-Match."""
        return self.call("PATCH", path, json=body, headers={"If-Match": etag} if etag else {}).json()

    def delete(self, path: str, *, etag: str = "") -> None:
        """`etag` becomes If-Match."""
        self.call("DELETE", path, headers={"If-Match": etag} if etag else {})

    def etag(self, path: str) -> str:
        """The current ETag of what is at `path`."""
        return str(self.call("GET", path).headers.get("ETag", ""))

    def pages(self, path: str, *, limit: int = 0, **query: Any) -> Iterator[Any]:
        """Every item of a list, page by page (Link rel="next"); at most `limit` when it is given."""
        count = 0
        answer = self.call("GET", path, params={**chosen(query), "limit": min(limit or 200, 500)})
        while True:
            for item in answer.json():
                yield item
                count += 1
                if count == limit:
                    return
            following = answer.links.get("next")
            if following is None:
                return
            answer = self.call("GET", following["url"])

    @contextlib.contextmanager
    def stream(self, path: str, **query: Any) -> Iterator[Iterator[str]]:
        """The lines of a response that does not end."""
        import httpx

        try:
            with self.client.stream("GET", path, params=chosen(query), timeout=httpx.Timeout(30, read=None)) as answer:
                if answer.status_code >= 400:
                    answer.read()
                raise_for(answer)
                yield answer.iter_lines()
        except httpx.TransportError as error:
            raise Failure(f"The connection to {self.context.server} ended: {error}", 5) from None

    # --- output -----------------------------------------------------------------------------------------------------------------

    def say(self, text: str, data: Any = None) -> None:
        """A sentence for a person, `data` for a program."""
        print(json.dumps(data) if self.as_json else text)  # noqa: T201  # a program's own output

    def show(self, data: Any) -> None:
        """A whole object."""
        if self.as_json:
            print(json.dumps(data))  # noqa: T201  # likewise
            return
        from rich.console import Console

        Console().print_json(data=data)

    def table(self, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, Column]) -> None:
        """Rows as a table (or JSON): heading -> key, or a function of the row."""
        if self.as_json:
            print(json.dumps(list(rows)))  # noqa: T201  # likewise
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, heading in enumerate(columns):
            table.add_column(heading, overflow="fold", no_wrap=number == 0)
        for row in rows:
            table.add_row(*(cell(row, column) for column in columns.values()))
        # A pipe gets whole lines: a program that reads them must not meet a table folded to 80 columns.
        console = Console(markup=False) if sys.stdout.isatty() else Console(markup=False, width=4096)
        console.print(table)


def cell(row: Mapping[str, Any], column: Column) -> str:
    """The text of one cell; absent and None are "-"."""
    value = column(row) if callable(column) else row.get(column)
    return "-" if value is None or value == "" else str(value)


def when(key: str) -> Callable[[Mapping[str, Any]], str]:
    """A column with the time at `key`, to the second, UTC."""

    def show(row: Mapping[str, Any]) -> str:
        text = row.get(key) or ""
        return f"{text[:10]} {text[11:19]}Z" if text else ""

    return show


def chosen(query: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not asked for."""
    return {name: value for name, value in query.items() if value is not None and value != ""}


def raise_for(answer: Any) -> None:
    """Raises Failure from a problem document, or from whatever else came with a status from 400."""
    if answer.status_code < 400:
        return
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    detail = problem.get("detail") or f"The server answered {answer.status_code} to {answer.request.method} {answer.request.url}."
    hint = " Run: wharf login" if answer.status_code == 401 else ""
    raise Failure(f"{detail}{hint}", EXIT_CODES.get(answer.status_code, 1), problem or None)
