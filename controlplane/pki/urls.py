from django.urls import path

from controlplane.pki.api import Bundle

urlpatterns = [path("pki/ca", Bundle.as_view())]
