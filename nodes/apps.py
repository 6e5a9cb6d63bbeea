from django.apps import AppConfig


class NodesConfig(AppConfig):
    name = "nodes"
    label = "nodes"

    def ready(self) -> None:
        from nodes import operations

        operations.register_all()
