from django.apps import AppConfig
from django.db.models.signals import post_migrate


class RbacConfig(AppConfig):
    name = "controlplane.rbac"
    label = "rbac"

    def ready(self) -> None:
        from controlplane.rbac import operations, seed

        operations.register_all()
        post_migrate.connect(seed.after_migrate, sender=self)
