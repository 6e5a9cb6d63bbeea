"""/api/v1/pki: what everybody may know of the cluster's authority."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.access import PUBLIC
from controlplane.api.views import ApiView
from controlplane.pki import certificates, cluster


class BundleSerializer(serializers.Serializer[Any]):
    bundle = serializers.CharField(help_text="PEM of all roots.")
    digest = serializers.CharField(help_text="sha256 over their DERs: compare it with the one in the join token.")
    node = serializers.ListField(child=serializers.CharField(), help_text="PEM of each root that signs nodes.")
    api = serializers.ListField(
        child=serializers.CharField(), help_text="PEM of each root that signs the console, REST and registry."
    )


class Bundle(ApiView):
    """The cluster's roots. Public: a client checks them against a digest that it got another way."""

    operations = {"get": PUBLIC}
    authentication_classes = ()
    pagination_class = None
    serializer_class = BundleSerializer

    @extend_schema(auth=[])
    def get(self, request: Request) -> Response:
        return Response(
            {
                "bundle": cluster.bundle_pem(),
                "digest": cluster.bundle_digest(),
                "node": [certificates.pem(root) for root in cluster.roots("node")],
                "api": [certificates.pem(root) for root in cluster.roots("api")],
            }
        )
