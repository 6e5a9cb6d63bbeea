"""Collections, roles and grants in REST."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from controlplane.rbac.models import Collection, Grant, Role, RoleVersion


class CollectionSerializer(serializers.ModelSerializer[Collection]):
    class Meta:
        model = Collection
        fields = ["id", "name", "path", "parent", "system", "version", "created_at", "updated_at"]
        read_only_fields = fields


class NewCollectionSerializer(serializers.Serializer[Any]):
    parent = serializers.CharField(max_length=1024, help_text='A path: "/Shared".')  # type: ignore[assignment]  # Field.parent
    name = serializers.CharField(max_length=100)


class CollectionChangeSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=100)


class RoleSerializer(serializers.ModelSerializer[Role]):
    class Meta:
        model = Role
        fields = ["id", "name", "description", "system", "operations", "version", "created_at", "updated_at"]
        read_only_fields = fields


class NewRoleSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=100)
    description = serializers.CharField(max_length=500, required=False, allow_blank=True)
    operations = serializers.JSONField(help_text='{"Service": {"Create": ["Host Bind Mounts"]}}')


class RoleChangeSerializer(serializers.Serializer[Any]):
    description = serializers.CharField(max_length=500, required=False, allow_blank=True)
    operations = serializers.JSONField(required=False)


class RoleVersionSerializer(serializers.ModelSerializer[RoleVersion]):
    class Meta:
        model = RoleVersion
        fields = ["number", "operations", "replaced_at", "replaced_by"]


class GrantSerializer(serializers.ModelSerializer[Grant]):
    role = serializers.CharField(source="role.name", read_only=True)
    collection = serializers.CharField(source="collection.path", read_only=True)

    class Meta:
        model = Grant
        fields = ["id", "subject_kind", "subject_id", "role", "collection", "system", "version", "created_at"]
        read_only_fields = fields


class NewGrantSerializer(serializers.Serializer[Any]):
    subject_kind = serializers.ChoiceField(choices=Grant.Subject.choices)
    subject_id = serializers.CharField(max_length=25)
    role = serializers.CharField(max_length=100, help_text="A role's name.")
    collection = serializers.CharField(max_length=1024, help_text="A collection's path.")


class DecisionSerializer(serializers.Serializer[Any]):
    allowed = serializers.BooleanField()
    operation = serializers.CharField()
    collection = serializers.CharField()
    reason = serializers.CharField()
    hint = serializers.CharField(allow_blank=True)
    grants = serializers.ListField(child=serializers.DictField(child=serializers.CharField()))
    missing = serializers.ListField(child=serializers.CharField())


class OperationSerializer(serializers.Serializer[Any]):
    type = serializers.CharField()
    operation = serializers.CharField()
    gates = serializers.ListField(child=serializers.CharField())
    admin_only = serializers.BooleanField()
