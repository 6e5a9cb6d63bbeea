"""The cluster's certificate authority: two roots that never trust each other's leaves, and what they issue."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from controlplane.pki.cluster import CA, Issued
    from controlplane.pki.cluster import authority as authority
    from controlplane.pki.cluster import bundle_digest as bundle_digest
    from controlplane.pki.cluster import bundle_pem as bundle_pem
    from controlplane.pki.cluster import issue_server as issue_server
    from controlplane.pki.cluster import sign_node_csr as sign_node_csr

__all__ = ["CA", "Issued", "authority", "bundle_digest", "bundle_pem", "issue_server", "sign_node_csr"]


def __getattr__(name: str) -> Any:
    """The public functions, imported at first use: models need the app registry, which imports this package first."""
    if name not in __all__:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module("controlplane.pki.cluster"), name)
