"""The web process that the registry's tests talk to: our listeners, the raw app beside Django, people from the command line.

    python -m tests.integration.registry.serve_registry SOCKET_FD [TLS_FD CERT KEY]

Migrates the database, makes the cast, prints "ready" and serves until SIGTERM. Its own process, so that it can be killed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

import uvloop  # noqa: E402  # after setup()
from django.core.management import call_command  # noqa: E402  # after setup()

from controlplane.api.actor import SYSTEM  # noqa: E402  # after setup()
from controlplane.asgi import application  # noqa: E402  # after setup()
from controlplane.server.app import Edge  # noqa: E402  # after setup()
from controlplane.server.listener import Listener, configure, serve  # noqa: E402  # after setup()
from controlplane.server.tls import server_context  # noqa: E402  # after setup()
from controlplane.users.actions import add_member, create_organisation, create_user  # noqa: E402  # after setup()
from controlplane.users.models import User  # noqa: E402  # after setup()

PASSWORD = "correct-horse-battery"


def make_cast() -> None:
    """An administrator and Docker Enterprise's usual three: owner of an organisation, team mate, stranger."""
    if User.objects.filter(username="admin").exists():
        return
    create_user(SYSTEM, "admin", PASSWORD, is_admin=True)
    people = {name: create_user(SYSTEM, name, PASSWORD) for name in ("alice", "bob", "charlie")}
    acme = create_organisation(SYSTEM, "acme", owner=people["alice"])
    add_member(SYSTEM, acme, people["bob"])


def main(arguments: list[str]) -> None:
    if os.environ.get("REGISTRY_TEST_MIGRATE", "1") == "1":
        call_command("migrate", verbosity=0, interactive=False)
        make_cast()
    app = Edge(application)
    listeners = [Listener(configure(app, context=None), _adopt(arguments[0]))]
    if len(arguments) > 1:
        context = server_context(arguments[2], arguments[3])
        listeners.append(Listener(configure(app, context=context), _adopt(arguments[1])))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(listeners, ready=lambda: print("ready", flush=True)))


def _adopt(number: str) -> socket.socket:
    sock = socket.socket(fileno=int(number))
    sock.setblocking(False)
    return sock


if __name__ == "__main__":
    main(sys.argv[1:])
