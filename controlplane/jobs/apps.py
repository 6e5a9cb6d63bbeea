from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "controlplane.jobs"
    label = "jobs"

    def ready(self) -> None:
        from controlplane.jobs import builtin, operations
        from controlplane.jobs.declare import adopt, discover

        operations.register_all()
        adopt(builtin.SCHEDULES)
        discover()
