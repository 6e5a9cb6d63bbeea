from django.urls import path, register_converter
from django.urls.converters import StringConverter

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


class Word(StringConverter):
    """A name, a tag or a digest, right or wrong: PostgreSQL takes no NUL."""

    regex = "[!-.0-~]+"


register_converter(Word, "word")

routes = Routes()
routes.register("repositories", Repositories)
routes.register("robots", Robots)
routes.register("webhooks", Webhooks)
routes.register("mirrors", Mirrors)
routes.register("policies", Policies)
routes.register("deleted-repositories", DeletedRepositories, basename="deleted-repository")
routes.register("proxies", Proxies)

urlpatterns = [
    path("repositories/<slug:pk>/access", Access.as_view()),
    path("repositories/<slug:pk>/access/explain", Explain.as_view()),
    path("repositories/<slug:pk>/access/<slug:grant>", Withdraw.as_view()),
    path("repositories/<slug:pk>/activity", Activity.as_view()),
    path("repositories/<slug:pk>/compare", Compare.as_view()),
    path("repositories/<slug:pk>/running/<word:target>", Running.as_view()),
    path("repositories/<slug:pk>/promotions", Promotions.as_view()),
    path("repositories/<slug:pk>/states", States.as_view()),
    path("repositories/<slug:pk>/tags/<word:tag>/restore", RestoreTag.as_view()),
    path("repositories/<slug:pk>/trash", Trash.as_view()),
    path("repositories/<slug:pk>/trash/restore", RestoreManifest.as_view()),
    path("quotas", Quotas.as_view()),
    path("quotas/<word:namespace>", OneQuota.as_view()),
    path("registry/read-only", Switch.as_view()),
    path("registry/usage", UsageRows.as_view()),
    path("registry/settings", Switches.as_view()),
    *routes.urls,
]
