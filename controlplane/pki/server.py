"""The certificate of a listener in WHARF_HOME/pki: made at the first start, renewed before it ends or when its names change."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from django.conf import settings
from django.utils import timezone

from controlplane.home import write_private
from controlplane.pki import certificates, cluster


@dataclass(frozen=True, slots=True)
class Files:
    """Paths for an SSLContext: chain and key of the listener, roots of its clients and servers."""

    certificate: Path
    key: Path
    roots: Path


def hostnames() -> tuple[list[str], list[str]]:
    """(names, addresses) that the listeners answer to: the configured ones, this host's, loopback."""
    names, addresses = ["localhost"], ["127.0.0.1", "::1"]
    for text in [*settings.HOSTNAMES, socket.gethostname(), socket.getfqdn()]:
        if _is_address(text):
            addresses.append(text)
        elif (text and "." in text.rstrip(".")) or text in settings.HOSTNAMES or text == socket.gethostname():
            names.append(text.rstrip(".").lower())
    if not _is_wildcard(settings.ADDRESS):
        (addresses if _is_address(settings.ADDRESS) else names).append(settings.ADDRESS)
    return list(dict.fromkeys(names)), list(dict.fromkeys([*addresses, *_outward()]))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_wildcard(text: str) -> bool:
    return _is_address(text) and ipaddress.ip_address(text).is_unspecified


def _outward() -> list[str]:
    """The address this host uses towards others, found by connecting a UDP socket: nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            return [str(probe.getsockname()[0])]
    except OSError:
        return []


def ensure_certificate(purpose: str = "api") -> tuple[Files, bool]:
    """(files, made): the listener's files, newly issued when missing, in the last third of their life, or lacking a name.

    The caller reloads its SSLContext when `made` is true. Key and certificate stand in one file each; the certificate is replaced
    last, so a crash between the two is healed by the next call (the pair no longer matches and is made again).
    """
    base = settings.PKI_DIR
    files = Files(base / f"{purpose}.crt", base / f"{purpose}.key", base / f"{purpose}-roots.pem")
    names, addresses = hostnames()
    write_private(files.roots, cluster.bundle_pem(purpose).encode())
    if _good(files, names, addresses):
        return files, False
    issued = cluster.issue_server(names, addresses, purpose=purpose)
    write_private(files.key, issued.key_pem.encode())
    write_private(files.certificate, issued.certificate_pem.encode())
    return files, True


def _good(files: Files, names: list[str], addresses: list[str]) -> bool:
    if not files.certificate.exists() or not files.key.exists():
        return False
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = load_pem_private_key(files.key.read_bytes(), None)
        entries = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound, OSError):
        return False
    if key.public_key() != certificate.public_key():
        return False
    has = {str(entry.value) for entry in entries}
    fresh = certificate.not_valid_after_utc - timezone.now() > certificates.SERVER_LIFETIME / 3
    return fresh and {*names, *addresses} <= has and _signed_by_active(certificate, files)


def _signed_by_active(certificate: x509.Certificate, files: Files) -> bool:
    purpose = files.certificate.stem
    try:
        certificate.verify_directly_issued_by(cluster.authority(purpose).certificate)
    except Exception:  # noqa: BLE001  # cryptography raises three unrelated types here; each means: not ours any more
        return False
    return True


def readable_by(files: Files, uid: int, gid: int) -> None:
    """Gives the files to the user that the web process runs as; called by the launcher while it is root."""
    for path in (files.certificate, files.key, files.roots):
        os.chown(path, uid, gid)


RENEWAL_CHECK = timedelta(hours=12)  # how often a long-lived process should call ensure_certificate
