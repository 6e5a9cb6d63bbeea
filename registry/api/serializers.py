"""What repositories look like in REST."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from registry.models import Repository, Tag, TagChange


class RepositorySerializer(serializers.ModelSerializer[Repository]):
    name = serializers.CharField(source="full_name")
    namespace = serializers.CharField(source="namespace.name")
    collection = serializers.CharField(source="collection.path")
    tags = serializers.IntegerField(source="tag_count")

    class Meta:
        model = Repository
        fields = [
            "id",
            "name",
            "namespace",
            "collection",
            "visibility",
            "description",
            "readme",
            "sparse_indexes",
            "tags",
            "pulls",
            "pushed_at",
            "version",
            "created_at",
            "updated_at",
        ]
        read_only_fields = fields


class RepositoryChangeSerializer(serializers.Serializer[Any]):
    visibility = serializers.ChoiceField(choices=Repository.Visibility.choices, required=False)
    description = serializers.CharField(max_length=200, required=False, allow_blank=True)
    readme = serializers.CharField(max_length=100_000, required=False, allow_blank=True)
    sparse_indexes = serializers.BooleanField(required=False)


class NewRepositorySerializer(RepositoryChangeSerializer):
    name = serializers.CharField(max_length=255)


class TagSerializer(serializers.ModelSerializer[Tag]):
    digest = serializers.CharField(source="manifest.digest")
    media_type = serializers.CharField(source="manifest.media_type")
    artifact_type = serializers.CharField(source="manifest.artifact_type")
    size = serializers.IntegerField(source="manifest.total_size", help_text="Bytes of config and layers.")
    platforms = serializers.ListField(source="manifest.platforms", child=serializers.CharField())

    class Meta:
        model = Tag
        fields = ["name", "digest", "media_type", "artifact_type", "size", "platforms", "pushed_by", "pushed_at"]
        read_only_fields = fields


class TagChangeSerializer(serializers.ModelSerializer[TagChange]):
    class Meta:
        model = TagChange
        fields = ["tag", "before", "after", "actor_name", "at"]
        read_only_fields = fields


class LayerSerializer(serializers.Serializer[Any]):
    digest = serializers.CharField()
    media_type = serializers.CharField()
    size = serializers.IntegerField()
    annotations = serializers.DictField(child=serializers.CharField())


class ImageSerializer(LayerSerializer):
    platform = serializers.CharField(allow_blank=True)


class StepSerializer(serializers.Serializer[Any]):
    created = serializers.CharField(allow_null=True)
    created_by = serializers.CharField(allow_blank=True)
    digest = serializers.CharField(allow_blank=True)
    size = serializers.IntegerField()


class ManifestSerializer(serializers.Serializer[Any]):
    digest = serializers.CharField()
    media_type = serializers.CharField()
    artifact_type = serializers.CharField(allow_blank=True)
    size = serializers.IntegerField()
    total_size = serializers.IntegerField()
    platforms = serializers.ListField(child=serializers.CharField())
    subject = serializers.CharField(allow_blank=True)
    annotations = serializers.DictField(child=serializers.CharField())
    pushed_by = serializers.CharField(allow_blank=True)
    pushed_at = serializers.DateTimeField()
    tags = serializers.ListField(child=serializers.CharField())
    created = serializers.CharField(allow_null=True)
    author = serializers.CharField(allow_blank=True)
    config = serializers.DictField()
    layers = LayerSerializer(many=True)
    history = StepSerializer(many=True)
    images = ImageSerializer(many=True)
