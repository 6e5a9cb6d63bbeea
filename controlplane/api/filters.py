"""List filters: a subclass names the fields that may be filtered by, which is the whole allow-list."""

from django_filters import rest_framework as filters


class Filters(filters.FilterSet):  # type: ignore[misc]  # django-filter is published without types
    """Base of all filter sets."""
