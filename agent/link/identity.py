"""Who this node is: its key, certificate and the cluster it belongs to, under `<home>/identity/`.

The key is made here and never leaves the node; the control plane sees a CSR. All files are mode 0600.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.protocol.errors import Conflict, NotFound
from agent.sys.files import write_durable


class NotJoined(NotFound):
    code = "not_joined"


class AlreadyJoined(Conflict):
    code = "already_joined"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the control plane is. `links` are host:port of node ports, tried in order from a random start."""

    node_id: str
    links: tuple[str, ...]
    server_name: str  # the name that the node port's certificate carries


class Identity:
    """Files of `<home>/identity/`: cluster.json, node.pem (key and certificate), ca.pem."""

    def __init__(self, home: Path) -> None:
        self._dir = home / "identity"

    @property
    def joined(self) -> bool:
        return (self._dir / "cluster.json").exists()

    @property
    def ca_path(self) -> Path:
        return self._dir / "ca.pem"

    def cluster(self) -> Cluster:
        """Raises `NotJoined` when this node belongs to no cluster."""
        try:
            data = json.loads((self._dir / "cluster.json").read_text())
        except FileNotFoundError:
            raise NotJoined(
                "this node has not joined a cluster: run `wharf-agent join` with a token from `wharf node token`"
            ) from None
        return Cluster(data["node_id"], tuple(data["links"]), data["server_name"])

    def save(self, cluster: Cluster, key_pem: bytes, certificate_pem: str, ca_pem: str) -> None:
        """Store a fresh membership; cluster.json last, so that a crash leaves the node unjoined rather than half joined."""
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durable(self._dir / "ca.pem", ca_pem.encode())
        self.replace_certificate(key_pem, certificate_pem)
        write_durable(self._dir / "cluster.json", json.dumps(asdict(cluster)).encode())

    def replace_certificate(self, key_pem: bytes, certificate_pem: str) -> None:
        """Key and certificate are one file, so that a crash cannot pair a new key with an old certificate."""
        write_durable(self._dir / "node.pem", key_pem + certificate_pem.encode())

    def replace_roots(self, ca_pem: str) -> None:
        write_durable(self._dir / "ca.pem", ca_pem.encode())

    def forget(self) -> None:
        for name in ("cluster.json", "node.pem", "ca.pem"):
            (self._dir / name).unlink(missing_ok=True)

    def certificate(self) -> x509.Certificate:
        # node.pem holds the key first; the loader wants the certificate alone.
        _, marker, rest = (self._dir / "node.pem").read_bytes().partition(b"-----BEGIN CERTIFICATE-----")
        return x509.load_pem_x509_certificate(marker + rest)

    def ssl_context(self) -> ssl.SSLContext:
        """TLS 1.3 client context: trusts the cluster's roots alone and presents the node's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self._dir / "ca.pem")
        context.load_cert_chain(self._dir / "node.pem")
        return context

    def renewal_due(self, fraction: float) -> datetime:
        """The moment at `fraction` of the certificate's life (0.5-0.8, drawn once by the caller)."""
        certificate = self.certificate()
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return start + (end - start) * fraction


def new_key_and_csr(common_name: str) -> tuple[bytes, str]:
    """A P-256 key (PEM, PKCS#8) and a CSR for it. The control plane ignores the CSR's subject."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64] or "node")]))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, csr.public_bytes(serialization.Encoding.PEM).decode()
