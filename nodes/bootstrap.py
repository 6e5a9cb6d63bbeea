"""What the launcher asks of the fleet, by name, before anybody has signed in."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from agent.protocol.errors import Unavailable
from controlplane.api.actor import SYSTEM
from controlplane.api.ids import new_id
from controlplane.cli.context import Context
from controlplane.cli.session import Failure
from controlplane.pki.cluster import bundle_pem
from controlplane.users.actions import create_token, revoke_token
from controlplane.users.models import User
from nodes.actions import create_join_token
from nodes.cli import welcome as first_service

LIFETIME = timedelta(minutes=10)


class WelcomeFailed(Unavailable):
    """The first service could not be made, or does not run yet; the detail says why."""

    code = "welcome_failed"


def local_node_token() -> str:
    """A join token for the agent on this very host: one use, ten minutes. The launcher runs as the user who owns the home."""
    _, text = create_join_token(SYSTEM, name="the local node", lifetime=LIFETIME)
    return text


def welcome(server: str) -> int | None:
    """The port of the service `welcome`, made on the first start of this home; None when it was removed since.

    `server` is this control plane's own address. All goes through REST and registry, with a token of the first administrator that
    lives as long as this call. Raises WelcomeFailed.
    """
    admin = User.objects.filter(is_admin=True, is_active=True).order_by("created_at").first()
    if admin is None:
        return None
    token, text = create_token(SYSTEM, admin, f"welcome {new_id()}", None, timezone.now() + timedelta(minutes=15))
    try:
        session = first_service.Given(Context(server, bundle_pem(), text, admin.username))
        return first_service.welcome(session, settings.HOME / "welcome.made")
    except Failure as failure:
        raise WelcomeFailed(failure.sentence) from None
    finally:
        revoke_token(SYSTEM, token)
