from django.urls import path

from controlplane.api.documents import Health, SchemaDocument

urlpatterns = [path("schema", SchemaDocument.as_view()), path("health", Health.as_view())]
