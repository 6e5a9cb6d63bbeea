from django.apps import AppConfig
from django.db.models.signals import post_migrate


class RegistryConfig(AppConfig):
    name = "registry"
    label = "registry"

    def ready(self) -> None:
        from controlplane import events
        from registry import operations, seed
        from registry.actions import reactions

        operations.register_all()
        reactions.load()
        events.observe(reactions.notice)
        post_migrate.connect(seed.after_migrate, sender=self)
