from django.urls import path

from controlplane.events.api import Events, Verify

urlpatterns = [path("events", Events.as_view()), path("events/verify", Verify.as_view())]
