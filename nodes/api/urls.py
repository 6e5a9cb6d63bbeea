from django.urls import path

from controlplane.api.routers import Routes
from nodes.api.cluster import Brake
from nodes.api.containers import Actions, Containers
from nodes.api.nodes import Join, JoinTokens, Nodes
from nodes.api.streams import Streams
from nodes.api.workloads import Services, Tasks

routes = Routes()
routes.register("nodes", Nodes)
routes.register("join-tokens", JoinTokens)
routes.register("services", Services)
routes.register("tasks", Tasks)
routes.register("containers", Containers)
routes.register("actions", Actions)

urlpatterns = [
    path("nodes/join", Join.as_view()),
    path("cluster/brake", Brake.as_view()),
    path("streams", Streams.as_view()),
    *routes.urls,
]
