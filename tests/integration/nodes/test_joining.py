"""Join tokens, the join, approval, renewal."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.utils import timezone

from controlplane import pki
from controlplane.events.models import Event
from controlplane.pki.cluster import ensure_authorities
from nodes import actions, queries
from nodes.errors import JoinRefused, StaleSession
from nodes.models import JoinToken, Node
from tests.integration.nodes import fleet

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _authority() -> None:
    ensure_authorities()


@pytest.fixture
def admin() -> fleet.Actor:
    return fleet.user("root", admin=True)


def csr(name: str = "anything") -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_a_token_makes_a_node_whose_certificate_names_it(admin: fleet.Actor) -> None:
    _, text = actions.create_join_token(admin, labels={"zone": "a"})
    joined = actions.join(text, csr("someone-else"), "host1", address="10.0.0.1", reached_by="control.example")
    node = Node.objects.get(pk=joined.node_id)
    certificate = x509.load_pem_x509_certificate(joined.certificate.encode())
    assert certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value == node.pk
    assert queries.node_of_certificate(certificate.fingerprint(hashes.SHA256()).hex()) == node
    assert (node.hostname, node.labels, node.collection.path) == ("host1", {"zone": "a"}, "/Shared/")
    assert joined.approved
    assert joined.links[0] == "control.example:8444"
    assert joined.ca == pki.bundle_pem()
    assert Event.objects.filter(kind="node.joined", target=f"node/{node.pk}").exists()


def test_the_token_carries_the_digest_of_the_roots_and_its_secret_is_stored_hashed(admin: fleet.Actor) -> None:
    row, text = actions.create_join_token(admin)
    prefix, version, digest, secret = text.split("-")
    assert (prefix, version, len(digest), len(secret)) == ("WHARF", "1", 50, 25)
    assert int(digest, 36) == int(pki.bundle_digest(), 16)
    assert secret not in str(JoinToken.objects.filter(pk=row.pk).values().get())
    assert secret not in "".join(str(event.data) for event in Event.objects.all())


def test_uses_run_out(admin: fleet.Actor) -> None:
    _, text = actions.create_join_token(admin, uses=2)
    for _ in range(2):
        actions.join(text, csr(), "h", address="10.0.0.1")
    with pytest.raises(JoinRefused):
        actions.join(text, csr(), "h", address="10.0.0.1")
    assert Node.objects.count() == 2


def test_a_bad_csr_costs_no_use(admin: fleet.Actor) -> None:
    row, text = actions.create_join_token(admin)
    with pytest.raises(Exception, match=r".+"):
        actions.join(text, "no csr", "h", address="10.0.0.1")
    row.refresh_from_db()
    assert row.uses_left == 1


@pytest.mark.parametrize("change", [{"expires_at": -1}, {"revoked_at": 0}, {"uses_left": None}])
def test_expired_revoked_and_used_up_tokens_are_refused_alike(admin: fleet.Actor, change: dict[str, int | None]) -> None:
    row, text = actions.create_join_token(admin)
    (name, hours), *_ = change.items()
    value = 0 if hours is None else timezone.now() + timedelta(hours=hours)
    JoinToken.objects.filter(pk=row.pk).update(**{name: value})
    with pytest.raises(JoinRefused) as refused:
        actions.join(text, csr(), "h", address="10.0.0.1")
    with pytest.raises(JoinRefused) as unknown:
        actions.join(text[:-1] + ("0" if text[-1] != "0" else "1"), csr(), "h", address="10.0.0.1")
    assert refused.value.detail == unknown.value.detail


@pytest.mark.parametrize(
    ("address", "allowed"), [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("10.2.0.1", False), ("fd00::1", False), ("", False)]
)
def test_source_networks(admin: fleet.Actor, address: str, allowed: bool) -> None:
    _, text = actions.create_join_token(admin, cidrs=["10.1.0.0/16"])
    if allowed:
        actions.join(text, csr(), "h", address=address)
    else:
        with pytest.raises(JoinRefused):
            actions.join(text, csr(), "h", address=address)


@pytest.mark.parametrize("text", ["", "x", "WHARF-1-", "SWMTKN-1-a-b", "WHARF-2-" + "0" * 50 + "-" + "0" * 25])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(JoinRefused):
        actions.join(text, csr(), "h", address="10.0.0.1")


def test_a_node_that_waits_for_approval_links_but_gets_no_tasks(admin: fleet.Actor) -> None:
    fleet.image()
    _, text = actions.create_join_token(admin, needs_approval=True)
    joined = actions.join(text, csr(), "h", address="10.0.0.1")
    assert not joined.approved
    node = Node.objects.get(pk=joined.node_id)
    fleet.link(node)
    actions.record_inventory(node.pk, fleet.inventory(node.epoch))
    service = actions.create_service(admin, fleet.spec())
    fleet.obey()
    assert fleet.running(service) == {}
    actions.approve_node(admin, node)
    fleet.obey()
    assert sum(fleet.running(service).values()) == 1


def test_the_inventory_names_the_storage_drivers() -> None:
    node = fleet.node("one")
    fleet.link(node)
    actions.record_inventory(node.pk, fleet.inventory(node.epoch, graph_drivers=("overlay2", "vfs", "x" * 100)))
    node.refresh_from_db()
    assert node.inventory["graph_drivers"] == ["overlay2", "vfs", "x" * 64]


def test_a_renewed_certificate_replaces_the_old_one_at_its_first_use(admin: fleet.Actor) -> None:
    node = fleet.node("one")
    old = node.fingerprint
    with pytest.raises(StaleSession):
        actions.sign_renewal(node.pk, node.epoch - 1, csr())
    certificate, ca = actions.sign_renewal(node.pk, node.epoch, csr())
    assert ca == pki.bundle_pem()
    new = x509.load_pem_x509_certificate(certificate.encode()).fingerprint(hashes.SHA256()).hex()
    assert queries.node_of_certificate(old) == queries.node_of_certificate(new) == node
    actions.register(node.pk, fleet.hello(), "s", "w", fingerprint=new)
    assert queries.node_of_certificate(new) == node
    assert queries.node_of_certificate(old) is None
