"""Every write on people: one function, one transaction, one event."""

from controlplane.users.actions.accounts import create_user, delete_user, ensure_admin, set_password, update_user
from controlplane.users.actions.organisations import (
    add_member,
    add_team_member,
    create_organisation,
    create_team,
    delete_organisation,
    delete_team,
    remove_member,
    remove_team_member,
    update_organisation,
    update_team,
)
from controlplane.users.actions.signing_in import end_session, login, logout
from controlplane.users.actions.tokens import create_token, revoke_token
from controlplane.users.credentials import authenticate_basic, authenticate_bearer

__all__ = [
    "add_member",
    "add_team_member",
    "authenticate_basic",
    "authenticate_bearer",
    "create_organisation",
    "create_team",
    "create_token",
    "create_user",
    "delete_organisation",
    "delete_team",
    "delete_user",
    "end_session",
    "ensure_admin",
    "login",
    "logout",
    "remove_member",
    "remove_team_member",
    "revoke_token",
    "set_password",
    "update_organisation",
    "update_team",
    "update_user",
]
