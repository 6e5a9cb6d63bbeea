"""Joining a cluster: no trust on first use.

The token carries the digest of the cluster's roots. The roots are fetched without verification, compared with that digest, and
only then is the token's secret sent, over TLS verified by those very roots (or, where the API port has a certificate of its own,
by the system's).
"""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.link.host import host_name
from agent.link.identity import AlreadyJoined, Cluster, Identity, NotJoined, new_key_and_csr
from agent.protocol.errors import Denied, InvalidInput, RemoteError, Unavailable

PREFIX = "WHARF-1"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
TIMEOUT = 20.0


class BadToken(InvalidInput):
    code = "bad_join_token"


class WrongCluster(Denied):
    code = "wrong_cluster"


class ServerUnreachable(Unavailable):
    code = "server_unreachable"


def join(identity: Identity, server: str, token: str) -> str:
    """Become a node of the cluster that `server` (host:port) and `token` name; the node id.

    Raises `AlreadyJoined`, `BadToken`, `WrongCluster` (the roots are not the token's: a wrong address, or somebody in between),
    `ServerUnreachable`, and the control plane's own refusal.
    """
    if identity.joined:
        raise AlreadyJoined(f"this host is node {identity.cluster().node_id} already: run `wharf-agent leave` first")
    digest = pinned_digest(token)
    base = server if server.startswith("https://") else f"https://{server}"
    roots = _fetch_roots(base, digest)
    key, csr = new_key_and_csr(host_name())
    body = {"token": token.strip(), "csr": csr, "hostname": host_name()}
    answer = _post(f"{base}/api/v1/nodes/join", body, roots)
    identity.save(
        Cluster(answer["node_id"], tuple(answer["links"]), answer["server_name"]), key, answer["certificate"], answer["ca"]
    )
    return str(answer["node_id"])


def leave(identity: Identity) -> None:
    """Forget the cluster; the control plane learns of it by `wharf node rm`. Raises `NotJoined`."""
    if not identity.joined:
        raise NotJoined("this node belongs to no cluster")
    identity.forget()


def pinned_digest(token: str) -> str:
    """The roots' sha256 (hex) that `token` carries. Raises `BadToken`."""
    head, _, _secret = token.strip().rpartition("-")
    prefix, _, digest = head.rpartition("-")
    if prefix != PREFIX or not digest or any(char not in DIGITS for char in digest):
        raise BadToken("this is no join token: copy the whole line that `wharf node token` printed")
    return f"{int(digest, 36):064x}"


def roots_digest(pem: str) -> str:
    """sha256 (hex) over the concatenated DER of the certificates, in their order."""
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise WrongCluster(f"what the server calls its roots is no certificate: {error}") from error
    return hashlib.sha256(b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates)).hexdigest()


def _fetch_roots(base: str, digest: str) -> str:
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE  # nothing is believed yet: the answer is judged by the token's digest
    answer = _request("GET", f"{base}/api/v1/pki/ca", unverified, None)
    pem = str(answer.get("bundle", ""))
    if roots_digest(pem) != digest:
        raise WrongCluster(
            "the server's roots are not those that the token names: check the address, and that nobody sits in between"
        )
    return pem


def _post(url: str, body: dict[str, Any], roots: str) -> dict[str, Any]:
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=roots)
    return _request("POST", url, context, body)


def _request(method: str, url: str, context: ssl.SSLContext, body: dict[str, Any] | None) -> dict[str, Any]:
    try:
        with httpx.Client(verify=context, timeout=TIMEOUT, trust_env=False) as client:
            response = client.request(method, url, json=body)
    except httpx.HTTPError as error:
        raise ServerUnreachable(f"cannot reach {url}: {error}") from error
    try:
        answer = response.json()
    except ValueError as error:
        raise ServerUnreachable(f"{url} answered {response.status_code} without JSON: is this a Wharfinger server?") from error
    if response.is_error:
        raise RemoteError(answer if isinstance(answer, dict) else {"status": response.status_code})
    return dict(answer)
