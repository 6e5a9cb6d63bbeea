"""The fixed part of the tree, the built-in roles and the built-in grant: made again after each migrate."""

from __future__ import annotations

from typing import Any


def after_migrate(**kwargs: Any) -> None:
    """Brings roles up to date with the code's catalogue and fills holes in the tree. Running it twice changes nothing."""
    from django.db import connection, transaction

    from controlplane.rbac import builtin, collections
    from controlplane.rbac.models import Collection, Grant, Role
    from controlplane.users.models import EVERYONE, Organisation

    if Collection._meta.db_table not in connection.introspection.table_names():
        return  # a partial or a backwards migration

    with transaction.atomic():
        collections.ensure_system_tree()
        for name, (description, _) in builtin.ROLES.items():
            operations = builtin.operations(name)
            role, created = Role.objects.get_or_create(
                name=name, defaults={"description": description, "system": True, "operations": operations}
            )
            if not created and (role.operations != operations or role.description != description):
                role.operations, role.description, role.system = operations, description, True
                role.version += 1
                role.save()
        everyone, _ = Organisation.objects.get_or_create(
            name=EVERYONE, defaults={"full_name": "Everybody with an account", "everyone": True}
        )
        shared = collections.shared()
        if not shared.grants_seeded:
            Grant.objects.get_or_create(
                subject_kind="org",
                subject_id=everyone.pk,
                role=Role.objects.get(name="Scheduler"),
                collection=shared,
                defaults={"system": True},
            )
            type(shared).objects.filter(pk=shared.pk).update(grants_seeded=True)
