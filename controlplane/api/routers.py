"""The router of all REST routes: no trailing slash, no format suffixes, no root view."""

from __future__ import annotations

from rest_framework.routers import SimpleRouter


class Routes(SimpleRouter):
    """`routes = Routes(); routes.register("services", Services); urlpatterns = routes.urls`."""

    def __init__(self) -> None:
        super().__init__(trailing_slash=False)
