"""`python -m controlplane.launcher.local_node`: prints {"token": …} for the agent beside the launcher; uses Django.

The guest that has nodes offers `<guest>.bootstrap.local_node_token() -> str`; it is asked by name, for the ground knows no guest.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> int:
    """Writes one JSON object to stdout."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    import django

    django.setup()
    from controlplane.api import guests

    token = next((module.local_node_token() for module in guests.modules("bootstrap")), None)
    print(json.dumps({"token": token}))  # noqa: T201  # the answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
