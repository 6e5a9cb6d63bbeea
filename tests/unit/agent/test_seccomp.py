"""Our seccomp compiler against libseccomp: same profile, every system call, many arguments, identical results."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from agent.protocol.errors import InvalidInput
from agent.runtime.defaults import CAPABILITIES
from agent.runtime.seccomp import compile as ours
from agent.runtime.seccomp import tables
from agent.runtime.seccomp.profile import BY_ARGUMENT, BY_CAPABILITY, REFUSED, default_profile

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
X86, ARM, I386 = 0xC000003E, 0xC00000B7, 0x40000003


def interpret(program: bytes, number: int, args: tuple[int, ...] = (0,) * 6, arch: int = X86) -> int:
    """Classic BPF as the kernel runs it for seccomp (Documentation/networking/filter.rst)."""
    data = struct.pack("=iIQ6Q", number if number < 2**31 else number - 2**32, arch, 0, *args)
    position = accumulator = 0
    while True:
        code, when_true, when_false, value = struct.unpack_from("=HBBI", program, position * 8)
        position += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x06:
            return int(value)
        elif code == 0x05:
            position += value
        elif code == 0x54:
            accumulator &= value
        else:
            hit = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value, 0x45: accumulator & value}[
                code
            ]
            position += when_true if hit else when_false


def run(profile: dict[str, Any], number: int, *args: int, arch: int = X86) -> int:
    program, _ = ours.compile_profile(profile, "x86_64")
    return interpret(program, number, args + (0,) * (6 - len(args)), arch)


def number_of(name: str) -> int:
    return tables.numbers("x86_64")[name]


def test_foreign_architectures_are_killed_and_x32_does_not_exist() -> None:
    profile = default_profile(CAPABILITIES, "x86_64")
    assert run(profile, number_of("read"), arch=I386) == KILL
    assert run(profile, number_of("read"), arch=ARM) == KILL
    assert run(profile, number_of("read") | 0x40000000) == ENOSYS
    assert run(profile, 0xFFFFFFFF) == EPERM


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_known_call_has_the_answer_of_the_table(machine: str) -> None:
    program, _ = ours.compile_profile(default_profile(CAPABILITIES, machine), machine)
    refused = {name for names in REFUSED.values() for name in names.split()}
    gated = {name for capability, names in BY_CAPABILITY.items() if capability not in CAPABILITIES for name in names.split()}
    granted = {name for capability, names in BY_CAPABILITY.items() if capability in CAPABILITIES for name in names.split()}
    for name, number in tables.numbers(machine).items():
        if name in BY_ARGUMENT.split():
            continue
        allowed = name not in refused and (name not in gated or name in granted)
        result = interpret(program, number, arch=tables.AUDIT_ARCH[machine])
        assert (result == ALLOW) is allowed, name
        assert result in (ALLOW, EPERM, ENOSYS), name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_allowed_calls_are_the_golden_list(machine: str) -> None:
    """Any change of what a plain container may call has to show up in a review of these files."""
    golden = Path(__file__).parent / "golden" / f"seccomp_{machine}.txt"
    assert default_profile(CAPABILITIES, machine)["syscalls"][0]["names"] == golden.read_text().split()


def test_calls_of_a_newer_kernel_do_not_exist() -> None:
    profile = default_profile(CAPABILITIES, "x86_64")
    for number in (600, 1000, 0x3FFFFFFF):
        assert run(profile, number) == ENOSYS


DANGEROUS = (
    "io_uring_setup keyctl add_key userfaultfd bpf mount unshare setns open_tree fsopen perf_event_open pidfd_getfd pivot_root"
    " kexec_load init_module reboot"
)


def test_dangerous_calls_are_refused() -> None:
    profile = default_profile(CAPABILITIES, "x86_64")
    for name in DANGEROUS.split():
        assert run(profile, number_of(name)) == EPERM, name


def test_arguments_of_the_default_profile() -> None:
    profile = default_profile(CAPABILITIES, "x86_64")
    for family, allowed in ((1, True), (2, True), (37, True), (38, False), (39, True), (40, False), (41, True), (1 << 33, True)):
        assert (run(profile, number_of("socket"), family) == ALLOW) is allowed, family
    for persona, allowed in ((0, True), (8, True), (0x20008, True), (0xFFFFFFFF, True), (0x0040000, False), (1 << 32, False)):
        assert (run(profile, number_of("personality"), persona) == ALLOW) is allowed, hex(persona)
    assert run(profile, number_of("clone"), 0x01200011) == ALLOW
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert run(profile, number_of("clone"), flag | 17) == EPERM, hex(flag)
    assert run(profile, number_of("clone3")) == ENOSYS
    admin = default_profile((*CAPABILITIES, "CAP_SYS_ADMIN"), "x86_64")
    assert run(admin, number_of("clone"), 0x10000011) == ALLOW
    assert run(admin, number_of("mount")) == ALLOW


VALUES = (0, 1, 2, 37, 38, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, 0x100000001, 0x7E020000, 2**63, 2**64 - 1)
MEANING = {
    "NE": lambda x, a, b: x != a,
    "LT": lambda x, a, b: x < a,
    "LE": lambda x, a, b: x <= a,
    "EQ": lambda x, a, b: x == a,
    "GE": lambda x, a, b: x >= a,
    "GT": lambda x, a, b: x > a,
    "MASKED_EQ": lambda x, a, b: x & a == b & a,
}


@pytest.mark.parametrize("operator", sorted(MEANING))
def test_comparisons_use_all_64_bits(operator: str) -> None:
    for wanted in VALUES:
        for second in (0, wanted, 0x100000001):
            test = [{"index": 2, "value": wanted, "valueTwo": second, "op": f"SCMP_CMP_{operator}"}]
            profile = {
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": ["dup2"], "action": "SCMP_ACT_ALLOW", "args": test}],
            }
            for value in VALUES:
                expected = MEANING[operator](value, wanted, second)
                assert (run(profile, number_of("dup2"), 9, 9, value) == ALLOW) is expected, (operator, wanted, second, value)


def test_two_tests_of_one_argument_are_alternatives_and_of_two_a_conjunction() -> None:
    def profile(*tests: tuple[int, int]) -> dict[str, Any]:
        args = [{"index": index, "value": value, "op": "SCMP_CMP_EQ"} for index, value in tests]
        entry = {"names": ["dup2"], "action": "SCMP_ACT_ALLOW", "args": args}
        return {"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [entry]}

    same = profile((0, 1), (0, 2))
    assert [run(same, number_of("dup2"), value) for value in (1, 2, 3)] == [ALLOW, ALLOW, KILL]
    both = profile((0, 1), (1, 2))
    assert [run(both, number_of("dup2"), *values) for values in ((1, 2), (1, 3), (0, 2))] == [ALLOW, KILL, KILL]


def test_mistakes_are_named() -> None:
    entry = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{}]}
    for profile, word in (
        ({"defaultAction": "SCMP_ACT_MAYBE"}, "SCMP_ACT_MAYBE"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}, "X"),
        ({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [entry]}, "not valid"),
    ):
        with pytest.raises(InvalidInput, match=word):
            ours.compile_profile(profile, "x86_64")


def test_far_jumps() -> None:
    """Argument tests on every second call make branches longer than an 8-bit jump."""
    args = [{"index": index, "value": 5, "op": "SCMP_CMP_GE"} for index in range(3)]
    names = [name for name, number in tables.numbers("x86_64").items() if number % 2 == 0]
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW", "args": args}]}
    program, _ = ours.compile_profile(profile, "x86_64")
    assert len(program) // 8 > 1000
    for number in tables.numbers("x86_64").values():
        assert (interpret(program, number, (5, 5, 5, 0, 0, 0)) == ALLOW) is (number % 2 == 0), number
        assert interpret(program, number, (5, 5, 4, 0, 0, 0)) != ALLOW


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the oracle filters for the machine it runs on")
def test_equal_to_libseccomp() -> None:
    """Random profiles, every number, boundary arguments."""
    pyseccomp = pytest.importorskip("pyseccomp")
    chance = random.Random(20)
    known = [name for name in tables.numbers("x86_64") if _resolves(pyseccomp, name)]
    for _ in range(6):
        chosen = chance.sample(known, 40)
        oracle = pyseccomp.SyscallFilter(pyseccomp.ERRNO(1))
        entries = []
        for name in chosen:
            operator = chance.choice(sorted(MEANING))
            index, value, second = chance.randrange(6), chance.choice(VALUES), chance.choice(VALUES)
            with_test = chance.random() < 0.6
            args = [{"index": index, "value": value, "valueTwo": second, "op": f"SCMP_CMP_{operator}"}] if with_test else []
            entries.append({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args})
            tests = []
            if with_test:
                kind = getattr(pyseccomp, operator)
                masked = operator == "MASKED_EQ"
                tests = [pyseccomp.Arg(index, kind, value, second & value) if masked else pyseccomp.Arg(index, kind, value)]
            oracle.add_rule(pyseccomp.ALLOW, name, *tests)
        theirs = _export(oracle)
        profile = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": entries}
        program, _ = ours.compile_profile(profile, "x86_64")
        top = max(tables.numbers("x86_64")[name] for name in chosen)
        for number in range(top + 1):
            for value in VALUES:
                args6 = (value,) * 6
                assert interpret(program, number, args6) == interpret(theirs, number, args6), (number, value)


def _resolves(pyseccomp: Any, name: str) -> bool:
    try:
        return bool(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) == tables.numbers("x86_64")[name])
    except (OSError, ValueError):
        return False


def _export(oracle: Any) -> bytes:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        oracle.export_bpf(file)
    with os.fdopen(reader, "rb") as file:
        return file.read()
