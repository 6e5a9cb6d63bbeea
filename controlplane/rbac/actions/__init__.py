"""Every write on collections, roles and grants: one function, one transaction, one event."""

from controlplane.rbac.actions.grants import create_grant, delete_grant
from controlplane.rbac.actions.roles import create_role, delete_role, update_role
from controlplane.rbac.actions.tree import create_collection, delete_collection, rename_collection

__all__ = [
    "create_collection",
    "create_grant",
    "create_role",
    "delete_collection",
    "delete_grant",
    "delete_role",
    "rename_collection",
    "update_role",
]
