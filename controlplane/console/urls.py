"""The console's own pages."""

from __future__ import annotations

from django.urls import path

from controlplane.console.views.activity import Events, JobDetail, Jobs
from controlplane.console.views.overview import Overview, Search
from controlplane.console.views.people import Tokens, Users
from controlplane.console.views.session import Icon, Login, Logout

urlpatterns = [
    path("", Overview.as_view(), name="overview"),
    path("favicon.ico", Icon.as_view(), name="favicon"),
    path("login", Login.as_view(), name="login"),
    path("logout", Logout.as_view(), name="logout"),
    path("search", Search.as_view(), name="search"),
    path("users", Users.as_view(), name="users"),
    path("tokens", Tokens.as_view(), name="tokens"),
    path("jobs", Jobs.as_view(), name="jobs"),
    path("jobs/<slug:pk>", JobDetail.as_view(), name="job"),
    path("events", Events.as_view(), name="events"),
]
