from django.urls import path

from controlplane.api.routers import Routes
from controlplane.rbac.api.routes import Collections, Explain, Grants, Operations, Roles

routes = Routes()
routes.register("collections", Collections)
routes.register("roles", Roles)
routes.register("grants", Grants)

urlpatterns = [
    path("operations", Operations.as_view()),
    path("access/explain", Explain.as_view()),
    *routes.urls,
]
