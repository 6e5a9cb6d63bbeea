"""/api/v1/policies: what keeps, limits and moves images; their rehearsal before they are saved."""

from __future__ import annotations

from typing import Any

from django.db.models import Q, QuerySet
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api import access
from controlplane.api.views import ModelRoutes
from registry.actions import plans, policies
from registry.actions.drafts import Draft, place
from registry.models import Namespace, Policy, Repository
from registry.queries.access import owned_namespaces
from registry.rules.outcome import ACTS
from registry.running import holders_of


class PolicySerializer(serializers.ModelSerializer[Policy]):
    namespace = serializers.CharField(source="namespace.name")
    repository = serializers.CharField(source="repository.full_name", default="", help_text='"" for one of the whole namespace.')

    class Meta:
        model = Policy
        fields = [
            "id",
            "kind",
            "namespace",
            "repository",
            "enabled",
            "repositories",
            "tags",
            "rules",
            "options",
            "since",
            "author_name",
            "ran_at",
            "ran",
            "version",
            "created_at",
            "updated_at",
        ]
        read_only_fields = fields


class PolicyChangeSerializer(serializers.Serializer[Any]):
    enabled = serializers.BooleanField(required=False)
    repositories = serializers.CharField(
        max_length=128, required=False, help_text="Of a namespace's policy: a pattern of names without the namespace."
    )
    tags = serializers.CharField(max_length=128, required=False, help_text="A pattern: *, **, ?, [0-9], {a,b}.")
    rules = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        help_text='Pruning and promotion: {"field", "operator", "values"}, all must fit. Retention: {"keep", "value", "tags"}.',
    )
    options = serializers.DictField(
        required=False, help_text='Promotion: {"target", "template"}. Retention: {"untagged"}. Tag limit and quota: {"limit"}.'
    )


class NewPolicySerializer(PolicyChangeSerializer):
    kind = serializers.ChoiceField(choices=Policy.Kind.choices)
    repository = serializers.CharField(max_length=255, required=False, help_text="namespace/name")
    namespace = serializers.CharField(max_length=150, required=False, help_text="instead of a repository: all of a namespace")
    initial = serializers.BooleanField(required=False, help_text="Also of tags that are there already; true unless said.")


class RehearsalSerializer(NewPolicySerializer):
    kind = serializers.ChoiceField(choices=[*Policy.Kind.values, plans.TAG_LIMIT, plans.QUOTA])


class HolderSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(help_text='"service web"')
    url = serializers.CharField(help_text="its page in the console")


class OutcomeSerializer(serializers.Serializer[Any]):
    repository = serializers.CharField()
    tag = serializers.CharField(allow_blank=True)
    digest = serializers.CharField(allow_blank=True)
    act = serializers.ChoiceField(choices=ACTS)
    target = serializers.CharField(allow_blank=True)
    reasons = serializers.ListField(child=serializers.CharField())
    holders = HolderSerializer(many=True, help_text="what keeps the image in use, as far as you may see it")


class RunSerializer(serializers.Serializer[Any]):
    dry_run = serializers.BooleanField(required=False, default=False)


class StartedSerializer(serializers.Serializer[Any]):
    job = serializers.CharField(help_text="Follow it at /api/v1/jobs/{id}.")


class PolicyFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    repository = filters.CharFilter(field_name="repository__full_name")
    namespace = filters.CharFilter(field_name="namespace__name")
    kind = filters.ChoiceFilter(choices=Policy.Kind.choices)


class Policies(ModelRoutes):
    """Of repositories where the caller holds Repository Policy, and of namespaces that are theirs."""

    queryset = Policy.objects.select_related("namespace", "repository__collection")
    filterset_class = PolicyFilter
    ordering: tuple[str, ...] = ("created_at", "id")
    operations = {
        "list": "Repository Policy",
        "retrieve": "Repository Policy",
        "create": "Repository Policy",
        "partial_update": "Repository Policy",
        "destroy": "Repository Policy",
        "run": "Repository Policy",
        "rehearsal": "Repository Policy",
    }

    def get_serializer_class(self) -> Any:
        return {
            "create": NewPolicySerializer,
            "partial_update": PolicyChangeSerializer,
            "rehearsal": RehearsalSerializer,
            "run": RunSerializer,
        }.get(self.action, PolicySerializer)

    def get_queryset(self) -> QuerySet[Policy]:
        if getattr(self, "swagger_fake_view", False):
            return self.queryset.none()
        governed = access.visible(self.actor, Repository.objects.all(), "Repository Policy")
        own = Q(repository__isnull=True, namespace__in=owned_namespaces(self.actor, Namespace.objects.all()))
        return self.queryset.filter(Q(repository__in=governed) | own)

    def get_object(self) -> Policy:
        found: Policy = super(ModelRoutes, self).get_object()  # the right is the repository's or the namespace's
        policies.require(self.actor, found)
        return found

    @extend_schema(responses={201: PolicySerializer})
    def create(self, request: Request) -> Response:
        data = self.validated()
        access.visible(self.actor, Repository.objects.none(), self.operation)  # the action asks where the policy would be
        row = policies.create_policy(self.actor, data.pop("kind"), **data)
        shown = PolicySerializer(row).data
        return self.tagged(row, shown, code=status.HTTP_201_CREATED, location=f"/api/v1/policies/{row.pk}")

    @extend_schema(responses=PolicySerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        row = policies.update_policy(self.actor, self.get_object(), self.expected(), **self.validated())
        return self.tagged(row, PolicySerializer(row).data)

    def destroy(self, request: Request, pk: str) -> Response:
        policies.delete_policy(self.actor, self.get_object(), self.expected())
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=RunSerializer, responses={202: StartedSerializer})
    @action(detail=True, methods=["post"], filterset_class=None)
    def run(self, request: Request, pk: str) -> Response:
        """Run it now, or say what a run would do: a job, whose log has each tag with its reasons."""
        job = policies.run_policy(self.actor, self.get_object(), **self.validated())
        return Response({"job": job.pk}, status=status.HTTP_202_ACCEPTED, headers={"Location": f"/api/v1/jobs/{job.pk}"})

    @extend_schema(request=RehearsalSerializer, responses=OutcomeSerializer(many=True))
    @action(detail=False, methods=["post"], filterset_class=None, pagination_class=None)
    def rehearsal(self, request: Request) -> Response:
        """What a draft would do to today's content: the engine of the real run, in a transaction that cannot write."""
        data = self.validated()
        access.visible(self.actor, Repository.objects.none(), self.operation)  # asked where the policy would be
        outcomes = rehearse(self.actor, data)
        known = holders_of(self.actor, (holder for item in outcomes for holder in item.holders))
        words = {key: holder.text for key, holder in known.items()}
        rows = [
            {**item.named(words).as_dict(), "holders": [known[holder] for holder in item.holders if known[holder].url]}
            for item in outcomes
        ]
        return Response(OutcomeSerializer(rows, many=True).data)


def rehearse(actor: Any, data: dict[str, Any]) -> list[Any]:
    """Of a policy, or of a setting: kind tag_limit of a repository, quota of a namespace, with options {"limit"}."""
    kind = data.pop("kind")
    if kind not in (plans.TAG_LIMIT, plans.QUOTA):
        return plans.rehearse(policies.draft(actor, kind, **data)[0])
    home, row = place(actor, Policy.Kind.PRUNING, data.get("repository", ""), data.get("namespace", ""))
    draft = Draft(kind, home.pk, row.pk if row else None, repositories="**" if kind == plans.TAG_LIMIT else home.name)
    return plans.rehearse(draft, plans.limit_of(data.get("options", {})))
