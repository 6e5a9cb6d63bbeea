from django.apps import AppConfig
from django.db.models.signals import post_migrate


class RegistryConfig(AppConfig):
    name = "registry"
    label = "registry"

    def ready(self) -> None:
        from registry import operations, seed

        operations.register_all()
        post_migrate.connect(seed.after_migrate, sender=self)
