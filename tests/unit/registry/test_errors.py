"""Every refusal speaks the codes of the distribution specification and no others."""

from __future__ import annotations

import json

import pytest

from agent.protocol import errors
from agent.protocol.oci import DigestInvalid, ManifestInvalid, ManifestTooLarge, NameInvalid, TagInvalid
from registry import errors as ours
from registry.storage.store import DigestMismatch, StoreFull
from registry.v2.errors import Challenge, error_response
from registry.v2.response import _warnings

# distribution-spec, "Error Codes"; TOOMANYREQUESTS is code-14 there.
SPEC = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}
ALL = [
    *errors.BY_CODE.values(),
    DigestInvalid,
    ManifestInvalid,
    ManifestTooLarge,
    NameInvalid,
    TagInvalid,
    DigestMismatch,
    StoreFull,
    *(item for item in vars(ours).values() if isinstance(item, type) and issubclass(item, errors.WharfError)),
]


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_shape_and_code(cls: type[errors.WharfError]) -> None:
    answer = error_response(cls("what to do"), "http://r/v2/token", "s")
    (entry,) = json.loads(answer.body)["errors"]
    assert entry["code"] in SPEC
    assert entry["message"] == "what to do"
    assert answer.status == cls.status


def test_throttled_says_when() -> None:
    answer = error_response(errors.Throttled("slow down", retry_after=1.2), "r", "s")
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")


def test_challenge() -> None:
    answer = error_response(Challenge("x", "repository:a:pull", insufficient=True), "http://h/v2/token", "svc")
    assert answer.headers["www-authenticate"] == (
        'Bearer realm="http://h/v2/token",service="svc",scope="repository:a:pull",error="insufficient_scope"'
    )


def test_warnings_are_clean_and_end_at_4096_bytes() -> None:
    (found,) = _warnings(['say "hi"\r\nX: y'])
    assert found == (b"warning", b"299 - \"say 'hi'''X: y\"")
    assert len(list(_warnings(["w" * 1000] * 10))) == 4
