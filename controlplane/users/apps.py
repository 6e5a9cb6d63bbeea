from django.apps import AppConfig
from django.db.models.signals import post_migrate


class UsersConfig(AppConfig):
    name = "controlplane.users"
    label = "users"

    def ready(self) -> None:
        from controlplane.users import operations, seed

        operations.register_all()
        post_migrate.connect(seed.after_migrate, sender=self)
