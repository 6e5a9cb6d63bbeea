from django.urls import path

from controlplane.api.routers import Routes
from registry.api.access import Access, Explain, Withdraw
from registry.api.activity import Activity
from registry.api.comparison import Compare, Running
from registry.api.registry import Switches, UsageRows
from registry.api.repositories import Repositories
from registry.api.robots import Robots

routes = Routes()
routes.register("repositories", Repositories)
routes.register("robots", Robots)

urlpatterns = [
    path("repositories/<str:pk>/access", Access.as_view()),
    path("repositories/<str:pk>/access/explain", Explain.as_view()),
    path("repositories/<str:pk>/access/<str:grant>", Withdraw.as_view()),
    path("repositories/<str:pk>/activity", Activity.as_view()),
    path("repositories/<str:pk>/compare", Compare.as_view()),
    path("repositories/<str:pk>/running/<str:target>", Running.as_view()),
    path("registry/usage", UsageRows.as_view()),
    path("registry/settings", Switches.as_view()),
    *routes.urls,
]
