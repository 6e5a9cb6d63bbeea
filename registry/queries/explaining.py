"""Why somebody may or may not do each operation in one repository: a user, a robot, whoever is in a team or an organisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.protocol.errors import InvalidInput, NotFound
from controlplane import rbac
from controlplane.api.access import Decision, catalogue
from controlplane.api.actor import actor_of_user
from controlplane.rbac import rights
from controlplane.rbac.builtin import REPOSITORY_READ
from controlplane.rbac.engine import held_through
from controlplane.rbac.rights import Held
from controlplane.users.models import Organisation, Team, User
from registry.models import Repository, Robot
from registry.queries import robots
from registry.queries.sharing import names_of
from registry.queries.subjects import SUBJECTS, subject

KINDS = (*SUBJECTS, "robot")


@dataclass(frozen=True, slots=True)
class Answer:
    """One operation for one subject."""

    operation: str
    allowed: bool
    reason: str


def explained(repository: Repository, kind: str, name: str) -> list[Answer]:
    """Every operation on the repository, as it is decided for the subject. `kind` is one of KINDS.

    A team is whoever is in it and nothing else: grants to it, its organisation and everyone, and what is public.
    Raises InvalidInput, NotFound.
    """
    if kind not in KINDS:
        raise InvalidInput(f"explained is one of {', '.join(KINDS)}, not {kind!r}", field="kind")
    answer = _of_robot(repository, name) if kind == "robot" else _of_subject(repository, subject(kind, name))
    return [answer(f"Repository {verb}") for verb in catalogue()["Repository"].operations if verb != "Create"]


def _of_subject(repository: Repository, row: User | Team | Organisation) -> Callable[[str], Answer]:
    if isinstance(row, Team):
        return _of_members(repository, f"team {row.organisation.name}/{row.name}", held_through(row.organisation_id, row.pk))
    if isinstance(row, Organisation):
        return _of_members(repository, f"organisation {row.name}", held_through(row.pk))
    actor = actor_of_user(row)

    def answer(operation: str) -> Answer:
        decision = rbac.explain(actor, operation, repository)
        return Answer(operation, decision.allowed, f"{decision.reason} {decision.hint}{_through(row, decision)}".strip())

    return answer


def _through(user: User, decision: Decision) -> str:
    """By which team or organisation the user has it; "" for a grant of their own."""
    if not (decision.allowed and decision.grants):
        return ""
    kind, _, key = decision.grants[0]["subject"].partition("/")
    return "" if kind == "user" else f"{user.username} is one of the {kind} {names_of({key}).get(key, key)}."


def _of_members(repository: Repository, who: str, held: list[Held]) -> Callable[[str], Answer]:
    path = repository.collection.path
    names = names_of({grant.subject.partition("/")[2] for grant in held})

    def answer(operation: str) -> Answer:
        verb = operation.removeprefix("Repository ")
        verdict = rights.judge(held, "Repository", verb, path)
        if verdict.allowed:
            kind, _, key = verdict.deciding[0].subject.partition("/")
            role, where = verdict.deciding[0].role, verdict.deciding[0].path
            return Answer(operation, True, f"Granted to the {kind} {names.get(key, key)} by the role {role} on {where}.")
        if repository.is_public and verb in REPOSITORY_READ:
            return Answer(operation, True, "The repository is public.")
        hint = f"A grant of a role with {operation} on {path} or a collection above it would allow it."
        return Answer(operation, False, f"The {who} lacks {operation} here; some of its members may hold it otherwise. {hint}")

    return answer


def _of_robot(repository: Repository, name: str) -> Callable[[str], Answer]:
    """Of the repository's namespace or of the whole registry: others are none of its business."""
    near = Robot.objects.filter(full_name=name.lower())
    row = (near.filter(namespace=repository.namespace_id) | near.filter(namespace=None)).first()
    if row is None:
        raise NotFound(f"there is no robot {name!r} of the namespace {repository.namespace.name} or of the whole registry")
    actor = robots.actor(row)

    def answer(operation: str) -> Answer:
        if not row.usable:
            return Answer(operation, False, f"The robot is {'disabled' if row.disabled else 'expired'}: nobody logs in as it.")
        gives = [action for action, given in robots.ACTIONS.items() if operation in given]
        if rbac.explain(actor, operation, repository).allowed:
            mine = next((action for action in gives if robots.may(row, action, repository.full_name)), "")
            return Answer(operation, True, f"Its right to {mine} here." if mine else "The repository is public.")
        hint = f"a right to {' or '.join(gives)} here would" if gives else "a robot's rights are never that wide"
        said = f"None of its rights gives it here ({robots.text_of(row.rights)}); {hint}."
        return Answer(operation, False, said)

    return answer
