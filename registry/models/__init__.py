"""Rows of the registry: one file a noun."""

from registry.models.blob import Blob, Lease, RepositoryBlob
from registry.models.label import Label
from registry.models.manifest import Manifest, ManifestBlob, ManifestChild
from registry.models.mirror import Mirror, MirroredTag, Proxied, Proxy
from registry.models.policy import Policy
from registry.models.quota import Quota
from registry.models.reaction import ReactionCursor
from registry.models.repository import Namespace, Repository
from registry.models.robot import Robot
from registry.models.setting import Setting
from registry.models.state import ReadOnly
from registry.models.tag import Tag, TagChange
from registry.models.token import RefreshToken, SigningKey
from registry.models.trash import Trashed
from registry.models.upload import Upload
from registry.models.usage import Usage, UsageSample
from registry.models.webhook import Delivery, Webhook

__all__ = [
    "Blob",
    "Delivery",
    "Label",
    "Lease",
    "Manifest",
    "ManifestBlob",
    "ManifestChild",
    "Mirror",
    "MirroredTag",
    "Namespace",
    "Policy",
    "Proxied",
    "Proxy",
    "Quota",
    "ReactionCursor",
    "ReadOnly",
    "RefreshToken",
    "Repository",
    "RepositoryBlob",
    "Robot",
    "Setting",
    "SigningKey",
    "Tag",
    "TagChange",
    "Trashed",
    "Upload",
    "Usage",
    "UsageSample",
    "Webhook",
]
