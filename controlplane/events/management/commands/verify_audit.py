"""`manage.py verify_audit`: exit code 1 and one line a finding when the events are not what was recorded."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from controlplane.events.verify import verify


class Command(BaseCommand):
    help = "Walks the hash chain of the events and compares it with the signed head."

    def handle(self, *args: Any, **options: Any) -> None:
        report = verify()
        for finding in report.findings:
            self.stdout.write(f"{finding.kind:10} {finding.sequence}  {finding.detail}")
        if not report.ok:
            raise CommandError(f"{len(report.findings)} findings in {report.checked} events.")
        self.stdout.write(f"{report.checked} events, {report.first} to {report.last}: unchanged.")
