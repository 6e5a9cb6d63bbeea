"""All cases: importing this package registers them."""

from tests.conformance.distribution.cases import beyond, blobs, lists, manifests

__all__ = ["beyond", "blobs", "lists", "manifests"]
