from controlplane.api.routers import Routes
from registry.api.mirrors import Mirrors
from registry.api.proxies import Proxies
from registry.api.repositories import Repositories
from registry.api.webhooks import Webhooks

routes = Routes()
routes.register("repositories", Repositories)
routes.register("webhooks", Webhooks)
routes.register("mirrors", Mirrors)
routes.register("proxies", Proxies)

urlpatterns = routes.urls
