from controlplane.api.routers import Routes
from registry.api.repositories import Repositories

routes = Routes()
routes.register("repositories", Repositories)

urlpatterns = routes.urls
