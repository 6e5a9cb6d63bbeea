"""What is stored of one upload. It travels in the upload's row with the hash, so that any process on any host goes on from it.

    uploads/<session>/data             parts of at least 5 MiB, in a multipart upload that is completed at the commit
    uploads/<session>/<first>-<bytes>-<random>   a piece that was too small for a part when its request ended

The row is changed by its one writer only and all at once: bytes that another process stored and could not note do not count.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from registry.storage.s3.bucket import Bucket

FORMAT = 1
_PIECE = re.compile(r"(\d+)-(\d+)-[0-9a-f]+")


@dataclass
class Session:
    """`parts` are (ETag, bytes), `pieces` (name, bytes) follow them."""

    name: str
    upload: str = ""
    parts: list[tuple[str, int]] = field(default_factory=list)
    pieces: list[tuple[str, int]] = field(default_factory=list)

    @property
    def data(self) -> str:
        return f"{folder(self.name)}data"

    @property
    def in_parts(self) -> int:
        return sum(size for _, size in self.parts)

    @property
    def in_pieces(self) -> int:
        return sum(size for _, size in self.pieces)

    @property
    def size(self) -> int:
        return self.in_parts + self.in_pieces

    def new_piece(self, size: int) -> tuple[str, int]:
        return f"{folder(self.name)}{self.size}-{size}-{uuid.uuid4().hex}", size

    def save(self, hash_state: bytes | None) -> bytes:
        header = json.dumps({"s3": FORMAT, **asdict(self)}, separators=(",", ":")).encode()
        return header + b"\n" + (hash_state or b"")


def folder(name: str) -> str:
    return f"uploads/{name}/"


def load(name: str, offset: int, state: bytes | None) -> tuple[Session, bytes | None] | None:
    """The session and its hash's state, None when `state` is not of this session at `offset`."""
    header, _, rest = bytes(state or b"").partition(b"\n")
    try:
        fields: Any = json.loads(header)
        if not isinstance(fields, dict) or fields.pop("s3", None) != FORMAT or fields.get("name") != name:
            return None
        parts, pieces = ([(str(key), int(size)) for key, size in fields[kind]] for kind in ("parts", "pieces"))
        session = Session(name, str(fields["upload"]), parts, pieces)
    except (ValueError, KeyError, TypeError):
        return None
    return (session, rest or None) if session.size == offset else None


def discover(bucket: Bucket, name: str, offset: int) -> Session:
    """The state was lost: the longest chain of stored bytes that does not pass `offset`. The commit reads them all again."""
    session = Session(name)
    begun = sorted(bucket.begun(session.data), key=lambda row: row[2])
    for key, upload, _ in begun[:1]:
        session.upload = upload
        for number, etag, size, _ in bucket.parts(key, upload):
            if number != len(session.parts) + 1 or session.in_parts + size > offset:
                break
            session.parts.append((etag, size))
    chains: dict[int, list[tuple[str, int]]] = {session.in_parts: []}
    for key, size, _ in sorted(bucket.objects(folder(name)), key=_first):
        found = _PIECE.fullmatch(key.rpartition("/")[2])
        if found is not None and int(found[1]) in chains and int(found[1]) + size <= offset:
            chains.setdefault(int(found[1]) + size, [*chains[int(found[1])], (key, size)])
    session.pieces = chains[max(chains)]
    return session


def _first(row: tuple[str, int, float]) -> int:
    digits = row[0].rpartition("/")[2].partition("-")[0]
    return int(digits) if digits.isdigit() else -1
