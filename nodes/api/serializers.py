"""What the fleet looks like in REST. Writable fields are listed one by one."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from agent.protocol.states import Availability, TaskState
from nodes.models import Action, Container, JoinToken, Node, NodeImage, Service, Task


def label_map(**options: Any) -> serializers.DictField:
    """Labels: any keys, short values."""
    return serializers.DictField(child=serializers.CharField(max_length=256, allow_blank=True), required=False, **options)


class NodeSerializer(serializers.ModelSerializer[Node]):
    collection = serializers.CharField(source="collection.path")
    approved = serializers.SerializerMethodField()
    linked = serializers.BooleanField()
    state = serializers.CharField(help_text="unknown, ready, suspect, down.")
    adopting = serializers.SerializerMethodField(help_text="Containers unknown to the database wait for a decision.")

    class Meta:
        model = Node
        fields = [
            "id", "hostname", "role", "collection", "labels", "availability", "approved", "state", "state_at", "state_reason",
            "linked", "linked_at", "adopting", "epoch", "assign_rev", "agent_version", "os", "architecture", "nano_cpus",
            "memory",
            "engine_labels", "addresses", "inventory", "certificate_until", "version", "created_at", "updated_at",
        ]  # fmt: skip
        read_only_fields = fields

    def get_approved(self, node: Node) -> bool:
        return node.approved_at is not None

    def get_adopting(self, node: Node) -> bool:
        return node.adopt_since is not None


class NodeChangeSerializer(serializers.Serializer[Any]):
    availability = serializers.ChoiceField(choices=[item.value for item in Availability], required=False)
    labels = label_map(help_text="Replaces all labels.")
    collection = serializers.CharField(max_length=1024, required=False)
    role = serializers.ChoiceField(choices=["worker", "manager"], required=False)


class NodeImageSerializer(serializers.ModelSerializer[NodeImage]):
    class Meta:
        model = NodeImage
        fields = ["image_id", "size", "tags", "digests", "created_at"]
        read_only_fields = fields


class ImageReferenceSerializer(serializers.Serializer[Any]):
    reference = serializers.CharField(max_length=600, help_text="repository[:tag][@digest] of the registry.")


class SampleSerializer(serializers.Serializer[Any]):
    """Counters as the node reported them; cumulative ones are to be subtracted."""

    at = serializers.FloatField(help_text="Unix seconds.")


class JoinTokenSerializer(serializers.ModelSerializer[JoinToken]):
    collection = serializers.CharField(source="collection.path")

    class Meta:
        model = JoinToken
        fields = [
            "id", "name", "role", "collection", "labels", "uses_left", "cidrs", "needs_approval", "expires_at", "revoked_at",
            "created_by", "created_at",
        ]  # fmt: skip
        read_only_fields = fields


class NewJoinTokenSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=100, required=False, allow_blank=True)
    role = serializers.ChoiceField(choices=["worker", "manager"], required=False)
    collection = serializers.CharField(max_length=1024, required=False, help_text="Where its nodes go; default /Shared.")
    labels = label_map()
    uses = serializers.IntegerField(min_value=1, max_value=10_000, required=False)
    lifetime = serializers.IntegerField(min_value=60, max_value=366 * 86400, required=False, help_text="Seconds; default a day.")
    cidrs = serializers.ListField(child=serializers.CharField(max_length=64), required=False, help_text="Source networks.")
    needs_approval = serializers.BooleanField(required=False)


class ShownJoinTokenSerializer(JoinTokenSerializer):
    token = serializers.CharField(help_text="Shown once.")

    class Meta(JoinTokenSerializer.Meta):
        fields = [*JoinTokenSerializer.Meta.fields, "token"]
        read_only_fields = fields


class JoinSerializer(serializers.Serializer[Any]):
    token = serializers.CharField(max_length=200)
    csr = serializers.CharField(max_length=16384, trim_whitespace=False, help_text="PEM, P-256; its subject is ignored.")
    hostname = serializers.CharField(max_length=253, required=False, allow_blank=True)


class JoinedSerializer(serializers.Serializer[Any]):
    node_id = serializers.CharField()
    certificate = serializers.CharField(help_text="PEM.")
    ca = serializers.CharField(help_text="PEM of all roots; compare with the digest in the token.")
    links = serializers.ListField(child=serializers.CharField(), help_text="host:port of the node port, to be tried in order.")
    server_name = serializers.CharField(help_text="The name that the node port's certificate carries.")
    approved = serializers.BooleanField(help_text="False: it waits for an administrator.")


class ServiceSerializer(serializers.ModelSerializer[Service]):
    collection = serializers.CharField(source="collection.path")
    scheduling_root = serializers.CharField(source="root.path")
    spec = serializers.SerializerMethodField()
    update_status = serializers.SerializerMethodField(help_text="Of the rolling update: state, message, started, total.")
    can_roll_back = serializers.SerializerMethodField()
    tasks = serializers.SerializerMethodField(help_text="Wanted tasks by observed state.")

    class Meta:
        model = Service
        fields = [
            "id", "name", "collection", "scheduling_root", "spec", "image", "platforms", "generation", "update_status",
            "can_roll_back", "tasks", "removed_at", "created_by", "version", "created_at", "updated_at",
        ]  # fmt: skip
        read_only_fields = fields

    def get_spec(self, service: Service) -> dict[str, Any]:
        spec: dict[str, Any] = service.spec
        return spec

    def get_update_status(self, service: Service) -> dict[str, Any]:
        status: dict[str, Any] = service.update_status
        return {"state": "", **status}

    def get_can_roll_back(self, service: Service) -> bool:
        return service.previous is not None

    def get_tasks(self, service: Service) -> dict[str, int]:
        counts: dict[str, int] = self.context.get("counts", {}).get(service.pk, {})
        return counts


class NewServiceSerializer(serializers.Serializer[Any]):
    spec = serializers.JSONField(
        help_text="A ServiceSpec: name, container {image, …}, mode, replicas, placement, restart, update."
    )
    collection = serializers.CharField(max_length=1024, required=False, help_text="Default: the caller's own.")


class ServiceChangeSerializer(serializers.Serializer[Any]):
    spec = serializers.JSONField(required=False, help_text="PUT: the whole spec. PATCH: a merge patch (RFC 7396) of it.")
    collection = serializers.CharField(max_length=1024, required=False)
    force = serializers.BooleanField(required=False, help_text="Replace tasks though nothing changed.")
    refresh = serializers.BooleanField(required=False, help_text="Resolve the image's tag again.")


class ScaleSerializer(serializers.Serializer[Any]):
    replicas = serializers.IntegerField(min_value=0, max_value=10_000)


class TaskSerializer(serializers.ModelSerializer[Task]):
    service = serializers.CharField(source="service_id")
    service_name = serializers.CharField(source="service.name")
    node = serializers.CharField(source="node_id", allow_null=True)
    hostname = serializers.SerializerMethodField()
    desired = serializers.SerializerMethodField()
    observed = serializers.SerializerMethodField()

    class Meta:
        model = Task
        fields = [
            "id", "service", "service_name", "slot", "node", "hostname", "desired", "observed", "observed_at", "running_at",
            "image", "generation", "why_pending", "message", "error", "container_id", "pid", "exit_code", "oom_killed",
            "health", "addresses", "ports", "created_at",
        ]  # fmt: skip
        read_only_fields = fields

    def get_hostname(self, task: Task) -> str:
        return task.node.hostname if task.node else ""

    def get_desired(self, task: Task) -> str:
        return TaskState(task.desired).name.lower()

    def get_observed(self, task: Task) -> str:
        return TaskState(task.observed).name.lower()


class ContainerSerializer(serializers.ModelSerializer[Container]):
    collection = serializers.CharField(source="collection.path")
    node = serializers.CharField(source="node_id")
    hostname = serializers.CharField(source="node.hostname")
    task = serializers.CharField(source="task_id", allow_null=True)
    service = serializers.CharField(source="service_id", allow_null=True)

    class Meta:
        model = Container
        fields = [
            "id", "container_id", "name", "node", "hostname", "task", "service", "collection", "image", "image_id", "command",
            "state", "health", "pid", "exit_code", "oom_killed", "restarts", "isolation", "labels", "addresses", "ports",
            "created_at", "started_at", "finished_at",
        ]  # fmt: skip
        read_only_fields = fields


class NewContainerSerializer(serializers.Serializer[Any]):
    node = serializers.CharField(max_length=25, help_text="Id of the node.")
    name = serializers.CharField(max_length=63, required=False, allow_blank=True)
    spec = serializers.JSONField(help_text="A ContainerSpec: image, command, args, env, …")
    collection = serializers.CharField(max_length=1024, required=False, help_text="Default: the caller's own.")
    start = serializers.BooleanField(required=False)


class GraceSerializer(serializers.Serializer[Any]):
    grace = serializers.FloatField(min_value=0, max_value=3600, required=False, help_text="Seconds before SIGKILL.")


class KillSerializer(serializers.Serializer[Any]):
    signal = serializers.RegexField(r"\A(?:SIG)?[A-Z0-9+-]{1,12}\Z", required=False, help_text="Default SIGKILL.")


class EmptySerializer(serializers.Serializer[Any]):
    pass


class ActionSerializer(serializers.ModelSerializer[Action]):
    node = serializers.CharField(source="node_id")
    collection = serializers.CharField(source="collection.path")
    state = serializers.CharField(help_text="queued, done, failed, expired.")

    class Meta:
        model = Action
        fields = [
            "id", "node", "collection", "kind", "target", "actor_name", "state", "result", "error", "created_at", "deadline",
            "finished_at",
        ]  # fmt: skip
        read_only_fields = fields
