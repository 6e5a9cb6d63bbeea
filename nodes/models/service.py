"""What users want to run."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower

from agent.protocol import codec
from agent.protocol.spec import ServiceSpec
from controlplane.api.models import Versioned
from nodes.snapshot import UpdateState, UpdateStatus


class ServiceQuerySet(models.QuerySet["Service"]):
    def standing(self) -> ServiceQuerySet:
        """Services that are not being removed."""
        return self.filter(removed_at=None)

    def called(self, text: str) -> ServiceQuerySet:
        """What `text` may mean: an id, or the name of a service that is not being removed."""
        return self.filter(Q(pk=text) | Q(name__iexact=text, removed_at=None))

    def named(self, name: str) -> ServiceQuerySet:
        return self.standing().filter(name__iexact=name)


class Service(Versioned):
    """`spec` is a ServiceSpec as `agent.protocol.codec` writes it.

    All fields are written by actions on behalf of users; `update_status` also by the orchestrator, and so are, in a rollback,
    spec, image, platforms, template, generation and previous.
    """

    name = models.CharField(max_length=63)  # never changed
    collection = models.ForeignKey("rbac.Collection", on_delete=models.PROTECT, related_name="services")
    spec = models.JSONField()
    image = models.CharField(max_length=600)  # repository[:tag]@digest, resolved once per spec write that names another image
    platforms = models.JSONField(default=list)  # [[os, arch]] of the image, [] = any
    template = models.CharField(max_length=64)  # names what tasks are made of: equal templates need no replacement
    generation = models.PositiveIntegerField(default=1)  # grows with each write that may replace tasks
    previous = models.JSONField(null=True)  # {"spec", "image", "platforms", "template"} for a rollback; cleared by one
    update_status = models.JSONField(default=dict)  # UpdateStatus
    # nodes below it may run the tasks: where the last writer of the spec holds Node Schedule
    root = models.ForeignKey("rbac.Collection", on_delete=models.PROTECT, related_name="+")
    removed_at = models.DateTimeField(null=True)  # being removed: the row goes with its last task
    created_by = models.CharField(max_length=150, blank=True)

    objects = ServiceQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(Lower("name"), condition=Q(removed_at=None), name="nodes_service_name")]

    def __str__(self) -> str:
        return self.name

    @property
    def wanted(self) -> ServiceSpec:
        """The spec as a dataclass."""
        return codec.decode(ServiceSpec, self.spec)

    @property
    def update(self) -> UpdateStatus:
        return codec.decode(UpdateStatus, self.update_status)

    @property
    def rolling(self) -> bool:
        return self.update.state in (UpdateState.UPDATING, UpdateState.ROLLING_BACK)
