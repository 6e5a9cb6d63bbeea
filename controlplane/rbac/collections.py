"""The tree's fixed places and how a path is found."""

from __future__ import annotations

from agent.protocol.errors import InvalidInput, NotFound
from controlplane.rbac.models import Collection
from controlplane.users.models import User

ROOT = "/"
SYSTEM = "/System/"
SHARED = "/Shared/"
PRIVATE = "/Shared/Private/"
_FIXED = (ROOT, SYSTEM, SHARED, PRIVATE)
MAX_DEPTH = 32


def ensure_system_tree() -> None:
    """Makes the four fixed collections where they are missing."""
    parent: dict[str, Collection] = {}
    for path in _FIXED:
        above, name = split(path)
        parent[path], _ = Collection.objects.get_or_create(
            path=path, defaults={"name": name, "parent": parent.get(above) if path != ROOT else None, "system": True}
        )


def split(path: str) -> tuple[str, str]:
    """("/Shared/Private/") -> ("/Shared/", "Private"); the root gives ("", "")."""
    if path == ROOT:
        return "", ""
    above, name = path.rstrip("/").rsplit("/", 1)
    return above + "/", name


def ancestors(path: str) -> list[str]:
    """All paths from the root down to and with `path`: ("/a/b/") -> ["/", "/a/", "/a/b/"]."""
    result = [ROOT]
    for segment in path.strip("/").split("/"):
        if segment:
            result.append(f"{result[-1]}{segment}/")
    return result


def normalise(path: str) -> str:
    """A path as stored: absolute, one slash between segments, a slash at the end. Raises InvalidInput."""
    if not path.startswith("/"):
        raise InvalidInput(f"A collection's path begins with a slash: {path!r}.")
    segments = [segment for segment in path.split("/") if segment]
    if len(segments) > MAX_DEPTH or any(segment in {".", ".."} for segment in segments):
        raise InvalidInput(f"{path!r} is no collection path: at most {MAX_DEPTH} levels, no dots.")
    return "/" + "".join(f"{segment}/" for segment in segments)


def resolve(path: str) -> Collection:
    """The collection at `path`, ignoring case. Raises NotFound; never creates one."""
    try:
        return Collection.objects.get(path__iexact=normalise(path))
    except Collection.DoesNotExist:
        raise NotFound(
            f"There is no collection {path}. An administrator can create it; nothing is created by naming it."
        ) from None


def root() -> Collection:
    return Collection.objects.get(path=ROOT)


def system() -> Collection:
    return Collection.objects.get(path=SYSTEM)


def shared() -> Collection:
    return Collection.objects.get(path=SHARED)


def private_of(user: User) -> Collection:
    """The user's own collection; made when the user is, and again here when it was lost."""
    collection, _ = Collection.objects.get_or_create(
        path=f"{PRIVATE}{user.username}/",
        defaults={"name": user.username, "parent": Collection.objects.get(path=PRIVATE), "system": True},
    )
    return collection
