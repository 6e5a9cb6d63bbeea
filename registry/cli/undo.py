"""`wharf repo promote` and the time machine: where tags pointed, and what was deleted, brought back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import typer

from controlplane.cli.session import Column, Failure, Session, when
from registry.cli.frame import app, find, size_text, split


def _tagged(image: str) -> tuple[str, str]:
    """ "ns/name:tag" -> (name, tag), which must be there. Raises Failure."""
    name, colon, tag = image.partition(":")
    if not colon or "@" in image:
        raise Failure(f"Name the tag, as in {name.partition('@')[0]}:v1.", 2)
    return name, tag


@app.command("promote")
def promote(
    ctx: typer.Context,
    image: str = typer.Argument(..., help="name[:tag]"),
    target: str = typer.Argument(..., help="name[:tag]; the same tag unless said."),
) -> None:
    """Put a tag's image, with its platforms and signatures, into another repository."""
    session = Session.of(ctx)
    name, tag = split(image)
    target_name, _, target_tag = target.partition(":")
    body = {"tag": tag, "target": target_name, "target_tag": target_tag or tag}
    answer = session.post(f"/api/v1/repositories/{find(session, name)['id']}/promotions", body)
    where = f"{target_name}:{body['target_tag']}"
    session.say(f"Promoted {name}:{tag} to {where}." if answer["promoted"] else f"{where} is this image already.", answer)


@app.command("history")
def history(
    ctx: typer.Context,
    target: str = typer.Argument(..., help="name for all tags of the repository, name:tag for one."),
    at: str = typer.Option("", "--at", metavar="MOMENT", help="What was named then, such as 2026-03-01T12:00:00Z."),
) -> None:
    """Where tags pointed and who moved them, newest first; or what they named at a moment."""
    session = Session.of(ctx)
    name, _, tag = target.partition(":")
    path = f"/api/v1/repositories/{find(session, name)['id']}"
    rows = session.get(f"{path}/states", at=at) if at else session.pages(f"{path}/history")
    columns: dict[str, Column] = {"Tag": "tag", "Digest": "digest"}
    if not at:
        columns = {"At": when("at"), "Tag": "tag", "Before": "before", "After": "after", "By": "actor_name"}
    session.table((row for row in rows if not tag or row["tag"] == tag), columns)


@app.command("restore")
def restore(
    ctx: typer.Context,
    image: str = typer.Argument(..., help="name:tag"),
    digest: str = typer.Argument("", help="A digest that the tag had before; `wharf repo history name:tag` lists them."),
    at: str = typer.Option("", "--at", metavar="MOMENT", help="Instead of a digest: what it named then."),
) -> None:
    """Point a tag at what it named before, also when that was deleted within the undo window."""
    session = Session.of(ctx)
    name, tag = _tagged(image)
    if bool(digest) == bool(at):
        raise Failure("Say either the digest or --at.", 2)
    path = f"/api/v1/repositories/{find(session, name)['id']}"
    if at:
        digest = next((row["digest"] for row in session.get(f"{path}/states", at=at) if row["tag"] == tag), "")
        if not digest:
            raise Failure(f"{image} was no tag at {at}; see `wharf repo history {image}`.", 3)
    answer = session.post(f"{path}/tags/{tag}/restore", {"digest": digest})
    session.say(f"{image} names {answer['digest']}.", answer)


@app.command("deleted")
def deleted(
    ctx: typer.Context,
    name: str = typer.Argument("", help="The deleted images of this repository; without it, deleted repositories."),
) -> None:
    """List what can still be brought back, newest first."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {"Name": "name", "Deleted": when("deleted_at"), "By": "deleted_by", "ID": "id"}
    if not name:
        session.table(session.pages("/api/v1/deleted-repositories"), columns)
        return
    columns = {
        "Digest": "digest",
        "Tags": lambda row: ", ".join(row["tags"]),
        "Size": lambda row: size_text(int(row["size"])),
        "Deleted": when("deleted_at"),
        "By": "actor_name",
    }
    session.table(session.pages(f"/api/v1/repositories/{find(session, name)['id']}/trash"), columns)


@app.command("undelete")
def undelete(
    ctx: typer.Context,
    target: str = typer.Argument(..., help="name@digest for a manifest with the tags it had, name for a repository."),
) -> None:
    """Bring back what was deleted within the undo window."""
    session = Session.of(ctx)
    name, at, digest = target.partition("@")
    if at:
        answer = session.post(f"/api/v1/repositories/{find(session, name)['id']}/trash/restore", {"digest": digest})
        tags = f" as {', '.join(answer['tags'])}" if answer["tags"] else ""
        session.say(f"{target} is back{tags}.", answer)
        return
    row = _newest(session.pages("/api/v1/deleted-repositories"), name)
    answer = session.post(f"/api/v1/deleted-repositories/{row['id']}/restore")
    lost = f"; {answer['grants_left']} of its grants are not" if answer["grants_left"] else ""
    session.say(f"{answer['name']} is back with {answer['grants']} grants{lost}.", answer)


@app.command("forget")
def forget(
    ctx: typer.Context,
    name: str = typer.Argument(..., help="A repository: its deleted images; or a deleted repository, with --repository."),
    repository: bool = typer.Option(False, "--repository", help="The deleted repository itself."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask first."),
) -> None:
    """End the undo window now: what was deleted can no longer return."""
    session = Session.of(ctx)
    if repository:
        row = _newest(session.pages("/api/v1/deleted-repositories"), name)
        path, what = f"/api/v1/deleted-repositories/{row['id']}", f"the deleted repository {row['name']}"
    else:
        path, what = f"/api/v1/repositories/{find(session, name)['id']}/trash", f"the deleted images of {name}"
    if not yes:
        typer.confirm(f"Forget {what} for good?", abort=True)
    session.delete(path)
    session.say(f"Forgot {what}.", {"forgotten": name})


def _newest(rows: Iterator[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Of the deleted repositories of that name, or the one with that id. Raises Failure."""
    for row in rows:
        if name in (row["name"], row["id"]):
            return row
    raise Failure(f"There is no deleted repository {name} in a namespace of yours; see `wharf repo deleted`.", 3)
