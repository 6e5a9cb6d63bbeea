"""`wharf image`: images made from files into the registry, and those that lie on nodes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from controlplane.cli.session import Column, Failure, Session
from nodes.cli.quantities import age_text, size_text

app = typer.Typer(add_completion=False, help="Images: into the registry, and on nodes.", no_args_is_help=True)
PULL_TIMEOUT = 900.0  # seconds
Many = list[str] | None
Target = Annotated[str, typer.Argument(help="repository[:tag] of the registry.")]


def _words(text: str) -> list[str]:
    """'["a", "b c"]' or 'a "b c"' -> words."""
    import json
    import shlex

    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise Failure(f"{text!r} is no JSON list: {error}", 2) from None
        return [str(word) for word in found]
    try:
        return shlex.split(text)
    except ValueError as error:
        raise Failure(f"{text!r}: {error}", 2) from None


@app.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="A tar of a root file system, plain or compressed; -: standard input.")],
    to: Target,
    cmd: str = typer.Option("", help="What runs: words, or a JSON list."),
    entrypoint: str = typer.Option("", help="What runs before --cmd's words: likewise."),
    env: Annotated[Many, typer.Option("--env", "-e", help="KEY=VALUE")] = None,
    workdir: str = typer.Option("", "--workdir", "-w"),
    user: str = typer.Option("", "--user", "-u", help="name|uid[:group|gid]"),
    expose: Annotated[Many, typer.Option(help="port\\[/tcp|udp]")] = None,
    volume: Annotated[Many, typer.Option(help="A path that gets a volume.")] = None,
    label: Annotated[Many, typer.Option("--label", "-l", help="KEY=VALUE")] = None,
    stop_signal: str = typer.Option("", help="SIGTERM unless said."),
    arch: str = typer.Option("", help="amd64, arm64 …; default: this machine's."),
    message: str = typer.Option("", "--message", "-m", help="A line for its history."),
) -> None:
    """Make an image of one layer from a root file system and push it."""
    from nodes.cli import pushing
    from nodes.cli.archives import on_disk
    from nodes.cli.progress import Bar
    from nodes.cli.rootfs import image_config, import_rootfs

    session = Session.of(ctx)
    reference = pushing.target(session, to)
    config = image_config(
        cmd=_words(cmd),
        entrypoint=_words(entrypoint),
        env=env or (),
        workdir=workdir,
        user=user,
        expose=expose or (),
        volumes=volume or (),
        labels=label or (),
        stop_signal=stop_signal,
    )
    part = on_disk(file, sys.stdin.buffer)
    with Bar("Packing", part.size, quiet=session.as_json) as bar:
        image = import_rootfs(part, config, arch=arch, comment=message, advance=bar.advance)
    _say(session, reference, pushing.push(session, image, reference), image.size)


@app.command("push")
def push(
    ctx: typer.Context,
    archive: Annotated[str, typer.Argument(help="An OCI layout (directory or tar), or a tar of docker save; -: standard input.")],
    to: Target,
    ref: str = typer.Option("", "--ref", help="Which image, when the archive holds several: its tag there."),
) -> None:
    """Push an image that lies in a file to the registry."""
    from nodes.cli import pushing
    from nodes.cli.archives import read_image, source_of

    session = Session.of(ctx)
    reference = pushing.target(session, to)
    told = (lambda text: typer.echo(text, err=True)) if sys.stderr.isatty() and not session.as_json else (lambda text: None)
    image = read_image(source_of(archive, sys.stdin.buffer), ref, told)
    _say(session, reference, pushing.push(session, image, reference), image.size)


def _say(session: Session, reference: Any, digest: str, size: int) -> None:
    pinned = f"{reference.repository}@{digest}"
    session.say(f"Pushed {reference} ({size_text(size)})\n{pinned}", {"image": str(reference), "digest": digest, "size": size})


def _tag(row: Mapping[str, Any]) -> str:
    return ", ".join(row["tags"]) or ", ".join(str(text).partition("@")[0] for text in row["digests"])


@app.command("ls")
def ls(ctx: typer.Context, node: str = typer.Option("", help="Only on this node.")) -> None:
    """List the images on nodes; `wharf repo ls` lists those of the registry."""
    from nodes.cli.node import PATH, find_node

    session = Session.of(ctx)
    hosts = [find_node(session, node)] if node else list(session.pages(PATH))
    rows = [{"node": host["hostname"], **row} for host in hosts for row in session.get(f"{PATH}/{host['id']}/images")]
    columns: dict[str, Column] = {
        "Image": _tag,
        "ID": lambda row: str(row["image_id"]).removeprefix("sha256:")[:12],
        "Size": lambda row: size_text(row["size"]),
        "Created": lambda row: age_text(row["created_at"]),
        "Node": "node",
    }
    session.table(rows, columns)


@app.command("pull")
def pull(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(help="repository[:tag] of the registry.")],
    node: Annotated[list[str], typer.Argument(help="Nodes, by hostname or id.")],
) -> None:
    """Let nodes fetch an image before anything needs it."""
    from nodes.cli.container import finished
    from nodes.cli.node import PATH, find_node

    session = Session.of(ctx)
    hosts = [find_node(session, name) for name in node]
    started = [session.call("POST", f"{PATH}/{host['id']}/images?wait=0", json={"reference": image}).json() for host in hosts]
    for host, action in zip(hosts, started, strict=True):
        row = finished(session, action, PULL_TIMEOUT)
        session.say(f"{host['hostname']} has {image} ({row['result'].get('id', '')[7:19]}).", row)


@app.command("rm")
def remove(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(help="repository[:tag], or the image's id.")],
    node: Annotated[list[str], typer.Argument(help="Nodes, by hostname or id.")],
    force: bool = typer.Option(False, "--force", "-f", help="Though ended containers were made of it."),
) -> None:
    """Remove an image from nodes; the registry keeps it."""
    from nodes.cli.container import finished
    from nodes.cli.node import PATH, find_node

    session = Session.of(ctx)
    for name in node:
        host = find_node(session, name)
        path = f"{PATH}/{host['id']}/images"
        query = {"reference": image, **({"force": "true"} if force else {})}
        row = finished(session, session.call("DELETE", path, params=query).json())
        session.say(f"Removed {image} from {host['hostname']}.", row)
