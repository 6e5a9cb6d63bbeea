"""Users, teams and organisations by the names that people write: "alice", "acme/web", "acme"."""

from __future__ import annotations

from agent.protocol.errors import InvalidInput, NotFound
from controlplane.users.models import Organisation, Team, User

SUBJECTS = ("user", "team", "org")


def subject(kind: str, name: str) -> User | Team | Organisation:
    """Raises InvalidInput, NotFound."""
    if kind not in SUBJECTS:
        raise InvalidInput(f"a right is given to one of {', '.join(SUBJECTS)}, not to {kind!r}", field="kind")
    found: User | Team | Organisation | None
    if kind == "user":
        found = User.objects.filter(username=name.lower()).first()
    elif kind == "team":
        organisation, _, team = name.partition("/")
        found = Team.objects.select_related("organisation").filter(organisation__name=organisation, name=team).first()
    else:
        found = Organisation.objects.filter(name=name).first()
    if found is None:
        hint = "; a team is written organisation/team" if kind == "team" else ""
        raise NotFound(f"there is no {kind} {name!r}{hint}")
    return found
