"""Rows that must always be there: made again after each migrate, so an emptied table heals itself."""

from __future__ import annotations

from typing import Any


def after_migrate(**kwargs: Any) -> None:
    """Makes the organisation that everybody is in."""
    from controlplane.users.models import EVERYONE, Organisation

    Organisation.objects.using(kwargs.get("using", "default")).get_or_create(
        name=EVERYONE, defaults={"full_name": "Everybody with an account", "everyone": True}
    )
