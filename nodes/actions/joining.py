"""Becoming a node: tokens, the join itself, renewal of certificates (control-plane.md 2.5, security.md 2.1).

A token is `WHARF-1-<CA digest, base 36, 50 characters>-<secret, base 36, 25 characters>`: the digest lets the node check the
roots without trust on first use; everything else (role, collection, uses, expiry, source networks) stands in the
row, not in the text.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F

from agent.protocol.errors import InvalidInput
from agent.protocol.states import Availability, NodeState
from controlplane import events, pki
from controlplane.api.actor import Actor
from controlplane.api.ids import base36, new_id
from controlplane.events.chain import clean
from controlplane.jobs.clock import database_now
from controlplane.pki.server import hostnames
from controlplane.rbac import collections
from controlplane.rbac.models import Collection
from nodes.actions.session import lock_session, node_actor
from nodes.actions.wake import reconcile_after_commit
from nodes.errors import JoinRefused
from nodes.models import JoinToken, Node
from nodes.models.join_token import hash_secret

PREFIX = "WHARF-1"
DIGEST_LENGTH, SECRET_LENGTH = 50, 25
# The node port's certificate always carries this name, and its root is ours alone: it proves "our control plane" whatever address
# the node reached it by.
SERVER_NAME = "localhost"


@dataclass(frozen=True, slots=True)
class Joined:
    """What a new node stores: its identity, the roots, and where the link goes.

    `approved` false: it links, but waits for an administrator before it is given tasks.
    """

    node_id: str
    certificate: str
    ca: str
    links: tuple[str, ...]
    server_name: str
    approved: bool


def token_text(secret: str) -> str:
    """The token as it is shown once."""
    return f"{PREFIX}-{base36(int(pki.bundle_digest(), 16), DIGEST_LENGTH)}-{secret}"


def create_join_token(
    actor: Actor,
    *,
    name: str = "",
    role: str = "worker",
    collection: Collection | None = None,
    labels: Mapping[str, str] | None = None,
    uses: int = 1,
    lifetime: timedelta | None = timedelta(hours=24),
    cidrs: Sequence[str] = (),
    needs_approval: bool = False,
) -> tuple[JoinToken, str]:
    """(row, token text). The secret is in the text only. The caller has checked "JoinToken Create"."""
    if not 1 <= uses <= 10_000:
        raise InvalidInput("uses: must be 1-10000", field="uses")
    if role not in ("worker", "manager"):
        raise InvalidInput("role: must be worker or manager", field="role")
    for cidr in cidrs:
        try:
            ipaddress.ip_network(cidr)
        except ValueError as error:
            raise InvalidInput(f"cidrs: {error}", field="cidrs") from None
    secret = new_id()
    with transaction.atomic():
        token = JoinToken.objects.create(
            name=name[:100] or f"token of {actor.name}"[:100],
            secret_hash=hash_secret(secret),
            role=role,
            collection=collection or collections.shared(),
            labels=dict(labels or {}),
            uses_left=uses,
            cidrs=list(cidrs),
            needs_approval=needs_approval,
            expires_at=database_now() + lifetime if lifetime else None,
            created_by=actor.name,
        )
        _record("join_token.created", actor, f"join-token/{token.pk}", token.collection.path, {"name": token.name, "uses": uses})
    return token, token_text(secret)


def revoke_join_token(actor: Actor, token: JoinToken) -> None:
    """Nodes that joined with it stay."""
    with transaction.atomic():
        if JoinToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=database_now()):
            _record("join_token.revoked", actor, f"join-token/{token.pk}", token.collection.path, {"name": token.name})


def join(token: str, csr: str, hostname: str, *, address: str, reached_by: str = "") -> Joined:
    """Redeem a token: a node row and a certificate for the key of `csr`. Raises `JoinRefused`, `InvalidInput` for a bad CSR.

    `reached_by` is the host name that the request was sent to; the link is tried there first.
    """
    secret = _secret(token)
    node_id = new_id()
    with transaction.atomic():
        row = _redeem(secret, address)
        certificate, fingerprint, until = pki.sign_node_csr(csr, node_id)
        now = database_now()
        node = Node.objects.create(
            id=node_id,
            hostname=clean(hostname.strip()[:253]) or node_id,
            role=row.role,
            collection=row.collection,
            labels=row.labels,
            availability=Availability.ACTIVE,
            approved_at=None if row.needs_approval else now,
            fingerprint=fingerprint,
            certificate_until=until,
            state=NodeState.DOWN,
            state_at=now,
            state_reason="joined, not linked yet",
        )
        data = {"hostname": node.hostname, "token": row.name, "address": address, "approved": not row.needs_approval}
        _record("node.joined", node_actor(node), f"node/{node.pk}", row.collection.path, data)
    return Joined(node_id, certificate, pki.bundle_pem(), links(reached_by), SERVER_NAME, not row.needs_approval)


def _secret(text: str) -> str:
    head, _, secret = text.strip().rpartition("-")
    prefix, _, digest = head.rpartition("-")
    if prefix != PREFIX or len(digest) != DIGEST_LENGTH or len(secret) != SECRET_LENGTH:
        raise JoinRefused("this is no join token: copy the whole line that `wharf node token` printed")
    return secret


def _redeem(secret: str, address: str) -> JoinToken:
    refused = JoinRefused("the join token is unknown, used up, expired or revoked: make a new one with `wharf node token`")
    rows = JoinToken.objects.usable().by_secret(secret)
    token = rows.select_related("collection").first()
    if token is None:
        raise refused
    if token.cidrs and not _inside(address, token.cidrs):
        raise JoinRefused(
            f"the join token does not let {address or 'this address'} join: its networks are {', '.join(token.cidrs)}"
        )
    # Conditional, so that two nodes cannot share the last use.
    if not JoinToken.objects.usable().filter(pk=token.pk).update(uses_left=F("uses_left") - 1):
        raise refused
    return token


def _inside(address: str, cidrs: Sequence[str]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return any(ip in ipaddress.ip_network(cidr) for cidr in cidrs)


def links(reached_by: str = "") -> tuple[str, ...]:
    """host:port of the node port: where the node reached us, the configured names, else what this host is called."""
    names, addresses = hostnames()
    loopback = {"localhost", "127.0.0.1", "::1"}
    configured = list(settings.HOSTNAMES) or [item for item in (*names, *addresses) if item not in loopback]
    found = dict.fromkeys(item for item in (reached_by, *configured) if item)
    return tuple(f"[{host}]:{settings.NODE_PORT}" if ":" in host else f"{host}:{settings.NODE_PORT}" for host in found)


def sign_renewal(node_id: str, epoch: int, csr: str) -> tuple[str, str]:
    """(certificate PEM, roots PEM) for a fresh key, asked over the node's own live link. Raises `StaleSession`.

    The old certificate stays good until the new one is first used: an answer that is lost does no harm.
    """
    with transaction.atomic():
        node = lock_session(node_id, epoch)
        certificate, fingerprint, until = pki.sign_node_csr(csr, node_id)
        node.next_fingerprint, node.certificate_until = fingerprint, until
        node.save(update_fields=["next_fingerprint", "certificate_until", "updated_at"])
        _record(
            "node.certificate_renewed", node_actor(node), f"node/{node_id}", node.collection.path, {"until": until.isoformat()}
        )
    return certificate, pki.bundle_pem()


def _record(kind: str, actor: Actor, target: str, path: str, data: dict[str, Any]) -> None:
    events.record(kind, actor=actor, target=target, collection_path=path, data=data)
    reconcile_after_commit()
