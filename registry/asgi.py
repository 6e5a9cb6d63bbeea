"""What the server mounts beside Django: raw ASGI apps by path prefix. Imported once the app registry is ready."""

from __future__ import annotations

from typing import Any

from registry.v2.app import application

mount: list[tuple[str, Any]] = [("/v2/", application)]
