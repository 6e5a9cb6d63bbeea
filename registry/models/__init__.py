"""Rows of the registry: one file a noun."""

from registry.models.blob import Blob, Lease, RepositoryBlob
from registry.models.manifest import Manifest, ManifestBlob, ManifestChild
from registry.models.policy import Policy
from registry.models.quota import Quota
from registry.models.reaction import ReactionCursor
from registry.models.repository import Namespace, Repository
from registry.models.state import ReadOnly
from registry.models.tag import Tag, TagChange
from registry.models.token import RefreshToken, SigningKey
from registry.models.trash import Trashed
from registry.models.upload import Upload

__all__ = [
    "Blob",
    "Lease",
    "Manifest",
    "ManifestBlob",
    "ManifestChild",
    "Namespace",
    "Policy",
    "Quota",
    "ReactionCursor",
    "ReadOnly",
    "RefreshToken",
    "Repository",
    "RepositoryBlob",
    "SigningKey",
    "Tag",
    "TagChange",
    "Trashed",
    "Upload",
]
