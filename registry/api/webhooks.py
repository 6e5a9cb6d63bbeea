"""/api/v1/webhooks: subscriptions, their log, tests and redeliveries."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.generics import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.views import ModelRoutes
from registry.actions import webhooks
from registry.models import Delivery, Webhook
from registry.models.webhook import TYPES
from registry.queries.webhooks import OPERATION, may_manage, visible_webhooks


class WebhookSerializer(serializers.ModelSerializer[Webhook]):
    repository = serializers.SerializerMethodField()
    namespace = serializers.SerializerMethodField()
    types = serializers.ListField(child=serializers.ChoiceField(choices=TYPES))

    class Meta:
        model = Webhook
        fields = [
            *("id", "repository", "namespace", "types", "url", "format", "tls_verify", "tls_ca", "active", "failures"),
            *("disabled_reason", "last_success_at", "created_by", "version", "created_at", "updated_at"),
        ]
        read_only_fields = fields

    @extend_schema_field(str)
    def get_repository(self, row: Webhook) -> str:
        return row.repository.full_name if row.repository else ""

    @extend_schema_field(str)
    def get_namespace(self, row: Webhook) -> str:
        return row.namespace.name if row.namespace else ""


class WebhookChangeSerializer(serializers.Serializer[Any]):
    types = serializers.ListField(child=serializers.ChoiceField(choices=TYPES), required=False)
    url = serializers.CharField(max_length=2000, required=False)
    format = serializers.ChoiceField(choices=Webhook.Format.choices, required=False)
    tls_verify = serializers.BooleanField(required=False)
    tls_ca = serializers.CharField(max_length=64 << 10, required=False, allow_blank=True, help_text="PEM")
    active = serializers.BooleanField(required=False)


class NewWebhookSerializer(serializers.Serializer[Any]):
    repository = serializers.CharField(max_length=255, required=False, help_text="Of this repository…")
    namespace = serializers.CharField(
        max_length=150, required=False, help_text="… or of this namespace; neither: of everything (administrators)."
    )
    types = serializers.ListField(child=serializers.ChoiceField(choices=TYPES))
    url = serializers.CharField(max_length=2000)
    format = serializers.ChoiceField(choices=Webhook.Format.choices, required=False)
    tls_verify = serializers.BooleanField(required=False)
    tls_ca = serializers.CharField(max_length=64 << 10, required=False, allow_blank=True, help_text="PEM")


class SecretSerializer(serializers.Serializer[Any]):
    secret = serializers.CharField(help_text="Signs deliveries; never shown again.")


class WebhookWithSecretSerializer(WebhookSerializer):
    secret = serializers.CharField(help_text="Signs deliveries; never shown again.")

    class Meta(WebhookSerializer.Meta):
        fields = [*WebhookSerializer.Meta.fields, "secret"]
        read_only_fields = fields


class DeliverySerializer(serializers.ModelSerializer[Delivery]):
    delivery = serializers.CharField(source="seen_as", help_text="The id that the endpoint sees.")

    class Meta:
        model = Delivery
        fields = [
            *("id", "delivery", "type", "event_id", "subject", "state", "attempts", "status", "excerpt", "error", "duration"),
            *("body", "created_at", "tried_at"),
        ]
        read_only_fields = fields


class WebhookFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    repository = filters.CharFilter(field_name="repository__full_name")
    namespace = filters.CharFilter(field_name="namespace__name")
    active = filters.BooleanFilter()


class Webhooks(ModelRoutes):
    """Who may set the policies of a repository subscribes to it, owners to their namespace, administrators to everything."""

    queryset = Webhook.objects.all()
    filterset_class = WebhookFilter
    secret_answer = True
    operations = dict.fromkeys(
        ("list", "retrieve", "create", "partial_update", "destroy", "secret", "test", "deliveries", "redeliver"), OPERATION
    )

    def get_serializer_class(self) -> Any:
        return {
            "create": NewWebhookSerializer,
            "partial_update": WebhookChangeSerializer,
            "deliveries": DeliverySerializer,
            "test": DeliverySerializer,
            "redeliver": DeliverySerializer,
            "secret": SecretSerializer,
        }.get(self.action, WebhookSerializer)

    def get_queryset(self) -> QuerySet[Webhook]:
        if getattr(self, "swagger_fake_view", False):
            return Webhook.objects.none()
        return visible_webhooks(self.actor)

    def get_object(self) -> Webhook:
        # What a webhook is about decides, not the webhook itself: it is no resource of its own.
        row: Webhook = get_object_or_404(self.get_queryset(), pk=self.kwargs["pk"])
        may_manage(self.actor, row.repository, row.namespace)
        return row

    @extend_schema(responses={201: WebhookWithSecretSerializer})
    def create(self, request: Request) -> Response:
        row, secret = webhooks.create_webhook(self.actor, **self.validated())
        data = {**WebhookSerializer(row).data, "secret": secret}
        return self.tagged(row, data, code=status.HTTP_201_CREATED, location=f"/api/v1/webhooks/{row.pk}")

    @extend_schema(responses=WebhookSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        row = webhooks.update_webhook(self.actor, self.get_object(), self.expected(), **self.validated())
        return self.tagged(row, WebhookSerializer(row).data)

    def destroy(self, request: Request, pk: str) -> Response:
        webhooks.delete_webhook(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=None, responses=SecretSerializer)
    @action(detail=True, methods=["post"])
    def secret(self, request: Request, pk: str) -> Response:
        """A new secret; the old one signs nothing any more."""
        return Response({"secret": webhooks.renew_secret(self.actor, self.get_object())})

    @extend_schema(request=None, responses={202: DeliverySerializer})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: str) -> Response:
        """Sends a sample once; its delivery shows how it went."""
        row = webhooks.test_webhook(self.actor, self.get_object())
        return Response(DeliverySerializer(row).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(responses=DeliverySerializer(many=True))
    @action(detail=True, methods=["get"], filterset_class=None)
    def deliveries(self, request: Request, pk: str) -> Response:
        """Newest first."""
        rows = Delivery.objects.filter(webhook=self.get_object())
        page = self.paginate_queryset(rows)
        return self.get_paginated_response(DeliverySerializer(page, many=True).data)

    @extend_schema(request=None, responses={202: DeliverySerializer})
    @action(detail=True, methods=["post"], url_path="deliveries/(?P<delivery>[A-Za-z0-9]+)/redeliver")
    def redeliver(self, request: Request, pk: str, delivery: str) -> Response:
        """The same body once more, under the id that the endpoint knows."""
        found = get_object_or_404(Delivery.objects.select_related("webhook"), pk=delivery, webhook=self.get_object())
        row = webhooks.redeliver(self.actor, found)
        return Response(DeliverySerializer(row).data, status=status.HTTP_202_ACCEPTED)
