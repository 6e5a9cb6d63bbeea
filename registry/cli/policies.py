"""`wharf repo policy`: what keeps, limits and moves images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from controlplane.cli.session import Column, Failure, Session, when
from registry.cli.frame import app, scope, size_bytes

policy = typer.Typer(add_completion=False, no_args_is_help=True)
app.add_typer(policy, name="policy", help="Policies of repositories: retention, pruning, promotion, immutability.")

_TARGET = typer.Argument(..., help="namespace/name of a repository; or a namespace, for all its repositories.")
_KIND = typer.Argument(..., help="retention, pruning, promotion or immutability.")
_RULE = typer.Option(
    [],
    "--rule",
    help='Pruning, promotion: "FIELD OPERATOR VALUE[,VALUE]", such as "tag starts_with tmp" or "updated_at before 30 days";'
    " all of them must fit.",
)
_KEEP = typer.Option(
    [],
    "--keep",
    help='Retention: "latest_pushed 10", "pushed_within 30 days" or "always", with " of PATTERN" for some tags only;'
    " what none of them keeps goes.",
)
_TAGS = typer.Option("", "--tags", help='A pattern of tags, such as "v*" or "{alpha,beta}-**". All unless said.')
_REPOSITORIES = typer.Option("", "--repositories", help="Of a namespace: a pattern of names without the namespace.")
_INTO = typer.Option("", "--into", help="Promotion: the repository that images enter.")
_TEMPLATE = typer.Option("", "--as", help="Promotion: the tag there; %n is the tag's own name, %Y %m %d … the date.")
_UNTAGGED = typer.Option(False, "--untagged", help="Retention: manifests without a tag go too.")
_LIMIT = typer.Option("", "--limit", help="Of a rehearsal of tag_limit (tags) or quota (20GB).")


def _name(row: Mapping[str, Any]) -> str:
    return str(row["repository"] or f"{row['namespace']}/{row['repositories']}")


def _what(row: Mapping[str, Any]) -> str:
    """In one line, as it would be typed."""
    words = [] if row["tags"] == "*" else [f"tags {row['tags']}"]
    words += [" ".join((rule["field"], rule["operator"], ",".join(rule["values"]))) for rule in row["rules"] if "field" in rule]
    words += [" ".join(str(part) for part in (rule["keep"], rule["value"]) if part) for rule in row["rules"] if "keep" in rule]
    if target := row["options"].get("target"):
        words.append(f"into {target}:{row['options']['template']}")
    if row["options"].get("untagged"):
        words.append("untagged")
    return "; ".join(words)


def _state(row: Mapping[str, Any]) -> str:
    return "on" if row["enabled"] else "off"


def _rule(text: str) -> dict[str, Any]:
    """ "tag one_of a,b" -> {"field": "tag", "operator": "one_of", "values": ["a", "b"]}. Raises Failure."""
    parts = text.split(None, 2)
    if len(parts) != 3:
        raise Failure(f'A rule reads FIELD OPERATOR VALUE, such as "tag starts_with tmp", not {text!r}.', 2)
    field, operator, values = parts
    several = operator in ("one_of", "not_one_of")
    return {"field": field, "operator": operator, "values": [item.strip() for item in values.split(",")] if several else [values]}


def _keep(text: str) -> dict[str, str]:
    """ "latest_pushed 10 of v*" -> {"keep": "latest_pushed", "value": "10", "tags": "v*"}."""
    text, _, tags = text.partition(" of ")
    keep, _, value = text.strip().partition(" ")
    return {"keep": keep, "value": value.strip(), "tags": tags.strip() or "*"}


def _body(kind: str, target: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The body of REST from what was typed; what was not typed is left to the server."""
    options = {
        "target": given["into"],
        "template": given["template"],
        "untagged": given["untagged"] or None,
        "limit": (size_bytes(given["limit"]) if kind == "quota" else given["limit"]) if given["limit"] else None,
    }
    body = {
        "kind": kind,
        **scope(target),
        "tags": given["tags"],
        "repositories": given["repositories"],
        "rules": [*(_rule(text) for text in given["rules"]), *(_keep(text) for text in given["keeps"])],
        "options": {name: value for name, value in options.items() if value not in (None, "")},
    }
    return {name: value for name, value in body.items() if value}


@policy.command("ls")
def ls(ctx: typer.Context, target: str = typer.Argument("", help="Of this repository or namespace alone.")) -> None:
    """List policies."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {
        "ID": "id",
        "Kind": "kind",
        "Of": _name,
        "What": _what,
        "State": _state,
        "Ran": when("ran_at"),
        "By": "author_name",
    }
    of = scope(target) if target else {}
    rows = session.pages("/api/v1/policies", repository=of.get("repository"), namespace=of.get("namespace"))
    session.table(rows, columns)


@policy.command("show")
def show(ctx: typer.Context, key: str = typer.Argument(..., metavar="ID")) -> None:
    """Show a policy whole."""
    session = Session.of(ctx)
    session.show(session.get(f"/api/v1/policies/{key}"))


@policy.command("add")
def add(
    ctx: typer.Context,
    kind: str = _KIND,
    target: str = _TARGET,
    rules: list[str] = _RULE,
    keeps: list[str] = _KEEP,
    tags: str = _TAGS,
    repositories: str = _REPOSITORIES,
    into: str = _INTO,
    template: str = _TEMPLATE,
    untagged: bool = _UNTAGGED,
    new_only: bool = typer.Option(False, "--new-only", help="Leave alone the tags that are there already."),
    off: bool = typer.Option(False, "--off", help="Save it, but do not switch it on yet."),
) -> None:
    """Add a policy; see first with `rehearse` what it would do."""
    session = Session.of(ctx)
    body = _body(kind, target, {**locals(), "limit": ""})
    made = session.post("/api/v1/policies", {**body, "enabled": not off, "initial": not new_only})
    session.say(made["id"], made)


@policy.command("rehearse")
def rehearse(
    ctx: typer.Context,
    kind: str = typer.Argument(..., help="retention, pruning, promotion, immutability, tag_limit or quota."),
    target: str = _TARGET,
    rules: list[str] = _RULE,
    keeps: list[str] = _KEEP,
    tags: str = _TAGS,
    repositories: str = _REPOSITORIES,
    into: str = _INTO,
    template: str = _TEMPLATE,
    untagged: bool = _UNTAGGED,
    limit: str = _LIMIT,
) -> None:
    """Say what a policy would do to today's images, and why; nothing is saved or changed."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {
        "Act": "act",
        "Image": lambda row: f"{row['repository']}:{row['tag']}" if row["tag"] else f"{row['repository']}@{row['digest']}",
        "To": "target",
        "Why": lambda row: "; ".join(row["reasons"]),
    }
    session.table(session.post("/api/v1/policies/rehearsal", _body(kind, target, locals())), columns)


@policy.command("run")
def run(
    ctx: typer.Context,
    key: str = typer.Argument(..., metavar="ID"),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what it would do."),
) -> None:
    """Run a policy now; `wharf job logs -f JOB` follows it."""
    session = Session.of(ctx)
    made = session.post(f"/api/v1/policies/{key}/run", {"dry_run": dry_run})
    session.say(made["job"], made)


@policy.command("set")
def change(
    ctx: typer.Context,
    key: str = typer.Argument(..., metavar="ID"),
    on: bool = typer.Option(..., "--on/--off", help="Whether it works."),
) -> None:
    """Switch a policy on or off."""
    session = Session.of(ctx)
    path = f"/api/v1/policies/{key}"
    row = session.patch(path, {"enabled": on}, etag=session.etag(path))
    session.say(f"The {row['kind']} policy of {_name(row)} is {_state(row)}.", row)


@policy.command("rm")
def rm(ctx: typer.Context, key: str = typer.Argument(..., metavar="ID")) -> None:
    """Remove a policy; what it did stays done."""
    session = Session.of(ctx)
    path = f"/api/v1/policies/{key}"
    session.delete(path, etag=session.etag(path))
    session.say(f"Removed the policy {key}.", {"removed": key})
