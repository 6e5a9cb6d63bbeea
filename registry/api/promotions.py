"""/api/v1/repositories/{id}/promotions: a tag is promoted by hand."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.oci import check_name, check_tag
from registry.actions.promotion import promote_by_hand
from registry.api.scope import OfRepository


class PromotionSerializer(serializers.Serializer[Any]):
    tag = serializers.CharField(max_length=128)
    target = serializers.CharField(max_length=255, help_text="namespace/name")
    target_tag = serializers.CharField(max_length=128, required=False, help_text="The same name unless said.")


class PromotedSerializer(serializers.Serializer[Any]):
    promoted = serializers.BooleanField(help_text="False: the target named this image already.")


class Promotions(OfRepository):
    operations = {"post": "Repository Pull"}
    serializer_class = PromotionSerializer

    @extend_schema(responses=PromotedSerializer)
    def post(self, request: Request, pk: str) -> Response:
        """The image enters the target with its children and referrers; the caller needs Repository Push there."""
        data = self.validated()
        tag = check_tag(data["tag"])
        target_tag = check_tag(data.get("target_tag") or tag)
        done = promote_by_hand(self.actor, self.repository(), tag, check_name(data["target"]), target_tag)
        return Response({"promoted": done})
