from django.apps import AppConfig


class PkiConfig(AppConfig):
    name = "controlplane.pki"
    label = "pki"

    def ready(self) -> None:
        from controlplane.pki import operations

        operations.register_all()
