"""The tab Webhooks, and the log of one of them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from django.core.paginator import Paginator
from django.urls import reverse

from agent.protocol.errors import NotFound
from registry.actions import webhooks
from registry.console.tabs import RepositoryPage
from registry.models import Delivery, Webhook
from registry.models.webhook import REPOSITORY_TYPES

PER_PAGE = 25


class Webhooks(RepositoryPage):
    operation = "Repository Policy"
    template = "registry/webhooks.html"
    tab = "webhooks"

    def tab_context(self) -> dict[str, Any]:
        return {"webhooks": Webhook.objects.filter(repository=self.repository), "types": REPOSITORY_TYPES}

    def act_add(self) -> str:
        data = self.request.POST
        row, secret = webhooks.create_webhook(
            self.actor,
            repository=self.repository.full_name,
            types=data.getlist("types"),
            url=data.get("url", "").strip(),
            format=data.get("format", Webhook.Format.DTR),
            tls_verify="tls_skip" not in data,
            tls_ca=data.get("tls_ca", "").strip(),
        )
        self.done(f"Subscribed. The secret that signs deliveries, which is not shown again: {secret}")
        return reverse("repository-webhook", args=[self.repository.full_name, row.pk])


class WebhookLog(RepositoryPage):
    operation = "Repository Policy"
    template = "registry/webhook.html"
    tab = "webhooks"

    @cached_property
    def webhook(self) -> Webhook:
        rows = Webhook.objects.select_related("repository__collection", "repository__namespace")
        row = rows.filter(repository=self.repository, pk=self.kwargs["webhook"]).first()
        if row is None:
            raise NotFound("There is no such webhook in this repository.")
        return row

    def tab_context(self) -> dict[str, Any]:
        page = Paginator(Delivery.objects.filter(webhook=self.webhook), PER_PAGE).get_page(self.request.GET.get("page"))
        return {"webhook": self.webhook, "page": page}

    def act_test(self) -> None:
        webhooks.test_webhook(self.actor, self.webhook)
        self.done("A sample is on its way; its delivery stands in the log.")

    def act_redeliver(self) -> None:
        row = Delivery.objects.select_related("webhook__repository__collection").filter(
            webhook=self.webhook, pk=self.request.POST.get("delivery", "")
        )
        found = row.first()
        if found is None:
            raise NotFound("There is no such delivery any more: the log keeps the newest.")
        webhooks.redeliver(self.actor, found)
        self.done("It is sent again, under the id that the endpoint knows.")

    def act_switch(self) -> None:
        row = webhooks.update_webhook(self.actor, self.webhook, None, active=not self.webhook.active)
        self.done(f"The webhook is {'on' if row.active else 'off'}.")

    def act_secret(self) -> None:
        secret = webhooks.renew_secret(self.actor, self.webhook)
        self.done(f"The new secret, which is not shown again: {secret}")

    def act_remove(self) -> str:
        webhooks.delete_webhook(self.actor, self.webhook)
        self.done("The webhook is removed.")
        return reverse("repository-webhooks", args=[self.repository.full_name])
