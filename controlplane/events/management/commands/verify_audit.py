"""`manage.py verify_audit`: exit code 1 and one line a finding when the events are not what was recorded."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from controlplane.api.actor import SYSTEM
from controlplane.events import anchor, record
from controlplane.events.verify import verify


class Command(BaseCommand):
    help = "Walks the hash chain of the events and compares it with the signed head."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--accept-restored",
            action="store_true",
            help="sign the present head although a newer one was signed: after a restored backup",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["accept_restored"]:
            _accept()
        report = verify()
        for finding in report.findings:
            self.stdout.write(f"{finding.kind:10} {finding.sequence}  {finding.detail}")
        if not report.ok:
            raise CommandError(f"{len(report.findings)} findings in {report.checked} events.")
        self.stdout.write(f"{report.checked} events, {report.first} to {report.last}: unchanged.")


def _accept() -> None:
    before = anchor.read_unchecked()
    with transaction.atomic():
        data = {"signed": before[0].sequence if before else None}
        record("audit.restore_accepted", actor=SYSTEM, target="events", data=data)
    anchor.write(backwards=True)
