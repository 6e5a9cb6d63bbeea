"""The people of our tests: one of each relation to a thing, so that every endpoint can be asked by every kind of caller.

admin      an administrator
alice      owner of the organisation "harbour"
bob        member of its team "crane"
charlie    a stranger: an account, no organisation
"""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.api.actor import SYSTEM, Actor, actor_of_user
from controlplane.users import actions
from controlplane.users.models import Organisation, Team, User

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Cast:
    admin: User
    alice: User
    bob: User
    charlie: User
    harbour: Organisation
    crane: Team

    def actor(self, name: str) -> Actor:
        """The Actor of "admin", "alice", "bob", "charlie" or "anonymous"."""
        return Actor("anonymous", "", "anonymous") if name == "anonymous" else actor_of_user(getattr(self, name))


def cast() -> Cast:
    """Makes everybody, through the actions that the product uses."""
    admin = actions.create_user(SYSTEM, "admin", PASSWORD, is_admin=True)
    alice, bob, charlie = (actions.create_user(SYSTEM, name, PASSWORD) for name in ("alice", "bob", "charlie"))
    harbour = actions.create_organisation(SYSTEM, "harbour", owner=alice)
    actions.add_member(SYSTEM, harbour, bob)
    crane = actions.create_team(SYSTEM, harbour, "crane")
    actions.add_team_member(SYSTEM, crane, bob)
    return Cast(admin, alice, bob, charlie, harbour, crane)
