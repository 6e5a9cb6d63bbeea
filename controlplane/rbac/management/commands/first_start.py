"""`manage.py first_start`: all that a home directory needs before the web process starts. A second run changes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser
from django.db import connection

from controlplane.home import ensure_directory, secret_key
from controlplane.pki.cluster import bundle_digest, ensure_authorities
from controlplane.pki.server import ensure_certificate
from controlplane.users.actions import ensure_admin

_LOCK = 0x7768_6172_66  # "wharf"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One first start at a time: by a file lock in this home, and on PostgreSQL for all replicas by an advisory lock."""
    with (settings.HOME / "first-start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if connection.vendor != "postgresql":
            yield
            return
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
            try:
                yield
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


class Command(BaseCommand):
    help = "Migrates the database, makes the roots, the certificates and the administrator. Prints a new password once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--admin", default="admin", help="name of the first administrator")
        parser.add_argument("--json", action="store_true", help="print one JSON object for the launcher")

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)  # the database holds hashes and names: nobody else reads it
        ensure_directory(settings.HOME)
        secret_key(settings.SECRET_KEY_FILE)  # a bad one must stop the start here, not at the first login
        with alone():
            call_command("migrate", interactive=False, verbosity=0)
            ensure_authorities()
            api, _ = ensure_certificate("api")
            node, _ = ensure_certificate("node")
            user, password = ensure_admin(options["admin"])
        result = {
            "admin": user.username,
            "password": password,  # null when the administrator existed
            "ca_digest": bundle_digest(),
            "api": {"certificate": str(api.certificate), "key": str(api.key), "roots": str(api.roots)},
            "node": {"certificate": str(node.certificate), "key": str(node.key), "roots": str(node.roots)},
        }
        if options["json"]:
            self.stdout.write(json.dumps(result))
            return
        self.stdout.write(f"CA digest  {result['ca_digest']}")
        if password is not None:
            self.stdout.write(f"Administrator  {user.username}\nPassword       {password}   (shown this once)")
