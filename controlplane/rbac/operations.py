"""Operations on the tree, the roles and the grants: administrators only, but everybody sees the folders they may enter."""

from controlplane.api.access import register

OPERATIONS = {
    "Collection": ["View", "Create", "Update", "Delete"],
    "Role": ["View", "Create", "Update", "Delete"],
    "Grant": ["View", "Create", "Delete"],
    "Access": ["View", "Explain Others"],
}


def register_all() -> None:
    register("Collection", "rbac.Collection", OPERATIONS["Collection"], collection="@path")
    register("Role", "rbac.Role", OPERATIONS["Role"], collection="", admin_only=True)
    register("Grant", "rbac.Grant", OPERATIONS["Grant"], admin_only=True)
    register("Access", "", OPERATIONS["Access"], collection="", admin_only=True)
