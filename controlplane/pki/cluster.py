"""The two roots in the database, their keys sealed under the KEK, and what they sign."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from django.db import IntegrityError, transaction
from django.utils import timezone

from agent.protocol.errors import InvalidInput, Unavailable
from controlplane.api.actor import SYSTEM, Actor
from controlplane.api.ids import new_id
from controlplane.events import record
from controlplane.pki import certificates, vault
from controlplane.pki.models import Authority

PURPOSES = ("node", "api")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its new key (PKCS#8 PEM) and the chain to send: leaf first, without the root."""

    certificate_pem: str
    key_pem: str
    fingerprint: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class CA:
    """One signing root."""

    purpose: str
    certificate: x509.Certificate
    key: certificates.Key

    @property
    def pem(self) -> str:
        return certificates.pem(self.certificate)

    @property
    def fingerprint(self) -> str:
        return certificates.fingerprint(self.certificate)


def ensure_authorities(actor: Actor = SYSTEM) -> list[str]:
    """Makes the missing ones of both roots; returns their purposes. Any number of processes may do so at once."""
    made = []
    for purpose in PURPOSES:
        if Authority.objects.filter(purpose=purpose, active=True).exists():
            continue
        try:
            _create(actor, purpose)
            made.append(purpose)
        except IntegrityError:
            continue  # another process was first; the partial unique index lets one through
    return made


def _create(actor: Actor, purpose: str) -> None:
    key, row_id = certificates.new_key(), new_id()
    certificate = certificates.root(key, f"Wharfinger {purpose} root {row_id[:8]}", timezone.now())
    plain = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    sealed = vault.seal(plain, _bound(purpose, row_id))
    with transaction.atomic():
        Authority.objects.create(
            id=row_id,
            purpose=purpose,
            certificate=certificates.pem(certificate),
            key=sealed,
            fingerprint=certificates.fingerprint(certificate),
            not_after=certificate.not_valid_after_utc,
        )
        record("authority.created", actor=actor, target=f"authority/{row_id}", data={"purpose": purpose})


def _bound(purpose: str, row_id: str) -> str:
    return f"authority:{purpose}:{row_id}"


def authority(purpose: str) -> CA:
    """The root that signs for `purpose` ("node" or "api"). Raises Unavailable before the first start has made it."""
    if purpose not in PURPOSES:
        raise InvalidInput(f"There is no authority for {purpose!r}: there are {', '.join(PURPOSES)}.")
    row = Authority.objects.filter(purpose=purpose, active=True).first()
    if row is None:
        raise Unavailable("The cluster's certificate authority does not exist yet: run `wharf up` or `manage.py first_start`.")
    plain = vault.unseal(bytes(row.key), _bound(purpose, row.pk))
    key = cast(certificates.Key, serialization.load_der_private_key(plain, None))
    return CA(purpose, x509.load_pem_x509_certificate(row.certificate.encode()), key)


def issue_server(
    names: Iterable[str], ips: Iterable[str], *, purpose: str = "api", lifetime: timedelta = certificates.SERVER_LIFETIME
) -> Issued:
    """A server certificate with a new key for DNS `names` and addresses `ips`, of the root of the port it stands on."""
    entries = certificates.alternatives(names, ips)
    if not entries:
        raise InvalidInput("A server certificate needs a name or an address.")
    ca = authority(purpose)
    key = certificates.new_key()
    common = str(entries[0].value)[:64]
    certificate = certificates.leaf(
        ca.certificate,
        ca.key,
        key.public_key(),
        common_name=common,
        unit="server",
        lifetime=lifetime,
        now=timezone.now(),
        usages=certificates.SERVER_USAGES,
        alternatives=entries,
    )
    return Issued(
        certificates.pem(certificate),
        certificates.pem_key(key),
        certificates.fingerprint(certificate),
        certificate.not_valid_after_utc,
    )


def sign_node_csr(csr_pem: str, node_id: str) -> tuple[str, str, datetime]:
    """(certificate PEM, fingerprint, not_after) for the key of a CSR: CN = `node_id`, 30 days, client use only.

    Whatever subject and extensions the CSR asks for are ignored. The row grants rights, the certificate only proves the key.
    """
    public_key = certificates.read_csr(csr_pem)
    ca = authority("node")
    certificate = certificates.leaf(
        ca.certificate,
        ca.key,
        public_key,
        common_name=node_id,
        unit="node",
        lifetime=certificates.NODE_LIFETIME,
        now=timezone.now(),
        usages=certificates.NODE_USAGES,
    )
    return certificates.pem(certificate), certificates.fingerprint(certificate), certificate.not_valid_after_utc


def roots(purpose: str | None = None) -> list[x509.Certificate]:
    """Every root to trust (of one purpose), active or retiring, in a fixed order."""
    rows = Authority.objects.filter(not_after__gt=timezone.now()).order_by("purpose", "created_at", "id")
    if purpose is not None:
        rows = rows.filter(purpose=purpose)
    return [x509.load_pem_x509_certificate(text.encode()) for text in rows.values_list("certificate", flat=True)]


def bundle_pem(purpose: str | None = None) -> str:
    """The roots as one PEM file: what a joining node pins and what clients trust."""
    return "".join(certificates.pem(certificate) for certificate in roots(purpose))


def bundle_digest() -> str:
    """sha256 (hex) over the DERs of all roots in the order of the bundle: what a join token carries."""
    digest = hashlib.sha256()
    for certificate in roots():
        digest.update(certificates.der(certificate))
    return digest.hexdigest()
