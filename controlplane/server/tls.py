"""TLS contexts of the listeners, and what the ASGI `tls` extension says of a connection.

Source: https://asgi.readthedocs.io/en/latest/specs/tls.html
"""

from __future__ import annotations

import ssl
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


def server_context(certificate: str, key: str, *, client_roots: str = "", require_client: bool = False) -> ssl.SSLContext:
    """A server context from the files `certificate` (PEM chain) and `key`.

    `client_roots` is PEM text of the CAs of client certificates. Without it no certificate is asked for. With `require_client`
    a handshake without a good one fails.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    if client_roots:
        context.load_verify_locations(cadata=client_roots)
        context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    return context


def extension(connection: ssl.SSLObject, context: ssl.SSLContext, server_certificate: str) -> dict[str, Any]:
    """The `tls` dictionary of one connection.

    A certificate that does not verify fails the handshake, so `client_cert_error` is always None. A resumed session still
    carries its certificate without asking the CA again: whoever authenticates by it must look at the row's state.
    """
    der = connection.getpeercert(binary_form=True)
    certificate = x509.load_der_x509_certificate(der) if der else None
    return {
        "server_cert": server_certificate,
        # Python < 3.13 has no get_verified_chain(): the chain is the leaf alone.
        "client_cert_chain": [certificate.public_bytes(Encoding.PEM).decode()] if certificate else [],
        "client_cert_name": certificate.subject.rfc4514_string() if certificate else None,
        "client_cert_error": None,
        "tls_version": VERSIONS.get(connection.version() or ""),
        "cipher_suite": _cipher_suite(connection, context),
    }


def _cipher_suite(connection: ssl.SSLObject, context: ssl.SSLContext) -> int | None:
    used = connection.cipher()
    if used is None:
        return None
    # OpenSSL's id carries a protocol byte above the 16 bits of the registry of cipher suites.
    return next((int(cipher["id"]) & 0xFFFF for cipher in context.get_ciphers() if cipher["name"] == used[0]), None)
