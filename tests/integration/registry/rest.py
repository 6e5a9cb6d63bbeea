"""People who use the REST interface, with Django's client."""

from __future__ import annotations

from typing import Any

from django.test import Client

from controlplane.api.actor import actor_of_user
from controlplane.users import actions as users
from controlplane.users.models import User

PASSWORD = "correct-horse-battery"


class Caller:
    """One person with a token; without a user, somebody without an account."""

    def __init__(self, user: User | None = None) -> None:
        self.client = Client()
        if user is not None:
            self.user, self.actor = user, actor_of_user(user)
            _, secret = users.create_token(self.actor, user, "test")
            self.client = Client(headers={"Authorization": f"Bearer {secret}"})

    def call(self, method: str, path: str, body: Any = None, expect: int = 200, **headers: str) -> Any:
        options = {} if body is None else {"data": body, "content_type": "application/json"}
        answer = getattr(self.client, method)(f"/api/v1/{path}", headers=headers, **options)
        assert answer.status_code == expect, answer.content
        self.headers = answer.headers
        return answer.json() if answer.content else None
