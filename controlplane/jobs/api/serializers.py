"""Jobs, schedules and workers as JSON."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from controlplane.jobs.models import Attempt, Job, LogChunk, ScheduleRow, Worker


class AttemptSerializer(serializers.ModelSerializer[Attempt]):
    class Meta:
        model = Attempt
        fields = ["number", "fence", "worker", "host", "started_at", "ended_at", "outcome", "error"]


class ProgressSerializer(serializers.Serializer[Any]):
    done = serializers.IntegerField()
    total = serializers.IntegerField(help_text="0 when it is not known")
    text = serializers.CharField()


class JobSerializer(serializers.ModelSerializer[Job]):
    progress = ProgressSerializer(source="*", read_only=True)

    class Meta:
        model = Job
        fields = [
            *("id", "kind", "payload", "priority", "state", "actor_kind", "actor_id", "actor_name"),
            *("attempt", "max_attempts", "worker", "cancel_requested", "progress", "result", "error"),
            *("schedule", "due_at", "retry_of", "run_after", "created_at", "started_at", "finished_at"),
        ]
        read_only_fields = fields


class JobDetailSerializer(JobSerializer):
    attempts = AttemptSerializer(many=True, read_only=True)

    class Meta(JobSerializer.Meta):
        fields = [*JobSerializer.Meta.fields, "attempts"]
        read_only_fields = fields


class NewJobSerializer(serializers.Serializer[Any]):
    kind = serializers.CharField(max_length=80)
    payload = serializers.DictField(required=False, default=dict)
    priority = serializers.IntegerField(required=False, default=1000, min_value=1, max_value=10000)


class LogChunkSerializer(serializers.ModelSerializer[LogChunk]):
    class Meta:
        model = LogChunk
        fields = ["seq", "attempt", "at", "text"]


class JobKindSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    description = serializers.CharField()
    operation = serializers.CharField(help_text="what running it by hand needs; empty: it cannot be run by hand")
    max_attempts = serializers.IntegerField()
    capacity = serializers.DictField(child=serializers.IntegerField())
    single = serializers.BooleanField()


class ScheduleSerializer(serializers.ModelSerializer[ScheduleRow]):
    class Meta:
        model = ScheduleRow
        fields = ["name", "kind", "cron", "declared_cron", "payload", "priority", "enabled", "next_due"]
        read_only_fields = fields


class ScheduleChangeSerializer(serializers.Serializer[Any]):
    cron = serializers.CharField(required=False, max_length=100, help_text="six fields, seconds first, UTC")
    enabled = serializers.BooleanField(required=False)


class WorkerSerializer(serializers.ModelSerializer[Worker]):
    class Meta:
        model = Worker
        fields = ["id", "host", "pid", "capacity", "started_at", "seen_at", "leaving"]
        read_only_fields = fields


class CapacitySerializer(serializers.Serializer[Any]):
    capacity = serializers.DictField(child=serializers.IntegerField(min_value=0, max_value=1000))
