from django.urls import path

import controlplane.users.api.auth_schema  # noqa: F401  # registers with the schema generator
from controlplane.api.routers import Routes
from controlplane.users.api.accounts import Me, Users
from controlplane.users.api.organisations import Organisations, Teams
from controlplane.users.api.signing_in import Login, Sessions, Tokens

routes = Routes()
routes.register("users", Users)
routes.register("organisations", Organisations)
routes.register("teams", Teams)
routes.register("tokens", Tokens)
routes.register("sessions", Sessions)

urlpatterns = [path("login", Login.as_view()), path("me", Me.as_view()), *routes.urls]
