"""`wharf-agent`: join a cluster, run the node, leave."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from agent import __version__
from agent.containers.idranges import NodeRange
from agent.down import down
from agent.join import join, leave
from agent.link.identity import Identity
from agent.node import Node, NodeConfig
from agent.protocol.codec import InvalidSpec
from agent.protocol.errors import WharfError

DEFAULT_HOME = "/var/lib/wharfinger/agent"
DEFAULT_RUN = "/run/wharfinger"


def main() -> None:
    """Exit codes: 0 done, 1 an error (its sentence on stderr), 2 wrong usage."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a request says nothing that a failure would not
    try:
        arguments.act(arguments)
    except WharfError as error:
        sys.exit(f"wharf-agent: {error.detail}")
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wharf-agent", description="The Wharfinger node agent.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--home", type=Path, default=Path(os.environ.get("WHARF_AGENT_HOME", DEFAULT_HOME)), help="state directory"
    )
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    commands = parser.add_subparsers(required=True, metavar="command")

    joining = commands.add_parser("join", help="become a node of a cluster")
    joining.add_argument("--token", required=True, help="from `wharf node token`; '-' reads it from standard input")
    joining.add_argument("server", help="host:port of the control plane's API")
    joining.set_defaults(act=_join)

    running = commands.add_parser("run", help="run the node (in the foreground)")
    running.add_argument(
        "--run", type=Path, default=Path(os.environ.get("WHARF_AGENT_RUN", DEFAULT_RUN)), help="runtime directory"
    )
    running.add_argument(
        "--cgroup-parent", default=os.environ.get("WHARF_AGENT_CGROUP", "/wharfinger"), help="cgroup of all containers"
    )
    running.add_argument(
        "--graph-driver",
        default=os.environ.get("WHARF_AGENT_GRAPH_DRIVER") or None,
        help="overlay2, fuse-overlayfs, btrfs, zfs, devicemapper or vfs; by default what is in use, else the best that works",
    )
    running.add_argument(
        "--storage-opt",
        action="append",
        default=os.environ.get("WHARF_AGENT_STORAGE_OPTS", "").split(),
        metavar="KEY=VALUE",
        help="an option of the graph driver; may be repeated",
    )
    running.add_argument(
        "--image-devices",
        action="store_true",
        default=os.environ.get("WHARF_AGENT_IMAGE_DEVICES") == "1",
        help="unpack images that hold device nodes, instead of refusing them",
    )
    running.add_argument("--network-prefix", default="wharf", help="of the names of bridges and nft tables")
    running.add_argument(
        "--protect-port", action="append", default=[], type=int, metavar="PORT", help="of this host, closed to containers"
    )
    running.add_argument(
        "--userns-range",
        default=os.environ.get("WHARF_AGENT_USERNS_RANGE", ""),
        metavar="FIRST:COUNT",
        help="host ids for containers with a user namespace, 65536 a tenant (default: 1879048192:134217728)",
    )
    running.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="an engine label; may be repeated")
    running.set_defaults(act=_run)

    ending = commands.add_parser("down", help="stop all containers and their supervisor (after the agent has ended)")
    ending.add_argument(
        "--run", type=Path, default=Path(os.environ.get("WHARF_AGENT_RUN", DEFAULT_RUN)), help="runtime directory"
    )
    ending.add_argument(
        "--cgroup-parent", default=os.environ.get("WHARF_AGENT_CGROUP", "/wharfinger"), help="cgroup of all containers"
    )
    ending.add_argument("--network-prefix", default="wharf", help="of the names of bridges and nft tables")
    ending.set_defaults(act=_down)

    leaving = commands.add_parser("leave", help="forget the cluster (containers must be gone)")
    leaving.set_defaults(act=_leave)
    return parser


def _join(arguments: argparse.Namespace) -> None:
    given: str = arguments.token
    text = sys.stdin.readline().strip() if given == "-" else given
    node_id = join(Identity(arguments.home), arguments.server, text)
    print(f"joined as node {node_id}")  # noqa: T201  # the command's answer


def _down(arguments: argparse.Namespace) -> None:
    stopped = asyncio.run(down(arguments.home, arguments.run, arguments.cgroup_parent, arguments.network_prefix))
    print(f"stopped {stopped} containers")  # noqa: T201  # the command's answer


def _leave(arguments: argparse.Namespace) -> None:
    leave(Identity(arguments.home))


def _run(arguments: argparse.Namespace) -> None:
    if os.geteuid() != 0:
        sys.exit("wharf-agent: containers need root: run the agent as root, or leave this host to the control plane alone")
    config = NodeConfig(
        home=arguments.home,
        run=arguments.run,
        cgroup_parent=arguments.cgroup_parent,
        graph_driver=arguments.graph_driver,
        storage_options=tuple(arguments.storage_opt),
        image_devices=arguments.image_devices,
        network_prefix=arguments.network_prefix,
        protect_ports=tuple(arguments.protect_port),
        userns_range=_userns_range(arguments.userns_range),
        labels=dict(item.partition("=")[::2] for item in arguments.label),
    )
    asyncio.run(_serve(config, Identity(arguments.home)))


def _userns_range(text: str) -> NodeRange:
    try:
        return NodeRange.parse(text)
    except InvalidSpec as error:
        sys.exit(f"wharf-agent: {error.detail}")


async def _serve(config: NodeConfig, identity: Identity) -> None:
    identity.cluster()  # says what to do when the node has not joined
    node = Node(config, identity)
    await node.open()
    serving = asyncio.create_task(node.run(), name="node")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        logging.getLogger(__name__).info("stopping; containers run on")
    finally:
        await node.close()


if __name__ == "__main__":
    main()
