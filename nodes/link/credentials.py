"""A web process's own certificate: what it shows to the node port of another web process."""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from django.conf import settings

from controlplane import pki
from controlplane.pki import certificates


@dataclass(frozen=True, slots=True)
class Credentials:
    """A TLS client context, and the fingerprint (sha256 of the DER, hex) that stands in the process's row."""

    context: ssl.SSLContext
    fingerprint: str


def issue(web_id: str) -> Credentials:
    """A fresh key and a certificate for it, of the nodes' root. It grants nothing by itself: the row of the process does."""
    key = certificates.new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    certificate, fingerprint, _ = pki.sign_node_csr(certificates.pem_csr(request), f"web-{web_id}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=pki.bundle_pem("node"))
    # OpenSSL takes a key from a file only; this one is mode 0600 and gone when the context has read it.
    with tempfile.NamedTemporaryFile(dir=settings.PKI_DIR, prefix="web-") as file:
        file.write(certificates.pem_key(key).encode() + certificate.encode())
        file.flush()
        context.load_cert_chain(file.name)
    return Credentials(context, fingerprint)
