"""/api/v1/jobs, job-kinds, schedules and workers."""

from __future__ import annotations

import inspect
from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from agent.protocol.errors import Denied, InvalidInput
from controlplane.api.filters import Filters
from controlplane.api.views import ApiView, ModelRoutes
from controlplane.jobs import actions, cron
from controlplane.jobs.api.serializers import (
    CapacitySerializer,
    JobDetailSerializer,
    JobKindSerializer,
    JobSerializer,
    LogChunkSerializer,
    NewJobSerializer,
    ScheduleChangeSerializer,
    ScheduleSerializer,
    WorkerSerializer,
)
from controlplane.jobs.declare import Kind, kind_of, kinds
from controlplane.jobs.models import Job, ScheduleRow, Worker

CHUNKS = 100  # log chunks a page, at most 6.4 MB


class JobFilter(Filters):
    class Meta:
        model = Job
        fields = {"kind": ["exact", "startswith"], "state": ["exact"], "schedule": ["exact"], "actor_kind": ["exact"]}


class Jobs(ModelRoutes):
    """Background work. Who made a job sees it and may cancel it; the rest needs grants on the root."""

    queryset = Job.objects.all()
    filterset_class = JobFilter
    query = frozenset({"after"})
    operations = {
        "list": "Job View",
        "retrieve": "Job View",
        "create": "Job Run",
        "log": "Job View",
        "cancel": "Job Cancel",
        "retry": "Job Retry",
    }

    def get_serializer_class(self) -> Any:
        return {"create": NewJobSerializer, "retrieve": JobDetailSerializer, "log": LogChunkSerializer}.get(
            self.action, JobSerializer
        )

    def may_run(self, kind: Kind) -> None:
        """Job Run (or Retry), and what the kind itself asks for."""
        if not kind.operation:
            raise Denied(f"{kind.name} cannot be run by hand: the cluster makes such jobs when they are needed.")
        self.require()
        self.require(operation=kind.operation)

    @extend_schema(responses={201: JobDetailSerializer})
    def create(self, request: Request) -> Response:
        """Runs a job now."""
        data = self.validated()
        self.may_run(kind_of(data["kind"]))
        job = actions.enqueue(data["kind"], data["payload"], actor=self.actor, priority=data["priority"])
        return self._made(job)

    @extend_schema(
        parameters=[OpenApiParameter("after", int, description="only chunks with a larger seq")],
        responses=LogChunkSerializer(many=True),
    )
    @action(detail=True, methods=["get"], pagination_class=None, filterset_class=None)
    def log(self, request: Request, pk: str) -> Response:
        """Up to 100 chunks of the log. Ask again with the last `seq` as `after`; while the job lives, more may come."""
        job = self.get_object()
        after = request.query_params.get("after", "0")
        if not after.isdecimal():
            raise InvalidInput("`after` is the seq of the last chunk you have, a whole number.")
        return Response(LogChunkSerializer(job.log.filter(seq__gt=int(after))[:CHUNKS], many=True).data)

    @extend_schema(request=None, responses={202: JobDetailSerializer})
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: str) -> Response:
        """Asks the job to stop."""
        job = actions.cancel(self.actor, self.get_object())
        return Response(JobDetailSerializer(job).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(request=None, responses={201: JobDetailSerializer})
    @action(detail=True, methods=["post"])
    def retry(self, request: Request, pk: str) -> Response:
        """Makes a new job like this one."""
        job = self.get_object()
        self.may_run(kind_of(job.kind))
        return self._made(actions.retry(self.actor, job))

    def _made(self, job: Job) -> Response:
        job.refresh_from_db()
        return Response(
            JobDetailSerializer(job).data, status=status.HTTP_201_CREATED, headers={"Location": f"/api/v1/jobs/{job.id}"}
        )


class JobKinds(ApiView):
    """What can run in the background here."""

    operations = {"get": "Job View"}
    queryset = Job.objects.none()
    serializer_class = JobKindSerializer
    pagination_class = None

    @extend_schema(responses=JobKindSerializer(many=True))
    def get(self, request: Request) -> Response:
        self.require()
        rows = [
            {
                "name": kind.name,
                "description": (inspect.getdoc(kind.function) or "").split("\n\n")[0],
                "operation": kind.operation,
                "max_attempts": kind.max_attempts,
                "capacity": kind.needs,
                "single": kind.single,
            }
            for kind in sorted(kinds().values(), key=lambda kind: kind.name)
        ]
        return Response(JobKindSerializer(rows, many=True).data)


class AtTheRoot(ModelRoutes):
    """Rows that are no resource of their own: who holds the action's operation on the root has them all."""

    def get_queryset(self) -> QuerySet[Any]:
        if not getattr(self, "swagger_fake_view", False):
            self.require()
        return self.queryset.all()  # type: ignore[no-any-return]  # set by the subclasses


class Schedules(AtTheRoot):
    """When jobs are made by themselves."""

    queryset = ScheduleRow.objects.all()
    ordering = ("name",)
    operations = {"list": "Job View", "retrieve": "Job View", "partial_update": "Job Schedule"}

    def get_serializer_class(self) -> Any:
        return ScheduleChangeSerializer if self.action == "partial_update" else ScheduleSerializer

    @extend_schema(responses=ScheduleSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        row = self.get_object()
        return Response(ScheduleSerializer(cron.change(self.actor, row, **self.validated())).data)


class Workers(AtTheRoot):
    """Worker processes and how much of what they run at once."""

    queryset = Worker.objects.all()
    ordering = ("started_at", "id")
    operations = {"list": "Job View", "retrieve": "Job View", "partial_update": "Job Schedule"}

    def get_serializer_class(self) -> Any:
        return CapacitySerializer if self.action == "partial_update" else WorkerSerializer

    @extend_schema(responses=WorkerSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Sets the capacity until the worker ends; {"gc": 0} keeps it from collecting garbage."""
        worker = actions.set_capacity(self.actor, self.get_object(), self.validated()["capacity"])
        return Response(WorkerSerializer(worker).data)
