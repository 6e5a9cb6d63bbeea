from django.urls import path

from controlplane.api.routers import Routes
from controlplane.jobs.api.views import JobKinds, Jobs, Schedules, Workers

routes = Routes()
routes.register("jobs", Jobs)
routes.register("schedules", Schedules)
routes.register("workers", Workers)

urlpatterns = [path("job-kinds", JobKinds.as_view()), *routes.urls]
