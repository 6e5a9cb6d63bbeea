"""X.509 without a database: roots, server and node certificates. P-256 and SHA-256 throughout, times in UTC."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.protocol.errors import InvalidInput

BACKDATE = timedelta(hours=1)  # clocks of nodes differ
ROOT_LIFETIME = timedelta(days=20 * 365)
SERVER_LIFETIME = timedelta(days=90)
NODE_LIFETIME = timedelta(days=30)
ORGANISATION = "Wharfinger"

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def pem_key(key: Key) -> str:
    """PKCS#8 PEM without a password."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def pem_csr(request: x509.CertificateSigningRequest) -> str:
    return request.public_bytes(serialization.Encoding.PEM).decode()


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def fingerprint(certificate: x509.Certificate) -> str:
    """sha256 of the DER in lower-case hex: what rows and join tokens compare."""
    return hashlib.sha256(der(certificate)).hexdigest()


def _name(common_name: str, unit: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def root(key: Key, common_name: str, now: datetime) -> x509.Certificate:
    """A self-signed root for 20 years that may sign leaves only (path length 0)."""
    name = _name(common_name, "root")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def leaf(
    issuer: x509.Certificate,
    issuer_key: Key,
    public_key: ec.EllipticCurvePublicKey,
    *,
    common_name: str,
    unit: str,
    lifetime: timedelta,
    now: datetime,
    usages: Iterable[x509.ObjectIdentifier],
    alternatives: Iterable[x509.GeneralName] = (),
) -> x509.Certificate:
    """A certificate signed by `issuer`, backdated an hour, never outliving it."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name, unit))
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(min(now + lifetime, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(usages)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    names = list(alternatives)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def alternatives(names: Iterable[str], addresses: Iterable[str]) -> list[x509.GeneralName]:
    """SAN entries. Raises InvalidInput for what is neither a DNS name nor an address."""
    result: list[x509.GeneralName] = []
    try:
        result += [x509.DNSName(name) for name in dict.fromkeys(names)]
        result += [x509.IPAddress(ipaddress.ip_address(text)) for text in dict.fromkeys(addresses)]
    except ValueError as error:
        raise InvalidInput(f"Not a host name or address for a certificate: {error}.") from None
    return result


def read_csr(text: str) -> ec.EllipticCurvePublicKey:
    """The public key of a PEM CSR; everything else in it is ignored. Raises InvalidInput: no CSR, wrong signature, no P-256."""
    if len(text) > 16384:
        raise InvalidInput("The CSR is longer than 16 KiB.")
    try:
        request = x509.load_pem_x509_csr(text.encode())
        key = request.public_key()
        valid = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature) as error:
        raise InvalidInput(f"This is no certificate signing request in PEM form: {error}.") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput("The key must be on the curve P-256 (prime256v1).")
    if not valid:
        raise InvalidInput("The CSR is not signed by its own key.")
    return key


SERVER_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH,)
NODE_USAGES = (ExtendedKeyUsageOID.CLIENT_AUTH,)
