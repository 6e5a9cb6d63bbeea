"""What repositories look like in REST."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from registry.artifacts import KINDS
from registry.models import Repository, Tag, TagChange


class RepositorySerializer(serializers.ModelSerializer[Repository]):
    name = serializers.CharField(source="full_name")
    namespace = serializers.CharField(source="namespace.name")
    collection = serializers.CharField(source="collection.path")
    tags = serializers.IntegerField(source="tag_count")
    labels = serializers.SerializerMethodField()
    stored = serializers.IntegerField(source="stored_size", help_text="bytes, as last counted")

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
            "labels",
            "sparse_indexes",
            "immutable_tags",
            "tag_limit",
            "tags",
            "stored",
            "pulls",
            "pushes",
            "pushed_at",
            "version",
            "created_at",
            "updated_at",
        ]
        read_only_fields = fields

    def get_labels(self, row: Repository) -> dict[str, str]:
        return {label.key: label.value for label in row.labels.all()}


class RepositoryChangeSerializer(serializers.Serializer[Any]):
    visibility = serializers.ChoiceField(choices=Repository.Visibility.choices, required=False)
    description = serializers.CharField(max_length=200, required=False, allow_blank=True)
    readme = serializers.CharField(max_length=100_000, required=False, allow_blank=True, trim_whitespace=False)
    sparse_indexes = serializers.BooleanField(required=False)
    immutable_tags = serializers.BooleanField(required=False, help_text="No tag is overwritten or deleted.")
    tag_limit = serializers.IntegerField(required=False, min_value=0, help_text="One tag more evicts the oldest; 0: no limit.")
    labels = serializers.DictField(child=serializers.CharField(max_length=200, allow_blank=True), required=False)


class NewRepositorySerializer(RepositoryChangeSerializer):
    name = serializers.CharField(max_length=255)


class TagSerializer(serializers.ModelSerializer[Tag]):
    digest = serializers.CharField(source="manifest.digest")
    media_type = serializers.CharField(source="manifest.media_type")
    artifact_type = serializers.CharField(source="manifest.artifact_type")
    size = serializers.IntegerField(source="whole_size", help_text="Bytes of config and layers; of an index, of its images.")
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


class ImageLayerSerializer(LayerSerializer):
    diff_id = serializers.CharField(allow_blank=True, help_text="of the uncompressed tar")
    created_by = serializers.CharField(allow_blank=True, help_text="the instruction that made it")


class ImageSerializer(LayerSerializer):
    platform = serializers.CharField(allow_blank=True)
    attests = serializers.CharField(allow_blank=True, help_text="the image that this child of an index is an attestation of")


class StepSerializer(serializers.Serializer[Any]):
    created = serializers.CharField(allow_null=True)
    created_by = serializers.CharField(allow_blank=True)
    digest = serializers.CharField(allow_blank=True)
    size = serializers.IntegerField()


class ReferrerSerializer(serializers.Serializer[Any]):
    digest = serializers.CharField()
    kind = serializers.ChoiceField(choices=list(KINDS.items()))
    artifact_type = serializers.CharField(allow_blank=True)
    size = serializers.IntegerField()
    annotations = serializers.DictField(child=serializers.CharField())
    pushed_by = serializers.CharField(allow_blank=True)
    pushed_at = serializers.DateTimeField()


class FileSerializer(serializers.Serializer[Any]):
    title = serializers.CharField(allow_blank=True)
    media_type = serializers.CharField()
    size = serializers.IntegerField()
    digest = serializers.CharField()
    predicate = serializers.CharField(allow_blank=True)


class DependencySerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    version = serializers.CharField()
    repository = serializers.CharField()


class ChartSerializer(serializers.Serializer[Any]):
    """What Chart.yaml says."""

    name = serializers.CharField(required=False)
    version = serializers.CharField(required=False)
    app_version = serializers.CharField(required=False)
    description = serializers.CharField(required=False)
    type = serializers.CharField(required=False)
    home = serializers.CharField(allow_blank=True)
    dependencies = DependencySerializer(many=True)
    maintainers = serializers.ListField(child=serializers.CharField())
    keywords = serializers.ListField(child=serializers.CharField())


class ManifestSerializer(serializers.Serializer[Any]):
    digest = serializers.CharField()
    media_type = serializers.CharField()
    kind = serializers.ChoiceField(choices=list(KINDS.items()))
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
    config_digest = serializers.CharField(allow_blank=True)
    config = serializers.DictField()
    layers = ImageLayerSerializer(many=True)
    history = StepSerializer(many=True)
    images = ImageSerializer(many=True)
    indexes = serializers.ListField(child=serializers.CharField(), help_text="the indexes of the repository that hold it")
    referrers = ReferrerSerializer(many=True)
    files = FileSerializer(many=True)
    chart = ChartSerializer(allow_null=True)
