from django.urls import path

from controlplane.api.routers import Routes
from registry.api.access import Access, Explain, Withdraw
from registry.api.activity import Activity
from registry.api.comparison import Compare, Running
from registry.api.mirrors import Mirrors
from registry.api.policies import Policies
from registry.api.promotions import Promotions
from registry.api.proxies import Proxies
from registry.api.quotas import OneQuota, Quotas
from registry.api.readonly import Switch
from registry.api.registry import Switches, UsageRows
from registry.api.repositories import Repositories
from registry.api.robots import Robots
from registry.api.undo import DeletedRepositories, RestoreManifest, RestoreTag, States, Trash
from registry.api.webhooks import Webhooks

routes = Routes()
routes.register("repositories", Repositories)
routes.register("robots", Robots)
routes.register("webhooks", Webhooks)
routes.register("mirrors", Mirrors)
routes.register("policies", Policies)
routes.register("deleted-repositories", DeletedRepositories, basename="deleted-repository")
routes.register("proxies", Proxies)

urlpatterns = [
    path("repositories/<str:pk>/access", Access.as_view()),
    path("repositories/<str:pk>/access/explain", Explain.as_view()),
    path("repositories/<str:pk>/access/<str:grant>", Withdraw.as_view()),
    path("repositories/<str:pk>/activity", Activity.as_view()),
    path("repositories/<str:pk>/compare", Compare.as_view()),
    path("repositories/<str:pk>/running/<str:target>", Running.as_view()),
    path("repositories/<str:pk>/promotions", Promotions.as_view()),
    path("repositories/<str:pk>/states", States.as_view()),
    path("repositories/<str:pk>/tags/<str:tag>/restore", RestoreTag.as_view()),
    path("repositories/<str:pk>/trash", Trash.as_view()),
    path("repositories/<str:pk>/trash/restore", RestoreManifest.as_view()),
    path("quotas", Quotas.as_view()),
    path("quotas/<str:namespace>", OneQuota.as_view()),
    path("registry/read-only", Switch.as_view()),
    path("registry/usage", UsageRows.as_view()),
    path("registry/settings", Switches.as_view()),
    *routes.urls,
]
