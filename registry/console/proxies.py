"""The pages Proxies: namespaces that show what another registry has."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from agent.protocol.errors import InvalidInput, NotFound
from controlplane.console.pages import Page
from registry.actions import proxies
from registry.models import Proxy, Repository

MOST = {"fresh": 86_400 * 30, "keep_days": 3650}
_CALLED = {"fresh": "the number of seconds", "keep_days": "the number of days"}


class Proxies(Page):
    operation = proxies.OPERATION
    template = "registry/proxies.html"
    title = "Proxies"
    current = "proxies"

    def context(self) -> dict[str, Any]:
        self.require()
        return {"proxies": Proxy.objects.select_related("namespace")}

    def act_add(self) -> str:
        data = self.request.POST
        row = proxies.create_proxy(
            self.actor,
            namespace=data.get("namespace", "").strip(),
            url=data.get("url", "").strip(),
            prefix=data.get("prefix", "").strip().strip("/"),
            visibility=data.get("visibility", "private"),
            **_fields(self),
            secret=data.get("secret", ""),
        )
        self.done(f"{row.namespace.name} shows what {row.host} has, from the first pull on.")
        return reverse("proxy", args=[row.pk])


class ProxyDetail(Page):
    operation = proxies.OPERATION
    template = "registry/proxy.html"
    current = "proxies"

    def context(self) -> dict[str, Any]:
        row = self._proxy()
        kept = Repository.objects.filter(namespace=row.namespace).order_by("-updated_at")
        return {"proxy": row, "title": row.namespace.name, "kept": kept[:20], "count": kept.count()}

    def _proxy(self) -> Proxy:
        self.require()
        row = Proxy.objects.select_related("namespace__collection").filter(pk=self.kwargs["pk"]).first()
        if row is None:
            raise NotFound("There is no such proxy any more.")
        return row

    def act_save(self) -> None:
        """An empty secret is the one that is kept."""
        row, secret = self._proxy(), self.request.POST.get("secret", "")
        version = self.request.POST.get("version", "")
        if not (version.isascii() and version.isdecimal()):
            raise InvalidInput("the form is incomplete; reload the page")
        changes = _fields(self) | ({"secret": secret} if secret else {})
        proxies.update_proxy(self.actor, row, int(version), **changes)
        self.done("Saved; it holds for pulls in a few seconds.")

    def act_switch(self) -> None:
        row = self._proxy()
        row = proxies.update_proxy(self.actor, row, None, enabled=not row.enabled)
        self.done(f"The proxy is {'on' if row.enabled else 'off: what was kept is served, and nothing is asked elsewhere'}.")

    def act_remove(self) -> str:
        row = self._proxy()
        proxies.delete_proxy(self.actor, row)
        self.done(f"{row.namespace.name} is no proxy any more; what was kept stays as ordinary repositories.")
        return reverse("proxies")


def _fields(page: Page) -> dict[str, Any]:
    """What both forms have."""
    data = page.request.POST
    fields: dict[str, Any] = {
        "username": data.get("username", "").strip(),
        "tls_verify": "tls_skip" not in data,
        "tls_ca": data.get("tls_ca", "").strip(),
    }
    for name, most in MOST.items():
        text = data.get(name, "").strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= most):
            raise InvalidInput(f"{_CALLED[name]} is a whole number up to {most}")
        fields[name] = int(text)
    return fields
