"""Every route: the REST interface of the ground and of the guests under /api/v1/, and the console at the root."""

from __future__ import annotations

from typing import Any

from django.urls import include, path

from controlplane.api import guests
from controlplane.api.problems import not_found

api_v1: list[Any] = []
for _name in ("controlplane.api.urls", "controlplane.users.urls", "controlplane.rbac.urls", "controlplane.events.urls",
              "controlplane.pki.urls", "controlplane.jobs.api.urls", "controlplane.jobs.urls"):  # fmt: skip
    _module = guests.optional(_name)
    if _module is not None:
        api_v1 += _module.urlpatterns
for _module in guests.modules("api.urls"):
    api_v1 += _module.urlpatterns

urlpatterns: list[Any] = [path("api/v1/", include(api_v1)), path("api/<path:rest>", not_found)]
for _name in ("controlplane.console.urls",):
    _module = guests.optional(_name)
    if _module is not None:
        urlpatterns += _module.urlpatterns
for _module in guests.modules("console.urls"):
    urlpatterns += _module.urlpatterns

handler400 = "controlplane.api.problems.handler400"
handler403 = "controlplane.api.problems.handler403"
handler404 = "controlplane.api.problems.handler404"
handler500 = "controlplane.api.problems.handler500"
