"""The C library, and how a failed call becomes an OSError.

PyDLL, not CDLL: the interpreter lock is kept across the call. Between clone3 and execve a child is a copy of one thread only;
a call that dropped and retook the lock there could wait for a thread that does not exist.
Blocking calls therefore never go through here: use os, socket and select for those.
"""

from __future__ import annotations

import ctypes
import errno as errno_codes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from functools import partial
    from typing import Any
else:
    from _functools import partial  # functools itself costs memory where this module is used early

LIBC = ctypes.PyDLL(None, use_errno=True)

INT = ctypes.c_int
UINT = ctypes.c_uint
LONG = ctypes.c_long
ULONG = ctypes.c_ulong
SIZE = ctypes.c_size_t
STR = ctypes.c_char_p  # bytes or None
PTR = ctypes.c_void_p  # buffer, address or None


def oserror(what: str, path: str | bytes | None = None) -> OSError:
    """The OSError of the last failed call; `what` names the call, so that a log line says which step failed."""
    number = ctypes.get_errno()
    text = f"{what}: {os.strerror(number)}"
    return OSError(number, text, os.fsdecode(path)) if path is not None else OSError(number, text)


def function(name: str, *argtypes: Any) -> Any:
    """A libc function by name, returning a long, with its own argument types (each look-up gives a fresh object)."""
    found = LIBC[name]
    found.argtypes = argtypes
    found.restype = INT
    return found


def syscall(number: int, *argtypes: Any) -> Any:
    """A raw system call: a callable that takes `argtypes` and returns the result, -1 with errno on failure."""
    raw = LIBC["syscall"]
    raw.argtypes = (LONG, *argtypes)
    raw.restype = LONG
    return partial(raw, number)  # no frame of ours: a set-up makes hundreds of calls


def check(result: int, what: str, path: str | bytes | None = None) -> int:
    """`result`, or the OSError it stands for when it is -1."""
    if result < 0:
        raise oserror(what, path)
    return result


def missing(error: OSError) -> bool:
    """Whether the kernel lacks the call (ENOSYS), or a filter pretends so (EPERM is left to the caller)."""
    return error.errno == errno_codes.ENOSYS
