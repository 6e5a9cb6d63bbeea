from controlplane.api.routers import Routes
from registry.api.repositories import Repositories
from registry.api.webhooks import Webhooks

routes = Routes()
routes.register("repositories", Repositories)
routes.register("webhooks", Webhooks)

urlpatterns = routes.urls
