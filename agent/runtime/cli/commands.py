"""Parse the command line and run one command."""

from __future__ import annotations

import argparse
import json
import sys
import time

from agent.protocol.errors import WharfError
from agent.runtime.cli import criu, execute, lifecycle, report

VERSION = "0.1.0"
SPEC_VERSION = "1.2.0"

Options = argparse.Namespace


def run(argv: list[str]) -> int:
    """Exit status. An error goes to stderr and, with --log, to the log file."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.version:
        print(f"wharf-runtime version {VERSION}\nspec: {SPEC_VERSION}")  # noqa: T201  # the command's output
        return 0
    if not options.command:
        parser.print_help()
        return 1
    try:
        status: int = options.function(options)
    except WharfError as error:
        return _failed(options, error.detail, int(error.extra.get("exit_code") or 1))
    except OSError as error:
        return _failed(options, str(error), 1)
    return status


def _failed(options: Options, detail: str, status: int) -> int:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if options.log_format == "json":
        line = json.dumps({"level": "error", "msg": detail, "time": moment})
    else:
        line = f'time="{moment}" level=error msg={json.dumps(detail)}'
    if options.log:
        path = options.log.removeprefix("file:")
        with open(path, "a", encoding="utf-8") as log:
            log.write(line + "\n")
    sys.stderr.write(f"wharf-runtime: {detail}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wharf-runtime", description="Run containers from OCI bundles.")
    parser.add_argument("--root", default="/run/wharf-runtime", help="directory of container state")
    parser.add_argument("--log", default="", help="append errors to this file")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--systemd-cgroup", action="store_true", help="the same as --cgroup-manager systemd")
    parser.add_argument("--cgroup-manager", choices=("cgroupfs", "systemd", "disabled"), default="cgroupfs")
    parser.add_argument("--criu", default="criu", help="the program for checkpoint and restore")
    parser.add_argument("--rootless", default="auto", help="accepted for runc's callers")
    parser.add_argument("-v", "--version", action="store_true")
    commands = parser.add_subparsers(dest="command")
    _lifecycle(commands)
    _exec(commands)
    _update(commands)
    _reports(commands)
    criu.register(commands)
    return parser


def _lifecycle(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for name, function, summary in (
        ("create", lifecycle.create, "create a container; start runs it"),
        ("run", lifecycle.run, "create, start, wait, delete"),
    ):
        command = commands.add_parser(name, help=summary)
        command.add_argument("-b", "--bundle", default=".")
        command.add_argument("-f", "--config", default="", help="another file than config.json of the bundle")
        command.add_argument("--console-socket", default="")
        command.add_argument("--pid-file", default="")
        command.add_argument("--no-pivot", action="store_true")
        command.add_argument("--no-new-keyring", action="store_true")
        command.add_argument("--no-subreaper", action="store_true", help="accepted for runc's callers")
        command.add_argument("--preserve-fds", type=int, default=0)
        if name == "run":
            command.add_argument("-d", "--detach", action="store_true")
            command.add_argument("--keep", action="store_true", help="keep the state after the exit")
        command.add_argument("id")
        command.set_defaults(function=function)
    for name, function, summary in (
        ("start", lifecycle.start, "run a created container"),
        ("pause", lifecycle.pause, "stop every process of a container"),
        ("resume", lifecycle.resume, "let a paused container go on"),
        ("state", report.state, "print a container's OCI state"),
    ):
        command = commands.add_parser(name, help=summary)
        command.add_argument("id")
        command.set_defaults(function=function)
    command = commands.add_parser("kill", help="send a signal, SIGTERM by default")
    command.add_argument("-a", "--all", action="store_true", help="to every process of the container")
    command.add_argument("id")
    command.add_argument("signal", nargs="?", default="TERM")
    command.set_defaults(function=lifecycle.kill)
    command = commands.add_parser("delete", help="remove a stopped container")
    command.add_argument("-f", "--force", action="store_true", help="kill it first; no error if it is absent")
    command.add_argument("id")
    command.set_defaults(function=lifecycle.delete)


def _exec(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("exec", help="run a program in a container")
    command.add_argument("-p", "--process", default="", help="file with an OCI process object")
    command.add_argument("-d", "--detach", action="store_true")
    command.add_argument("-t", "--tty", action="store_true")
    command.add_argument("-e", "--env", action="append", default=[])
    command.add_argument("-u", "--user", default="", help="uid[:gid]")
    command.add_argument("-g", "--additional-gids", action="append", type=int, default=[])
    command.add_argument("-c", "--cap", action="append", default=[])
    command.add_argument("--cwd", default="")
    command.add_argument("--no-new-privs", action="store_true")
    command.add_argument("--console-socket", default="")
    command.add_argument("--pid-file", default="")
    command.add_argument("--preserve-fds", type=int, default=0)
    command.add_argument("--ignore-paused", action="store_true")
    command.add_argument("id")
    command.add_argument("args", nargs=argparse.REMAINDER)
    command.set_defaults(function=execute.run)


def _update(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("update", help="change resource limits")
    command.add_argument("-r", "--resources", default="", help="file with an OCI resources object, - for standard input")
    for flag, kind in (
        ("--blkio-weight", int),
        ("--cpu-period", int),
        ("--cpu-quota", int),
        ("--cpu-burst", int),
        ("--cpu-share", int),
        ("--cpuset-cpus", str),
        ("--cpuset-mems", str),
        ("--memory", int),
        ("--memory-reservation", int),
        ("--memory-swap", int),
        ("--pids-limit", int),
    ):
        command.add_argument(flag, type=kind, default=None)
    command.add_argument("id")
    command.set_defaults(function=lifecycle.update)


def _reports(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("ps", help="processes of a container")
    command.add_argument("-f", "--format", choices=("table", "json"), default="table")
    command.add_argument("id")
    command.set_defaults(function=report.processes)
    command = commands.add_parser("list", help="containers under --root")
    command.add_argument("-f", "--format", choices=("table", "json"), default="table")
    command.add_argument("-q", "--quiet", action="store_true")
    command.set_defaults(function=report.listing)
    command = commands.add_parser("events", help="usage and out-of-memory kills, as lines of JSON")
    command.add_argument("--interval", default="5s", help="a number of seconds, with or without s")
    command.add_argument("--stats", action="store_true", help="print once and end")
    command.add_argument("id")
    command.set_defaults(function=report.events)
    command = commands.add_parser("spec", help="write a default config.json")
    command.add_argument("-b", "--bundle", default=".")
    command.add_argument("--rootless", action="store_true", help="with a user namespace that maps the caller to root")
    command.set_defaults(function=report.spec)
    command = commands.add_parser("features", help="what this runtime can do, as the OCI features document")
    command.set_defaults(function=report.features)
