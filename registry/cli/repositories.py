"""`wharf repo`: repositories, their tags and images."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.session import Column, Failure, Session, when
from registry.cli.frame import Many, app, find, size_text, split


def _size(row: Mapping[str, Any]) -> str:
    return size_text(int(row["size"]))


def _platforms(row: Mapping[str, Any]) -> str:
    return ", ".join(row["platforms"])


def _labels(row: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" if value else key for key, value in row["labels"].items())


def _pairs(labels: list[str]) -> dict[str, str]:
    """["team=web", "old"] -> {"team": "web", "old": ""}"""
    return {key.strip(): value.strip() for key, _, value in (item.partition("=") for item in labels)}


@app.command("ls")
def ls(
    ctx: typer.Context,
    query: str = typer.Argument("", help="Words of names, descriptions, labels and tags; the beginning of a digest."),
    namespace: str = typer.Option("", help="Only of this user, organisation or namespace."),
    label: Annotated[Many, typer.Option("--label", "-l", help="KEY=VALUE, or KEY for any value.")] = None,
    sort: str = typer.Option("", help="name, tags, pulls, pushes, pushed, size or created; -pulls: the most first."),
) -> None:
    """List the repositories that you can see."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {
        "Name": "name",
        "Visibility": "visibility",
        "Tags": "tags",
        "Pulls": "pulls",
        "Pushes": "pushes",
        "Size": lambda row: size_text(int(row["stored"])),
        "Pushed": when("pushed_at"),
        "Labels": _labels,
        "Description": "description",
    }
    wanted: dict[str, Any] = {"q": query, "namespace": namespace, "label": ",".join(label or ()), "sort": sort}
    session.table(session.pages("/api/v1/repositories", **wanted), columns)


@app.command("create")
def create(
    ctx: typer.Context,
    name: str = typer.Argument(
        ..., help="namespace/name; the namespace is yours, your organisation's, or any for administrators."
    ),
    public: bool = typer.Option(False, "--public", help="Everybody may pull, without a login."),
    description: str = typer.Option("", help="One line."),
    label: Annotated[Many, typer.Option("--label", "-l", help="KEY=VALUE")] = None,
) -> None:
    """Create an empty repository."""
    session = Session.of(ctx)
    body: dict[str, Any] = {"name": name, "visibility": "public" if public else "private", "description": description}
    if label:
        body["labels"] = _pairs(label)
    made = session.post("/api/v1/repositories", body)
    session.say(f"Created {name} ({made['visibility']}).", made)


@app.command("tags")
def tags(ctx: typer.Context, name: str) -> None:
    """List a repository's tags, newest first."""
    session = Session.of(ctx)
    rows = session.pages(f"/api/v1/repositories/{find(session, name)['id']}/tags")
    columns: dict[str, Column] = {
        "Tag": "name",
        "Digest": "digest",
        "Size": _size,
        "Platforms": _platforms,
        "Pushed": when("pushed_at"),
        "By": "pushed_by",
    }
    session.table(rows, columns)


@app.command("inspect")
def inspect(ctx: typer.Context, image: str = typer.Argument(..., help="name[:tag] or name@digest")) -> None:
    """Show an image: config, layers, history; of an index, its images."""
    session = Session.of(ctx)
    name, target = split(image)
    session.show(session.get(f"/api/v1/repositories/{find(session, name)['id']}/manifests/{target}"))


@app.command("set")
def change(
    ctx: typer.Context,
    name: str,
    public: bool | None = typer.Option(None, "--public/--private"),
    description: str | None = typer.Option(None),
    readme: str | None = typer.Option(None, help="A file with the long description in Markdown; -: standard input."),
    label: Annotated[Many, typer.Option("--label", "-l", help="KEY=VALUE to set.")] = None,
    unlabel: Annotated[Many, typer.Option("--unlabel", help="KEY to remove.")] = None,
    immutable: bool | None = typer.Option(None, "--immutable/--mutable", help="No tag is overwritten or deleted."),
    tag_limit: int | None = typer.Option(None, "--tag-limit", help="One tag more evicts the oldest; 0: no limit."),
) -> None:
    """Change a repository's visibility, descriptions, labels, immutability of tags or tag limit."""
    session = Session.of(ctx)
    row = find(session, name)
    body: dict[str, Any] = {}
    if public is not None:
        body["visibility"] = "public" if public else "private"
    if description is not None:
        body["description"] = description
    if readme is not None:
        body["readme"] = _text(readme)
    if label or unlabel:
        kept = {key: value for key, value in row["labels"].items() if key not in (unlabel or ())}
        body["labels"] = {**kept, **_pairs(label or [])}
    if immutable is not None:
        body["immutable_tags"] = immutable
    if tag_limit is not None:
        body["tag_limit"] = tag_limit
    if not body:
        raise Failure(
            "Say --public, --private, --description, --readme, --label, --unlabel, --immutable, --mutable or --tag-limit.", 2
        )
    path = f"/api/v1/repositories/{row['id']}"
    answer = session.patch(path, body, etag=session.etag(path))
    session.say(f"{name} is {answer['visibility']}.", answer)


def _text(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path} cannot be read: {error}", 2) from None


@app.command("rm")
def rm(
    ctx: typer.Context,
    target: str = typer.Argument(..., help="name:tag for a tag, name@digest for a manifest with its tags, name for all of it."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask before a whole repository goes."),
    force: bool = typer.Option(False, "--force", help="Also what a node runs or a service names."),
) -> None:
    """Remove a tag, a manifest, or a whole repository."""
    session = Session.of(ctx)
    name, _ = split(target)
    path = f"/api/v1/repositories/{find(session, name)['id']}"
    forced = "?force=true" if force else ""
    if "@" in target:
        session.delete(f"{path}/manifests/{target.partition('@')[2]}{forced}")
    elif ":" in target:
        session.delete(f"{path}/tags/{target.partition(':')[2]}{forced}")
    else:
        if not yes:
            typer.confirm(f"Remove {name} with all its tags and images?", abort=True)
        session.delete(f"{path}{forced}", etag=session.etag(path))
    session.say(f"Removed {target}.", {"removed": target})
