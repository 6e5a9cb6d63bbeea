"""Rows of the registry: one file a noun."""

from registry.models.blob import Blob, Lease, RepositoryBlob
from registry.models.manifest import Manifest, ManifestBlob, ManifestChild
from registry.models.mirror import Mirror, MirroredTag, Proxied, Proxy
from registry.models.reaction import ReactionCursor
from registry.models.repository import Namespace, Repository
from registry.models.tag import Tag, TagChange
from registry.models.token import RefreshToken, SigningKey
from registry.models.upload import Upload
from registry.models.webhook import Delivery, Webhook

__all__ = [
    "Blob",
    "Delivery",
    "Lease",
    "Manifest",
    "ManifestBlob",
    "ManifestChild",
    "Mirror",
    "MirroredTag",
    "Namespace",
    "Proxied",
    "Proxy",
    "ReactionCursor",
    "RefreshToken",
    "Repository",
    "RepositoryBlob",
    "SigningKey",
    "Tag",
    "TagChange",
    "Upload",
    "Webhook",
]
