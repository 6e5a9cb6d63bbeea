"""From an OCI `linux.seccomp` object to a classic BPF program and the flags of seccomp(2).

The program checks the architecture, loads the system call number and searches it (`program`); what the entries mean stands in
`rules`. Code of an architecture that the profile does not name is killed: i386 on x86_64 would dodge every argument test. If the
default refuses, numbers above the highest named one give ENOSYS, since a libc that probes for a new call falls back only on that.
"""

from __future__ import annotations

import errno
from _blake2 import blake2b  # hashlib loads OpenSSL: 3 MB in the supervisor

from agent.protocol.errors import InvalidInput
from agent.runtime.seccomp import program, rules, tables
from agent.runtime.seccomp.rules import ACTIONS, ALLOW, ERRNO, KILL_PROCESS, OPERATORS
from agent.sys import nr
from agent.sys import seccomp as kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["ACTIONS", "FLAGS", "OPERATORS", "compile_profile"]

VERSION = b"2"  # part of the cache key: change it with the generated code

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # the filter is loaded by a process of one thread
    "SECCOMP_FILTER_FLAG_LOG": kernel.FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": kernel.FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": kernel.FLAG_WAIT_KILLABLE_RECV,
}
X32_BIT = 0x40000000
# runc's list: a tracer answers for calls it does not know itself
PERMISSIVE = (ALLOW, ACTIONS["SCMP_ACT_LOG"], ACTIONS["SCMP_ACT_TRACE"])

_cache: dict[bytes, tuple[bytes, int]] = {}
CACHE_SIZE = 64


def compile_profile(profile: dict[str, Any], machine: str = nr.MACHINE, *, strict: bool = False) -> tuple[bytes, int]:
    """(program of 8 bytes an instruction, flags for seccomp(2)). Cached by the profile's contents.

    `strict`: a system call that no architecture has is an error instead of being ignored. Raises InvalidInput.
    """
    key = blake2b(VERSION + machine.encode() + b"%d" % strict + repr(profile).encode(), digest_size=32).digest()
    found = _cache.get(key)
    if found is None:
        if not isinstance(profile, dict):
            raise InvalidInput("linux.seccomp must be an object")
        made = (program.assemble(_program(profile, machine, strict)), _flags(profile))
        if len(_cache) >= CACHE_SIZE:
            _cache.pop(next(iter(_cache)))
        found = _cache[key] = made
    return found


def _flags(profile: dict[str, Any]) -> int:
    names = profile.get("flags")
    if names is None:
        flags = kernel.FLAG_SPEC_ALLOW
    else:
        flags = 0
        for name in _words(names, "flags"):
            if name not in FLAGS:
                raise InvalidInput(f"seccomp flag {name!r} is not known; use one of {', '.join(FLAGS)}")
            flags |= FLAGS[name]
    if any(entry.get("action") == "SCMP_ACT_NOTIFY" for entry in rules.entries(profile)):
        return flags | kernel.FLAG_NEW_LISTENER
    return flags & ~kernel.FLAG_WAIT_KILLABLE_RECV  # EINVAL without a listener, whose calls it is about


def _machines(profile: dict[str, Any], machine: str) -> list[str]:
    """Our own architecture, and the named ones whose programs this machine can run."""
    wanted = _words(profile.get("architectures") or [], "architectures")
    known = set(tables.SCMP_ARCH.values()) | tables.ELSEWHERE | {tables.X32}
    for name in wanted:
        if name not in known:
            raise InvalidInput(f"seccomp architecture {name!r} is not known; names look like SCMP_ARCH_X86_64")
    return [machine, *(name for name in (tables.COMPAT[machine],) if tables.SCMP_ARCH[name] in wanted)]


def _words(value: Any, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise InvalidInput(f"seccomp.{what} must be a list of names")
    return value


def _program(profile: dict[str, Any], machine: str, strict: bool) -> program.Code:
    default = rules.default_action(profile)
    code: program.Code = [(program.LOAD, 0, 0, 4)]
    for name in _machines(profile, machine):
        code += program.when_equal(tables.AUDIT_ARCH[name], _table(profile, default, name, strict))
    return [*code, *program.returns(KILL_PROCESS)]


def _table(profile: dict[str, Any], default: int, machine: str, strict: bool) -> program.Code:
    """The code for one architecture's numbers."""
    by_number = rules.by_number(profile, default, machine, strict)
    border = max((number for number in by_number if number < tables.PRIVATE), default=-1)
    unknown = ERRNO | errno.ENOSYS
    beyond = default if default & 0xFFFF0000 in PERMISSIVE or border < 0 else unknown
    code: program.Code = [(program.LOAD, 0, 0, 0)]
    if machine == "x86_64":  # x32 numbers: its own table under the same architecture word; -1 is what a tracer leaves behind
        code += [(program.JGE, 0, 3, X32_BIT), (program.JEQ, 0, 1, program.MASK32)]
        code += [*program.returns(default), *program.returns(unknown)]
    return code + program.search(program.ranges(by_number, default, beyond, border, machine in tables.WIDE))
