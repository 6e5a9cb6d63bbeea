"""A guest with jobs whose effects can be counted."""
