"""The page Read-only: an administrator's switch for maintenance."""

from __future__ import annotations

from typing import Any

from controlplane.console.pages import Page
from registry.actions import readonly
from registry.models import ReadOnly


class ReadOnlySwitch(Page):
    operation = {"get": "Registry View", "post": "Registry Update"}
    template = "registry/readonly.html"
    title = "Read-only mode"
    current = "read-only"

    def context(self) -> dict[str, Any]:
        self.require(operation="Registry View")
        return {"row": ReadOnly.objects.first(), "may_switch": self.may("Registry Update")}

    def act_enable(self) -> None:
        self.require(operation="Registry Update")
        readonly.enable(self.actor, self.request.POST.get("reason", ""))
        self.done("The registry is read-only: pulls work, pushes and deletes are refused.")

    def act_disable(self) -> None:
        self.require(operation="Registry Update")
        readonly.disable(self.actor)
        self.done("The registry takes pushes again.")
