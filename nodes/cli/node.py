"""`wharf node`: hosts with an agent, and the tokens by which they join."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from controlplane.cli.session import Column, Failure, Session, when
from nodes.cli.quantities import parse_duration, parse_pairs, size_text

app = typer.Typer(add_completion=False, help="Hosts with an agent.", no_args_is_help=True)
PATH = "/api/v1/nodes"


def find_node(session: Session, text: str) -> dict[str, Any]:
    """The node that `text` names: an id, a hostname, or the only one whose id or hostname begins with it."""
    rows = list(session.pages(PATH))
    exact = [row for row in rows if text in {row["id"], row["hostname"]}]
    found = exact or [row for row in rows if row["id"].startswith(text) or row["hostname"].startswith(text)]
    if not found:
        raise Failure(f"There is no node {text}, or you may not see it. `wharf node ls` lists them.", 3)
    if len(found) > 1:
        raise Failure(f"Several nodes are meant by {text}: {', '.join(row['id'] for row in found)}. Give an id.", 2)
    chosen: dict[str, Any] = found[0]
    return chosen


def node_names() -> list[str]:
    """For shell completion; nothing when nobody is signed in or the server is away."""
    try:
        return [row["hostname"] for row in Session().pages(PATH)]
    except Failure:
        return []


def _state(row: Mapping[str, Any]) -> str:
    if not row["approved"]:
        return "waits for approval"
    return str(row["state"])


def _cores(row: Mapping[str, Any]) -> str:
    return f"{row['nano_cpus'] / 1e9:g}" if row["nano_cpus"] else ""


def _memory(row: Mapping[str, Any]) -> str:
    return size_text(row["memory"]) if row["memory"] else ""


Node = Annotated[str, typer.Argument(help="Hostname, id, or the beginning of one.", autocompletion=node_names)]


@app.command("ls")
def ls(ctx: typer.Context, pending: bool = typer.Option(False, "--pending", help="Only those that wait for approval.")) -> None:
    """List the nodes that you can see."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {
        "Hostname": "hostname",
        "ID": "id",
        "State": _state,
        "Availability": "availability",
        "Cores": _cores,
        "Memory": _memory,
        "Address": lambda row: ", ".join(row["addresses"][:2]),
        "Agent": "agent_version",
        "Collection": "collection",
    }
    session.table(session.pages(PATH, pending="true" if pending else None), columns)


@app.command("inspect")
def inspect(ctx: typer.Context, node: Node) -> None:
    """Show one node with its inventory."""
    session = Session.of(ctx)
    session.show(session.get(f"{PATH}/{find_node(session, node)['id']}"))


@app.command("token")
def token(
    ctx: typer.Context,
    name: str = typer.Option("", help="What it is for."),
    uses: int = typer.Option(1, min=1, help="How many nodes may join with it."),
    expires: str = typer.Option("1d", help="After this time: 30m, 12h, 7d."),
    approval: bool = typer.Option(False, "--approval", help="Its nodes wait for `wharf node approve`."),
    collection: str = typer.Option("", help="Where its nodes go; default /Shared."),
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE on each of its nodes, again for more.")] = None,
    cidr: Annotated[list[str] | None, typer.Option(help="Only from this network, again for more.")] = None,
) -> None:
    """Print the command by which a node joins. The token in it is shown this once."""
    session = Session.of(ctx)
    body: dict[str, Any] = {"name": name, "uses": uses, "lifetime": int(parse_duration(expires)), "needs_approval": approval}
    body |= {"collection": collection} if collection else {}
    body |= {"labels": parse_pairs(label, "--label")} if label else {}
    body |= {"cidrs": cidr} if cidr else {}
    made = session.post("/api/v1/join-tokens", body)
    address = session.context.server.removeprefix("https://")
    line = f"wharf-agent join --token {made['token']} {address}"
    session.say(line, {**made, "command": line})


@app.command("tokens")
def tokens(ctx: typer.Context, revoke: str = typer.Option("", help="Revoke the token of this ID instead.")) -> None:
    """List join tokens, or revoke one; nodes that joined with it stay."""
    session = Session.of(ctx)
    if revoke:
        session.delete(f"/api/v1/join-tokens/{revoke}")
        session.say("Revoked.", {"id": revoke})
        return
    columns: dict[str, Column] = {
        "ID": "id",
        "Name": "name",
        "Uses left": "uses_left",
        "Approval": "needs_approval",
        "Expires": when("expires_at"),
        "Revoked": when("revoked_at"),
        "Collection": "collection",
        "By": "created_by",
    }
    session.table(session.pages("/api/v1/join-tokens"), columns)


@app.command("approve")
def approve(ctx: typer.Context, node: Node) -> None:
    """Let a node that waits take tasks."""
    session = Session.of(ctx)
    row = find_node(session, node)
    session.say(f"Approved {row['hostname']}.", session.post(f"{PATH}/{row['id']}/approve", {}))


def _change(ctx: typer.Context, node: str, body: dict[str, Any], said: str) -> None:
    session = Session.of(ctx)
    row = find_node(session, node)
    path = f"{PATH}/{row['id']}"
    answer = session.patch(path, body, etag=session.etag(path))
    session.say(said.format(row["hostname"]), answer)


@app.command("drain")
def drain(ctx: typer.Context, node: Node) -> None:
    """Move its tasks to other nodes; it gets no new ones."""
    _change(ctx, node, {"availability": "drain"}, "{} is being drained: its tasks move away.")


@app.command("pause")
def pause(ctx: typer.Context, node: Node) -> None:
    """No new tasks; those it has stay."""
    _change(ctx, node, {"availability": "pause"}, "{} is paused: it gets no new tasks.")


@app.command("activate")
def activate(ctx: typer.Context, node: Node) -> None:
    """Give it tasks again."""
    _change(ctx, node, {"availability": "active"}, "{} is active.")


@app.command("label")
def label(
    ctx: typer.Context,
    node: Node,
    labels: Annotated[list[str], typer.Argument(help="KEY=VALUE sets one, KEY- removes one.")],
) -> None:
    """Set and remove labels; constraints name them as node.labels.KEY."""
    session = Session.of(ctx)
    now: dict[str, str] = dict(find_node(session, node)["labels"])
    for text in labels:
        if text.endswith("-") and "=" not in text:
            now.pop(text[:-1], None)
        else:
            now |= parse_pairs([text], "label")
    shown = ", ".join(f"{key}={value}" for key, value in sorted(now.items())) or "none"
    _change(ctx, node, {"labels": now}, f"Labels of {{}}: {shown.replace('{', '{{').replace('}', '}}')}")


@app.command("rm")
def remove(
    ctx: typer.Context,
    node: Node,
    force: bool = typer.Option(False, "--force", "-f", help="Though it runs tasks: they are replaced elsewhere."),
) -> None:
    """Put a node out for ever; it is refused from now on and has to join anew."""
    session = Session.of(ctx)
    row = find_node(session, node)
    path = f"{PATH}/{row['id']}"
    session.call("DELETE", path, params={"force": "true"} if force else {}, headers={"If-Match": session.etag(path)})
    session.say(f"Removed {row['hostname']}.", {"id": row["id"], "removed": True})
