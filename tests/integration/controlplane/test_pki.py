"""The two roots, and what openssl-minded clients make of their leaves."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from django.conf import settings
from django.utils import timezone

from agent.protocol.errors import Internal, InvalidInput, Unavailable
from controlplane import pki
from controlplane.pki import certificates, cluster, server, vault
from controlplane.pki.models import Authority

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "KEK_FILE", tmp_path / "kek")
    monkeypatch.setattr(settings, "PKI_DIR", tmp_path / "pki")
    return tmp_path


@pytest.fixture
def roots():
    return cluster.ensure_authorities()


def csr(key=None, name="root of all evil", sans=()):
    key = key or certificates.new_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(san) for san in sans]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_roots_are_made_once_and_are_two(roots):
    assert sorted(roots) == ["api", "node"]
    assert cluster.ensure_authorities() == []
    node, api = pki.authority("node"), pki.authority("api")
    assert node.fingerprint != api.fingerprint
    for ca in (node, api):
        assert isinstance(ca.key.curve, ec.SECP256R1)
        assert ca.certificate.not_valid_after_utc - timezone.now() > timedelta(days=19 * 365)
        assert ca.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_before_the_first_start_the_answer_says_what_to_do():
    with pytest.raises(Unavailable, match="first_start"):
        pki.authority("api")


def test_keys_are_sealed_to_their_row_and_to_this_home(roots, home):
    row = Authority.objects.get(purpose="node")
    other = Authority.objects.get(purpose="api")
    assert b"PRIVATE" not in bytes(row.key)
    row.key, other.key = other.key, row.key
    row.save()
    with pytest.raises(Internal):
        pki.authority("node")
    (home / "kek").unlink()
    with pytest.raises(Internal):
        pki.authority("api")


def test_kek_that_others_can_read_stops_everything(roots, home):
    from controlplane.home import UnsafeSecret

    (home / "kek").chmod(0o644)
    with pytest.raises(UnsafeSecret, match="chmod 600"):
        vault.seal(b"x", "y")


def test_node_certificate_proves_the_key_and_nothing_that_the_csr_claims(roots):
    key = certificates.new_key()
    text, fingerprint, not_after = pki.sign_node_csr(csr(key, name="admin", sans=["console.example.org"]), "node-id-1")
    certificate = x509.load_pem_x509_certificate(text.encode())
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "node-id-1"
    assert certificate.public_key() == key.public_key()
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == list(certificates.NODE_USAGES)
    assert hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest() == fingerprint
    assert timedelta(days=29) < not_after - timezone.now() <= timedelta(days=30)
    assert timezone.now() - certificate.not_valid_before_utc >= timedelta(hours=1)
    certificate.verify_directly_issued_by(pki.authority("node").certificate)


@pytest.mark.parametrize(
    "bad",
    ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "x" * 20000],
    ids=["empty", "rubbish", "long"],
)
def test_bad_requests_are_refused(roots, bad):
    with pytest.raises(InvalidInput):
        pki.sign_node_csr(bad, "n")


def test_other_keys_than_p256_are_refused(roots):
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())):
        with pytest.raises(InvalidInput, match="P-256"):
            pki.sign_node_csr(csr(key), "n")


def test_a_request_signed_by_another_key_is_refused(roots):
    good = x509.load_pem_x509_csr(csr().encode()).public_bytes(serialization.Encoding.DER)
    broken = bytearray(good)
    broken[-1] ^= 1
    import base64

    text = (
        "-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.encodebytes(bytes(broken)).decode()
        + "-----END CERTIFICATE REQUEST-----\n"
    )
    with pytest.raises(InvalidInput):
        pki.sign_node_csr(text, "n")


def handshake(server_files, client: ssl.SSLContext, name: str, *, verify: str | None = None) -> dict:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_files.certificate, server_files.key)
    if verify:
        context.load_verify_locations(cadata=verify)
        context.verify_mode = ssl.CERT_REQUIRED
    ours, theirs = socket.socketpair()
    seen: dict = {}

    def serve():
        try:
            with context.wrap_socket(ours, server_side=True) as tls:
                seen["peer"] = tls.getpeercert()
                tls.sendall(b"ok")
        except (ssl.SSLError, OSError) as error:
            seen["error"] = error
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname=name) as tls:
            assert tls.recv(2) == b"ok"
    finally:
        theirs.close()
        thread.join(30)
    return seen


def test_listener_certificate_is_accepted_for_its_names_by_its_root_only(roots, settings):
    settings.HOSTNAMES = ["console.example.org"]
    files, made = server.ensure_certificate("api")
    assert made
    context = ssl.create_default_context(cadata=cluster.bundle_pem("api"))
    for name in ("console.example.org", "localhost", "127.0.0.1"):
        handshake(files, context, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, context, "else.example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, ssl.create_default_context(cadata=cluster.bundle_pem("node")), "localhost")


def test_mutual_tls_takes_node_certificates_only(roots, home):
    files, _ = server.ensure_certificate("node")
    key = certificates.new_key()
    text, _, _ = pki.sign_node_csr(csr(key), "node-7")
    (home / "n.crt").write_text(text)
    (home / "n.key").write_text(certificates.pem_key(key))
    client = ssl.create_default_context(cadata=cluster.bundle_pem())
    client.load_cert_chain(home / "n.crt", home / "n.key")
    seen = handshake(files, client, "localhost", verify=cluster.bundle_pem("node"))
    assert ("commonName", "node-7") in [pair for item in seen["peer"]["subject"] for pair in item]
    other, _ = server.ensure_certificate("api")
    wrong = ssl.create_default_context(cadata=cluster.bundle_pem())
    wrong.load_cert_chain(other.certificate, other.key)
    with pytest.raises((ssl.SSLError, OSError, AssertionError)):
        handshake(files, wrong, "localhost", verify=cluster.bundle_pem("node"))


def test_certificate_is_kept_while_good_and_renewed_when_it_is_not(roots, settings, monkeypatch):
    files, _ = server.ensure_certificate("api")
    first = files.certificate.read_bytes()
    assert server.ensure_certificate("api") == (files, False)
    settings.HOSTNAMES = ["new.example.org"]
    assert server.ensure_certificate("api")[1]
    assert files.certificate.read_bytes() != first
    files.key.write_bytes(certificates.pem_key(certificates.new_key()).encode())
    assert server.ensure_certificate("api")[1]
    later = timezone.now() + timedelta(days=61)
    monkeypatch.setattr(server.timezone, "now", lambda: later)
    assert server.ensure_certificate("api")[1]
    assert {path.stat().st_mode & 0o777 for path in (files.key, files.certificate)} == {0o600}


def test_bundle_is_public_and_matches_its_digest(roots, api):
    body = api().get("/api/v1/pki/ca").json()
    ders = [c.public_bytes(serialization.Encoding.DER) for c in x509.load_pem_x509_certificates(body["bundle"].encode())]
    assert hashlib.sha256(b"".join(ders)).hexdigest() == body["digest"] == pki.bundle_digest()
    assert len(ders) == 2
    assert "PRIVATE" not in str(body)
