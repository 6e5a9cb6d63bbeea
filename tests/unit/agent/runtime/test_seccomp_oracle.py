"""Our compiler against libseccomp and its manual's words: every system call number, many arguments, identical results.

The oracle is libseccomp.so.2 itself, which exports its program for any architecture. Where several rules of one call compare with
anything but equality, libseccomp 2.5 merges them wrongly (LT 0x100000001 or LE 37 refuses 38): those are held against the meaning
that seccomp_rule_add(3) gives, computed here.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agent.runtime.seccomp import compile as ours
from agent.runtime.seccomp import tables
from agent.runtime.seccomp.rules import ACTIONS, MULTIPLEXED, OPERATORS
from tests.unit.agent.bpf import MEANING, VALUES, interpret

LIBRARY = ctypes.util.find_library("seccomp")
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libseccomp2 is not installed")

NATIVE = {"x86": "x86_64", "arm": "aarch64"}
BAD_ARCHITECTURE, OPTIMIZE = 2, 8  # enum scmp_filter_attr
COMPARISONS = {name: number for number, name in enumerate(OPERATORS, 1)}  # enum scmp_compare


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class Oracle:
    """libseccomp's filter of one architecture."""

    def __init__(self, default: int, machine: str) -> None:
        self._library = library = ctypes.CDLL(LIBRARY, use_errno=True)
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Comparison),
        ]  # fmt: skip
        self._context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
        assert self._context.value
        self._call("seccomp_attr_set", BAD_ARCHITECTURE, ctypes.c_uint32(ACTIONS["SCMP_ACT_KILL_PROCESS"]))
        native = library.seccomp_arch_native()
        wanted = ctypes.c_uint32(tables.AUDIT_ARCH[machine])
        if ctypes.c_uint32(native).value != wanted.value:
            self._call("seccomp_arch_add", wanted)
            self._call("seccomp_arch_remove", ctypes.c_uint32(native))

    def _call(self, name: str, *words: Any) -> int:
        result: int = self._library[name](self._context, *words)
        assert result == 0, f"{name}: {os.strerror(-result)}"
        return result

    def add(self, action: int, name: str, args: list[dict[str, Any]]) -> bool:
        """False when libseccomp takes no such rule, which it says for calls that an architecture has not."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        conditions = (Comparison * len(args))(*(self._condition(item) for item in args))
        result = self._library.seccomp_rule_add_array(self._context, action, number, len(args), conditions)
        assert result in (0, -errno.EDOM, -errno.EEXIST), f"{name}: {os.strerror(-result)}"
        return bool(result == 0)

    @staticmethod
    def _condition(item: dict[str, Any]) -> Comparison:
        # libseccomp wants the datum within the mask
        second = item["valueTwo"] & item["value"] if item["op"] == "SCMP_CMP_MASKED_EQ" else 0
        return Comparison(item["index"], COMPARISONS[item["op"]], item["value"], second)

    def tree(self) -> None:
        """Its own binary search instead of a list."""
        self._call("seccomp_attr_set", OPTIMIZE, ctypes.c_uint32(2))

    def program(self) -> bytes:
        fd = os.memfd_create("oracle")
        try:
            self._call("seccomp_export_bpf", fd)
            return os.pread(fd, 1 << 20, 0)
        finally:
            os.close(fd)

    def close(self) -> None:
        self._library.seccomp_release(self._context)


@contextmanager
def oracle(default: int, machine: str) -> Iterator[Oracle]:
    made = Oracle(default, machine)
    try:
        yield made
    finally:
        made.close()


def resolves(machine: str) -> list[str]:
    """Names of our table that libseccomp knows by the same number: it is older than the newest kernel."""
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    found, differing = [], []
    for name, number in tables.numbers(machine).items():
        theirs = library.seccomp_syscall_resolve_name_arch(tables.AUDIT_ARCH[machine], name.encode())
        if theirs == number:
            found.append(name)
        elif theirs >= 0:
            differing.append((name, number, theirs))
    assert differing == []
    assert len(found) > 300
    return found


@pytest.mark.parametrize("machine", sorted(tables.AUDIT_ARCH))
def test_numbers_are_libseccomps(machine: str) -> None:
    known = set(resolves(machine))
    unknown = set(tables.numbers(machine)) - known - (set(MULTIPLEXED) if machine == "x86" else set())
    assert len(unknown) < 25, sorted(unknown)


Groups = tuple[tuple[int, ...], ...]
ONE_RULE: Groups = ((), (0,), (5,), (0, 3), (1, 2, 5), (0, 1, 2, 3, 4, 5))
SEVERAL: Groups = (*ONE_RULE, (4, 4), (2, 2, 2), (1, 3, 1))  # two conditions on one argument are alternatives


def random_entries(chance: random.Random, names: list[str], action: str, forms: Groups, most: int) -> list[dict[str, Any]]:
    """One to `most` entries a name, the arguments of each one of `forms`."""
    entries = []
    for name in names:
        for _ in range(chance.randint(1, most)):
            args = [
                {
                    "index": index,
                    "op": chance.choice(OPERATORS),
                    "value": chance.choice(VALUES),
                    "valueTwo": chance.choice(VALUES),
                }
                for index in chance.choice(forms)
            ]
            entries.append({"names": [name], "action": action, "args": args})
    return entries


def holds(entry: dict[str, Any], vector: tuple[int, ...], mask: int) -> bool:
    """What seccomp_rule_add(3) and runc say an entry means."""
    results = [
        MEANING[item["op"].removeprefix("SCMP_CMP_")](vector[item["index"]] & mask, item["value"] & mask, item["valueTwo"] & mask)
        for item in entry["args"]
    ]
    indexes = [item["index"] for item in entry["args"]]
    return any(results) if len(set(indexes)) < len(indexes) else all(results)


def told(filter_: Oracle, entries: list[dict[str, Any]]) -> None:
    """Hand the entries over the way runc does."""
    for entry in entries:
        indexes = [item["index"] for item in entry["args"]]
        groups = [[item] for item in entry["args"]] if len(set(indexes)) < len(indexes) else [entry["args"]]
        for group in groups:
            for name in entry["names"]:
                filter_.add(ours.ACTIONS[entry["action"]] | entry.get("errnoRet", 0), name, group)


def compare(program: bytes, theirs: bytes, machine: str, top: int, vectors: list[tuple[int, ...]]) -> None:
    arch = tables.AUDIT_ARCH[machine]
    for number in range(top + 1):
        for vector in vectors:
            assert interpret(program, number, vector, arch) == interpret(theirs, number, vector, arch), (number, vector)


def vectors_for(machine: str, chance: random.Random) -> list[tuple[int, ...]]:
    limit = 2**64 if machine in tables.WIDE else 2**32  # the kernel gives a 32-bit program's registers, never more
    values = [value for value in VALUES if value < limit]
    mixed = [tuple(chance.choice(values) for _ in range(6)) for _ in range(4)]
    return [*((value,) * 6 for value in values), *mixed]


def sample(machine: str, chance: random.Random, count: int) -> list[str]:
    names = [name for name in resolves(machine) if tables.numbers(machine)[name] < tables.PRIVATE]
    return chance.sample([name for name in names if machine != "x86" or name not in MULTIPLEXED], count)


def profile_of(machine: str, default: str, entries: list[dict[str, Any]]) -> bytes:
    profile = {"defaultAction": default, "architectures": [tables.SCMP_ARCH[machine]], "syscalls": entries}
    return ours.compile_profile(profile, NATIVE.get(machine, machine))[0]


@pytest.mark.parametrize("machine", sorted(tables.AUDIT_ARCH))
@pytest.mark.parametrize(("default", "action"), [("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"), ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")])
def test_random_profiles_give_libseccomps_results(machine: str, default: str, action: str) -> None:
    chance = random.Random(f"{machine} {action}")
    for _ in range(4):
        entries = random_entries(chance, sample(machine, chance, 25), action, ONE_RULE, 1)
        with oracle(ours.ACTIONS[default] | (default == "SCMP_ACT_ERRNO"), machine) as filter_:
            told(filter_, entries)
            theirs = filter_.program()
        top = max(tables.numbers(machine)[entry["names"][0]] for entry in entries)
        compare(profile_of(machine, default, entries), theirs, machine, top, vectors_for(machine, chance))


def allow(name: str, *tests: tuple[int, str, int]) -> dict[str, Any]:
    args = [{"index": index, "op": f"SCMP_CMP_{word}", "value": value, "valueTwo": 0} for index, word, value in tests]
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": args}


@pytest.mark.parametrize("machine", sorted(tables.AUDIT_ARCH))
def test_alternatives_give_libseccomps_results(machine: str) -> None:
    """The forms that Docker's profile uses: equal to one of several, and all but two values."""
    chance = random.Random(machine)
    first, second, third = sample(machine, chance, 3)
    entries = [
        allow(name, (0, operator, value))
        for name, operator, value in (
            *((first, "EQ", value) for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)),
            (second, "LT", 38), (second, "EQ", 39), (second, "GT", 40),
        )
    ]  # fmt: skip
    entries.append(allow(third, (1, "EQ", 37), (1, "EQ", 0x7E020000)))
    with oracle(ours.ACTIONS["SCMP_ACT_ERRNO"] | 1, machine) as filter_:
        told(filter_, entries)
        theirs = filter_.program()
    more = [(value, value, 0, 0, 0, 0) for value in (8, 0x20000, 0x20008, 39, 40, 41)]
    top = max(tables.numbers(machine)[entry["names"][0]] for entry in entries)
    program = profile_of(machine, "SCMP_ACT_ERRNO", entries)
    compare(program, theirs, machine, top, [*vectors_for(machine, chance), *more])


@pytest.mark.parametrize("machine", sorted(tables.AUDIT_ARCH))
def test_several_entries_mean_what_the_manual_says(machine: str) -> None:
    chance = random.Random(machine)
    mask = 2**64 - 1 if machine in tables.WIDE else 2**32 - 1
    for _ in range(4):
        names = sample(machine, chance, 25)
        entries = random_entries(chance, names, "SCMP_ACT_ALLOW", SEVERAL, 4)
        program = profile_of(machine, "SCMP_ACT_KILL_PROCESS", entries)
        for name in names:
            mine = [entry for entry in entries if entry["names"] == [name]]
            for vector in vectors_for(machine, chance):
                result = interpret(program, tables.numbers(machine)[name], vector, tables.AUDIT_ARCH[machine])
                expected = "SCMP_ACT_ALLOW" if any(holds(entry, vector, mask) for entry in mine) else "SCMP_ACT_KILL_PROCESS"
                assert result == ours.ACTIONS[expected], (name, mine, vector)


def test_calls_that_i386_has_twice_are_covered_at_both_doors() -> None:
    names = [name for name in MULTIPLEXED if name in ("socket", "sendmsg", "accept", "semop", "shmget", "msgctl", "recv")]
    entries = [{"names": names, "action": "SCMP_ACT_ALLOW", "args": []}]
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"], "syscalls": entries}
    program, _ = ours.compile_profile(profile, "x86_64")
    with oracle(ours.ACTIONS["SCMP_ACT_ERRNO"] | 1, "x86") as filter_:
        told(filter_, entries)
        theirs = filter_.program()
    compare(program, theirs, "x86", 372, [(value, 0, 0, 0, 0, 0) for value in range(30)])


def test_a_profile_of_the_size_of_dockers_gives_equal_results() -> None:
    """Hundreds of names in one entry, and libseccomp's tree as well as its list."""
    names = [name for name in resolves("x86_64") if not name.startswith(("io_uring", "mount", "ptrace"))]
    entries = [{"names": names, "action": "SCMP_ACT_ALLOW", "args": []}]
    program, _ = ours.compile_profile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": entries}, "x86_64")
    with oracle(ours.ACTIONS["SCMP_ACT_ERRNO"] | 1, "x86_64") as filter_:
        told(filter_, entries)
        list_ = filter_.program()
        filter_.tree()
        tree = filter_.program()
    top = max(tables.numbers("x86_64")[name] for name in names)
    for theirs in (list_, tree):
        compare(program, theirs, "x86_64", top, [(0,) * 6])
    assert len(program) < len(list_)


@pytest.mark.parametrize(
    "action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY"]
)
def test_actions_are_libseccomps_numbers(action: str) -> None:
    entries: list[dict[str, Any]] = [{"names": ["dup2"], "action": action, "args": []}]
    if action == "SCMP_ACT_TRACE":
        entries[0]["errnoRet"] = 7
    program, _ = ours.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": entries}, "x86_64")
    with oracle(ours.ACTIONS["SCMP_ACT_ALLOW"], "x86_64") as filter_:
        told(filter_, entries)
        theirs = filter_.program()
    number = tables.numbers("x86_64")["dup2"]
    assert interpret(program, number) == interpret(theirs, number) != ours.ACTIONS["SCMP_ACT_ALLOW"]
