"""`wharf service`: what should run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from controlplane.cli.session import Column, Failure, Session
from nodes.cli.quantities import age_text, parse_cpus, parse_duration, parse_pairs, parse_size, ports_text
from nodes.cli.service_options import parse_mount, parse_port, parse_storage, without_empty

app = typer.Typer(add_completion=False, help="What should run, and how often.", no_args_is_help=True)
PATH = "/api/v1/services"
TIMEOUT = 600.0
Many = list[str] | None


def find_service(session: Session, text: str) -> dict[str, Any]:
    """The service that `text` names: an id, or a name that is not being removed. Raises Failure."""
    named = [row for row in session.get(PATH, name=text) if not row["removed_at"]]
    if named:
        found: dict[str, Any] = named[0]
        return found
    try:
        found = session.get(f"{PATH}/{quote(text, safe='')}")
    except Failure as failure:
        if failure.exit_code != 3:
            raise
        raise Failure(f"There is no service {text}, or you may not see it. `wharf service ls` lists them.", 3) from None
    return found


def service_path(session: Session, text: str) -> str:
    """Where `find_service`'s row is."""
    return f"{PATH}/{find_service(session, text)['id']}"


def service_names() -> list[str]:
    """For shell completion; nothing when nobody is signed in or the server is away."""
    try:
        return [row["name"] for row in Session().pages(PATH)]
    except Failure:
        return []


Service = Annotated[str, typer.Argument(help="Name or id.", autocompletion=service_names)]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Do not wait until it runs.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Give up waiting after so many seconds; the service stays.")]


def _running(row: Mapping[str, Any]) -> str:
    running = row["tasks"].get("running", 0)
    spec = row["spec"]
    return f"{running}/{spec['replicas'] if spec['mode'] == 'replicated' else sum(row['tasks'].values())}"


def _ports(row: Mapping[str, Any]) -> str:
    ports = row["spec"]["container"].get("ports", ())
    return ", ".join(f"{port.get('published') or '*'}->{port['target']}/{port.get('protocol', 'tcp')}" for port in ports)


@app.command("ls")
def ls(ctx: typer.Context) -> None:
    """List the services that you can see."""
    session = Session.of(ctx)
    columns: dict[str, Column] = {
        "Name": "name",
        "ID": "id",
        "Mode": lambda row: str(row["spec"]["mode"]),
        "Running": _running,
        "Image": lambda row: str(row["spec"]["container"]["image"]),
        "Ports": _ports,
        "Update": lambda row: str(row["update_status"]["state"]).replace("_", " "),
        "Collection": "collection",
    }
    session.table((row for row in session.pages(PATH) if not row["removed_at"]), columns)


def _why(row: Mapping[str, Any]) -> str:
    text = row["error"] or row["why_pending"].get("text", "") or (row["message"] if row["observed"] != "running" else "")
    code = f"exit code {row['exit_code']}" if row["exit_code"] is not None and not row["error"] else ""
    return ", ".join(filter(None, [text, code, "out of memory" if row["oom_killed"] else ""]))


@app.command("ps")
def ps(
    ctx: typer.Context, service: Service, everything: bool = typer.Option(False, "--all", "-a", help="All ended ones too.")
) -> None:
    """List a service's tasks, with the newest ended one of each slot."""
    session = Session.of(ctx)
    rows = list(session.pages(f"{service_path(session, service)}/ps"))
    rows.sort(key=lambda row: (row["slot"], row["hostname"] if not row["slot"] else "", row["created_at"]))
    if not everything:
        newest = {(row["slot"], row["node"] if not row["slot"] else "", row["desired"] == "running"): row["id"] for row in rows}
        rows = [row for row in rows if row["id"] in newest.values()]
    columns: dict[str, Column] = {
        "Name": lambda row: f"{row['service_name']}.{row['slot'] or row['hostname']}",
        "ID": "id",
        "Node": "hostname",
        "Wanted": "desired",
        "State": "observed",
        "Since": lambda row: age_text(row["observed_at"]),
        "Ports": ports_text,
        "Why": _why,
    }
    session.table(rows, columns)


@app.command("inspect")
def inspect(ctx: typer.Context, service: Service) -> None:
    """Show one service."""
    session = Session.of(ctx)
    session.show(find_service(session, service))


@app.command("create", context_settings={"allow_interspersed_args": False})
def create(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(help="repository[:tag]\\[@digest] of the registry.")],
    command: Annotated[Many, typer.Argument(help="Replaces the image's command.")] = None,
    name: str = typer.Option("", help="Default: made from the image's name."),
    replicas: int = typer.Option(1, min=0, max=10_000),
    mode: str = typer.Option("replicated", help="replicated, or global: one task on every node."),
    publish: Annotated[Many, typer.Option("--publish", "-p", help="\\[\\[address:]published:]target\\[/tcp|udp]")] = None,
    env: Annotated[Many, typer.Option("--env", "-e", help="KEY=VALUE, or KEY of this shell.")] = None,
    mount: Annotated[Many, typer.Option(help="type=bind|volume|tmpfs,src=…,dst=…[,ro]")] = None,
    constraint: Annotated[Many, typer.Option(help="node.labels.zone==a, node.hostname!=n1 …")] = None,
    spread: Annotated[Many, typer.Option(help="Spread evenly over this: node.labels.zone")] = None,
    max_per_node: int = typer.Option(0, "--max-per-node", min=0, help="0: any number."),
    label: Annotated[Many, typer.Option("--label", "-l", help="KEY=VALUE of the service.")] = None,
    container_label: Annotated[Many, typer.Option(help="KEY=VALUE of its containers.")] = None,
    memory: str = typer.Option("", help="Limit, such as 512m."),
    cpus: str = typer.Option("", help="Limit, such as 0.5."),
    reserve_memory: str = typer.Option("", help="Kept free for it on its node."),
    reserve_cpus: str = typer.Option("", help="Likewise."),
    entrypoint: str = typer.Option("", help="Replaces the image's entrypoint."),
    user: str = typer.Option("", "--user", "-u", help="name|uid[:group|gid]"),
    workdir: str = typer.Option("", "--workdir", "-w"),
    hostname: str = typer.Option(""),
    network: str = typer.Option("", help="bridge, host or none."),
    read_only: bool = typer.Option(False, "--read-only", help="The image's files cannot be changed."),
    storage_opt: Annotated[
        Many, typer.Option(help="size=10g: what it may write, on nodes whose graph driver can bound it.")
    ] = None,
    init: bool = typer.Option(False, "--init", help="A small init is the first process."),
    tty: bool = typer.Option(False, "--tty", "-t", help="With a terminal."),
    cap_add: Annotated[Many, typer.Option()] = None,
    cap_drop: Annotated[Many, typer.Option()] = None,
    stop_grace: str = typer.Option("", help="Time before SIGKILL, such as 30s."),
    log_driver: str = typer.Option("", "--log-driver", help="json-file, local, journald, syslog or none."),
    log_opt: Annotated[Many, typer.Option("--log-opt", help="KEY=VALUE, such as max-size=10m.")] = None,
    restart: str = typer.Option("", "--restart-condition", help="none, on-failure or any."),
    restart_delay: str = typer.Option("", help="5s"),
    restart_max: int = typer.Option(0, "--restart-max-attempts", min=0, help="0: any number."),
    update_parallelism: int | None = typer.Option(None, min=0, help="Tasks replaced at the same time; 0: all."),
    update_delay: str = typer.Option("", help="10s"),
    update_order: str = typer.Option("", help="stop-first or start-first."),
    update_failure: str = typer.Option("", "--update-failure-action", help="pause, continue or rollback."),
    collection: str = typer.Option("", help="Default: your own."),
    detach: Detach = False,
    timeout: Timeout = TIMEOUT,
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Make a service, and wait until it runs; exit code 1 when it does not, saying why. The options stand before the image."""
    session = Session.of(ctx)
    session.as_json = session.as_json or as_json
    resources = {
        "memory": parse_size(memory) if memory else None,
        "nano_cpus": parse_cpus(cpus) if cpus else None,
        "reserve_memory": parse_size(reserve_memory) if reserve_memory else None,
        "reserve_nano_cpus": parse_cpus(reserve_cpus) if reserve_cpus else None,
    }
    container = {
        "image": image,
        "command": [entrypoint] if entrypoint else None,
        "args": command,
        "env": parse_pairs(env or (), "--env", defaults=dict(os.environ)),
        "working_dir": workdir,
        "user": user,
        "hostname": hostname,
        "labels": parse_pairs(container_label or (), "--container-label"),
        "mounts": [parse_mount(text) for text in mount or ()],
        "ports": [parse_port(text) for text in publish or ()],
        "network_mode": network,
        "resources": resources,
        "stop_grace": parse_duration(stop_grace) if stop_grace else None,
        "read_only": read_only or None,
        "storage_size": parse_storage(storage_opt or ()),
        "init": init or None,
        "tty": tty or None,
        "cap_add": cap_add,
        "cap_drop": cap_drop,
        "log_driver": log_driver,
        "log_options": parse_pairs(log_opt or (), "--log-opt"),
    }
    update = {
        "parallelism": update_parallelism,
        "delay": parse_duration(update_delay) if update_delay else None,
        "order": update_order,
        "failure_action": update_failure,
    }
    policy = {
        "condition": restart,
        "delay": parse_duration(restart_delay) if restart_delay else None,
        "max_attempts": restart_max or None,
    }
    spec = {
        "name": name or _name_of(image),
        "mode": mode,
        "replicas": replicas,
        "container": container,
        "labels": parse_pairs(label or (), "--label"),
        "placement": {"constraints": constraint, "spread": spread, "max_replicas_per_node": max_per_node or None},
        "restart": policy,
        "update": update,
    }
    made = make(session, without_env_loss(spec), collection)
    follow(session, made, detach=detach, timeout=timeout)


def _name_of(image: str) -> str:
    """ "team/web:1" -> "web"."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def without_env_loss(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec without what was not asked for; an environment variable or label that is empty on purpose stays."""
    kept: dict[str, Any] = without_empty(spec)
    for place, key in ((spec["container"], "env"), (spec["container"], "labels")):
        if place.get(key):
            kept["container"][key] = place[key]
    if spec.get("labels"):
        kept["labels"] = spec["labels"]
    return kept


def make(session: Session, spec: dict[str, Any], collection: str = "") -> dict[str, Any]:
    """The new service's row. Raises Failure."""
    made: dict[str, Any] = session.post(PATH, {"spec": spec, **({"collection": collection} if collection else {})})
    return made


def follow(
    session: Session, row: Mapping[str, Any], *, detach: bool, timeout: float, said: str = "runs", **expected: bool
) -> None:
    """Waits until it is as wanted unless `detach`, and says so; `expected` as for converge.wait. Raises Failure."""
    if detach:
        session.say(str(row["id"]), row)
        return
    from nodes.cli.converge import Display, wait

    try:
        with Display(row["name"], quiet=session.as_json) as display:
            wait(session, row, timeout=timeout, show=display.show, **expected)
    except KeyboardInterrupt:
        raise Failure(f"No longer waiting; `wharf service ps {row['name']}` shows how far it is.", 130) from None
    session.say(f"Service {row['name']} {said} ({row['id']}).", session.get(f"{PATH}/{row['id']}") if session.as_json else None)


@app.command("scale")
def scale(
    ctx: typer.Context,
    sizes: Annotated[list[str], typer.Argument(help="SERVICE=REPLICAS, again for more.", autocompletion=service_names)],
    detach: Detach = False,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Change how many tasks run."""
    session = Session.of(ctx)
    wanted: list[tuple[str, int]] = []
    for text in sizes:
        name, _, number = text.partition("=")
        if not number.isdigit():
            raise Failure(f"{text!r}: write SERVICE=REPLICAS, such as web=4.", 2)
        wanted.append((name, int(number)))
    rows = [session.post(f"{service_path(session, name)}/scale", {"replicas": count}) for name, count in wanted]
    for row, (_, count) in zip(rows, wanted, strict=True):
        follow(session, row, detach=detach, timeout=timeout, said=f"is scaled to {count}")


@app.command("update")
def update(
    ctx: typer.Context,
    service: Service,
    image: str = typer.Option("", help="Another image, or the same text resolved anew."),
    args: Annotated[Many, typer.Option("--arg", help="One word of the command, again for more; replaces it.")] = None,
    replicas: int | None = typer.Option(None, min=0, max=10_000),
    env_add: Annotated[Many, typer.Option(help="KEY=VALUE")] = None,
    env_rm: Annotated[Many, typer.Option(help="KEY")] = None,
    publish_add: Annotated[Many, typer.Option(help="As --publish of create.")] = None,
    publish_rm: Annotated[Many, typer.Option(help="The target port.")] = None,
    mount_add: Annotated[Many, typer.Option(help="As --mount of create.")] = None,
    mount_rm: Annotated[Many, typer.Option(help="The path in the container.")] = None,
    constraint_add: Annotated[Many, typer.Option()] = None,
    constraint_rm: Annotated[Many, typer.Option()] = None,
    label_add: Annotated[Many, typer.Option(help="KEY=VALUE")] = None,
    label_rm: Annotated[Many, typer.Option(help="KEY")] = None,
    memory: str = typer.Option("", help="Limit; 0: none."),
    cpus: str = typer.Option("", help="Limit; 0: none."),
    update_parallelism: int | None = typer.Option(None, min=0),
    update_delay: str = typer.Option(""),
    update_order: str = typer.Option(""),
    update_failure: str = typer.Option("", "--update-failure-action"),
    force: bool = typer.Option(False, "--force", help="Replace the tasks though nothing changed."),
    detach: Detach = False,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Change a service; its tasks are replaced as its update options say."""
    session = Session.of(ctx)
    path = service_path(session, service)
    answer = session.call("GET", path)
    before = answer.json()
    spec = before["spec"]
    ports = [port for port in spec["container"].get("ports", ()) if str(port["target"]) not in (publish_rm or ())]
    mounts = [item for item in spec["container"].get("mounts", ()) if item["target"] not in (mount_rm or ())]
    rules = [rule for rule in spec.get("placement", {}).get("constraints", ()) if rule not in (constraint_rm or ())]
    container: dict[str, Any] = {
        "image": image or None,
        "args": args,
        "env": _changes(env_add, env_rm, "--env-add"),
        "ports": [*ports, *map(parse_port, publish_add or ())] if publish_add or publish_rm else None,
        "mounts": [*mounts, *map(parse_mount, mount_add or ())] if mount_add or mount_rm else None,
        "resources": _given({"memory": parse_size(memory) if memory else None, "nano_cpus": parse_cpus(cpus) if cpus else None}),
    }
    config = {
        "parallelism": update_parallelism,
        "delay": parse_duration(update_delay) if update_delay else None,
        "order": update_order or None,
        "failure_action": update_failure or None,
    }
    patch = {
        "container": _given(container),
        "replicas": replicas,
        "labels": _changes(label_add, label_rm, "--label-add"),
        "placement": {"constraints": [*rules, *(constraint_add or ())]} if constraint_add or constraint_rm else None,
        "update": _given(config),
    }
    body: dict[str, Any] = {"spec": _given(patch) or {}}
    if not body["spec"] and not force:
        raise Failure("Say what to change; `wharf service update --help` lists it.", 2)
    body |= {"force": True} if force else {}
    body |= {"refresh": True} if image else {}
    row = session.patch(path, body, etag=str(answer.headers.get("ETag", "")))
    follow(session, row, detach=detach, timeout=timeout, said="is updated", expect_update=force or _replaces(before, row))


def _given(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was asked for, None when nothing was: in a merge patch null would remove."""
    return {key: value for key, value in values.items() if value is not None} or None


def _changes(add: Many, remove: Many, option: str) -> dict[str, str | None] | None:
    """A merge patch of a map: null removes."""
    found: dict[str, str | None] = dict.fromkeys(remove or ())
    found.update(parse_pairs(add or (), option, defaults=dict(os.environ)))
    return found or None


def _replaces(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Are tasks made of something else now? The image's text does not count, its digest does."""
    old, new = ({**row["spec"]["container"], "image": row["image"].partition("@")[2]} for row in (before, after))
    return bool(old != new)


@app.command("rollback")
def rollback(ctx: typer.Context, service: Service, detach: Detach = False, timeout: Timeout = TIMEOUT) -> None:
    """Return to the spec before the last update."""
    session = Session.of(ctx)
    row = session.post(f"{service_path(session, service)}/rollback", {})
    follow(session, row, detach=detach, timeout=timeout, said="is rolled back", expect_rollback=True)


@app.command("logs")
def logs(
    ctx: typer.Context,
    service: Service,
    follow_: bool = typer.Option(False, "--follow", "-f", help="Until Ctrl-C; new tasks appear as they start."),
    tail: str = typer.Option("all", "--tail", "-n", help="So many lines of the end of each task."),
    since: str = typer.Option("", help="10m, 2h, or a time such as 2026-01-31T12:00:00Z."),
    timestamps: bool = typer.Option(False, "--timestamps", "-t"),
) -> None:
    """Print what the service's containers wrote, each line with its task's name."""
    from nodes.cli.logs import arguments, print_logs

    args = arguments(follow=follow_, tail=tail, since=since, until="", timestamps=timestamps)
    session = Session.of(ctx)
    print_logs(session, args, service=find_service(session, service)["id"])


@app.command("rm")
def remove(
    ctx: typer.Context, services: Annotated[list[str], typer.Argument(help="Names or ids.", autocompletion=service_names)]
) -> None:
    """Remove services; their tasks end everywhere, their names are free at once."""
    session = Session.of(ctx)
    for name in services:
        path = service_path(session, name)
        session.delete(path, etag=session.etag(path))
        session.say(f"Removed {name}.", {"removed": name})
