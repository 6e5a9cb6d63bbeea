"""Operations on the cluster's certificate authority."""

from controlplane.api.access import register

OPERATIONS = {"Authority": ["View", "Rotate"]}


def register_all() -> None:
    register("Authority", "pki.Authority", OPERATIONS["Authority"], collection="", admin_only=True)
