"""Hashes whose state can be saved, so that a blob upload may go on in another process.

hashlib cannot export its state. libcrypto's low-level SHA-2 functions can: SHA256_CTX and SHA512_CTX are plain structs without
pointers (openssl/sha.h), so the bytes of the struct are the state. They are deprecated in OpenSSL 3 but exported, run at
hashlib's speed and release the GIL. The state is host-endian and tied to the struct's layout: it is saved with algorithm, count,
machine and library name, and refused when any of them differs. A self-test against hashlib decides once a process whether this
path is used at all; without it `RunningHash.state()` is None and the caller hashes the stored bytes again.

This is the only ctypes use of the registry.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import platform
from typing import Any, Protocol

ALGORITHMS = ("sha256", "sha512")

_LIBRARIES = ("libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so")
_CONTEXT_BYTES = {"sha256": 112, "sha512": 216}  # sizeof(SHA256_CTX), sizeof(SHA512_CTX)
_DIGEST_BYTES = {"sha256": 32, "sha512": 64}


class RunningHash(Protocol):
    """A digest in progress. `count` is the number of bytes hashed so far."""

    algorithm: str
    count: int

    def update(self, data: bytes) -> None: ...

    def hexdigest(self) -> str:
        """The digest of the bytes so far; hashing may go on afterwards."""

    def state(self) -> bytes | None:
        """Opaque saved state for `resume`, or None where this machine cannot save one."""


class _PlainHash:
    """hashlib: the way back when libcrypto's structs cannot be trusted."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.count = 0
        self._hash = hashlib.new(algorithm)

    def update(self, data: bytes) -> None:
        self._hash.update(data)
        self.count += len(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def state(self) -> bytes | None:
        return None


class _SavableHash:
    """libcrypto's SHA-2 over a context that we own."""

    def __init__(self, algorithm: str, context: bytes | None = None, count: int = 0) -> None:
        library = _library()
        if library is None:
            raise OSError("libcrypto is not loadable")
        self.algorithm = algorithm
        self.count = count
        prefix = algorithm.upper()
        self._update = getattr(library, f"{prefix}_Update")
        self._final = getattr(library, f"{prefix}_Final")
        self._context = ctypes.create_string_buffer(_CONTEXT_BYTES[algorithm])
        if context is None:
            getattr(library, f"{prefix}_Init")(self._context)
        else:
            ctypes.memmove(self._context, context, len(context))

    def update(self, data: bytes) -> None:
        # ctypes passes bytes by pointer without a copy; other buffers would be refused or copied.
        self._update(self._context, data, len(data))
        self.count += len(data)

    def hexdigest(self) -> str:
        # Final pads the context in place: run it on a copy.
        scratch = ctypes.create_string_buffer(self._context.raw, _CONTEXT_BYTES[self.algorithm])
        digest = ctypes.create_string_buffer(_DIGEST_BYTES[self.algorithm])
        self._final(digest, scratch)
        return digest.raw.hex()

    def state(self) -> bytes | None:
        header = json.dumps(_header(self.algorithm, self.count), sort_keys=True).encode()
        return header + b"\n" + self._context.raw


def new_hash(algorithm: str) -> RunningHash:
    """A fresh running hash; `algorithm` is one of ALGORITHMS."""
    return _SavableHash(algorithm) if savable() else _PlainHash(algorithm)


def resume(algorithm: str, count: int, state: bytes | None) -> RunningHash | None:
    """The hash that `state` was saved from, or None when it does not fit: the caller then hashes the bytes again."""
    if state is None or not savable():
        return None
    header, _, context = bytes(state).partition(b"\n")
    try:
        fields = json.loads(header)
    except ValueError:
        return None
    if fields != _header(algorithm, count) or len(context) != _CONTEXT_BYTES[algorithm]:
        return None
    return _SavableHash(algorithm, context, count)


@functools.cache
def savable() -> bool:
    """Does libcrypto's state survive a round trip on this machine? Tested once a process."""
    if _library() is None:
        return False
    try:
        return all(_round_trip(algorithm) for algorithm in ALGORITHMS)
    except (AttributeError, OSError):
        return False


def _round_trip(algorithm: str) -> bool:
    data = bytes(range(256)) * 9
    first = _SavableHash(algorithm)
    first.update(data[:1003])
    state = first.state() or b""
    second = _SavableHash(algorithm, state.partition(b"\n")[2], 1003)
    second.update(data[1003:])
    return second.hexdigest() == hashlib.new(algorithm, data).hexdigest()


@functools.cache
def _library() -> Any | None:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return library if _declare(library) else None
    return None


def _declare(library: Any) -> bool:
    for algorithm in ALGORITHMS:
        prefix = algorithm.upper()
        try:
            init, update, final = (getattr(library, f"{prefix}_{part}") for part in ("Init", "Update", "Final"))
        except AttributeError:
            return False
        init.argtypes = [ctypes.c_void_p]
        # Without size_t the length would travel as a C int and wrap at 2 GiB.
        update.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        final.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    return True


def _header(algorithm: str, count: int) -> dict[str, Any]:
    library = _library()
    return {
        "algorithm": algorithm,
        "count": count,
        "machine": platform.machine(),
        "library": str(library._name if library else ""),
    }
