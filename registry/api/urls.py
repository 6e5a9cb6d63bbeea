from controlplane.api.routers import Routes
from registry.api.mirrors import Mirrors
from registry.api.repositories import Repositories
from registry.api.webhooks import Webhooks

routes = Routes()
routes.register("repositories", Repositories)
routes.register("webhooks", Webhooks)
routes.register("mirrors", Mirrors)

urlpatterns = routes.urls
