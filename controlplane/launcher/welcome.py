"""`python -m controlplane.launcher.welcome SERVER`: what a guest shows a newcomer; and the launcher's side of it.

The guest offers `<guest>.bootstrap.welcome(server) -> port | None`, asked by name. It runs beside the launcher, as the service
user: a failure of it is told and stops nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

from agent.protocol.errors import WharfError


class Aside:
    """The helper process, once started. `look` is asked again and again and tells the outcome once."""

    def __init__(self, command: list[str], environment: dict[str, str], host: str) -> None:
        self._host = host
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the outcome is told
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=self._out, stderr=subprocess.STDOUT
        )

    def look(self, say: Callable[[str], None]) -> None:
        """Nothing while it works, and nothing after the outcome was told."""
        if self._process is None or self._process.poll() is None:
            return
        self._process = None
        self._out.seek(0)
        lines = self._out.read().decode("utf-8", "replace").splitlines()
        self._out.close()
        answer = _answer(lines[-1] if lines else "")
        if answer.get("port"):
            say(f"Welcome   http://{self._host}:{answer['port']}/    (a page from a container; WELCOME=0 leaves it out)")
        elif "port" not in answer:
            say(f"The service welcome does not run. {answer.get('error') or ' '.join(lines[-1:])}".rstrip())

    def stop(self) -> None:
        """At the launcher's end."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
            self._out.close()


def _answer(line: str) -> dict[str, object]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def main(server: str) -> int:
    """One JSON object on the last line of stdout: {"port": number or null} or {"error": sentence}."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    import django

    django.setup()
    from controlplane.api import guests

    try:
        port = next((module.welcome(server) for module in guests.modules("bootstrap") if hasattr(module, "welcome")), None)
    except WharfError as error:
        print(json.dumps({"error": error.detail}))  # noqa: T201  # the answer
        return 1
    print(json.dumps({"port": port}))  # noqa: T201  # likewise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
