"""The default profile, and what a profile's entries mean; test_seccomp_oracle compares with libseccomp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.protocol.errors import InvalidInput
from agent.runtime.defaults import CAPABILITIES
from agent.runtime.seccomp import compile as ours
from agent.runtime.seccomp import tables
from agent.runtime.seccomp.profile import BY_ARGUMENT, BY_CAPABILITY, REFUSED, default_profile
from tests.unit.agent.bpf import MEANING, VALUES, interpret

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
X86, ARM, I386 = 0xC000003E, 0xC00000B7, 0x40000003


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


def entry(*names: str, action: str = "SCMP_ACT_ALLOW", **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "cannot be SCMP_ACT_NOTIFY"),
        ({"defaultAction": ["SCMP_ACT_ALLOW"]}, "not known"),
        ({"defaultErrnoRet": 1 << 16}, "defaultErrnoRet|errnoRet"),
        ({"defaultErrnoRet": "EPERM"}, "errnoRet"),
        ({"architectures": ["X86"]}, "architecture 'X86'"),
        ({"architectures": "SCMP_ARCH_X86"}, "list of names"),
        ({"syscalls": {}}, None),
        ({"syscalls": [{}]}, "names"),
        ({"syscalls": [entry()]}, "names"),
        ({"syscalls": [entry("write", action="SCMP_ACT_NOTIFY")]}, "handing over"),
        ({"syscalls": [entry("dup2", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}])]}, "value"),
        ({"syscalls": [entry("dup2", args=[{"index": True, "op": "SCMP_CMP_EQ"}])]}, "index is 0..5"),
        ({"syscalls": [entry("dup2", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": 1 << 64}])]}, "64 bits"),
    ],
)
def test_values_are_checked(change: dict[str, Any], word: str | None) -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", **change}
    if word is None:  # empty is as good as absent
        ours.compile_profile(profile, "x86_64")
        return
    with pytest.raises(InvalidInput, match=word):
        ours.compile_profile(profile, "x86_64")


def test_unknown_names_are_ignored_unless_the_caller_is_strict() -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [entry("dup2", "no_such_call", "set_tls")]}
    assert run(profile, number_of("dup2")) == ALLOW
    with pytest.raises(InvalidInput, match="no_such_call"):
        ours.compile_profile(profile, "x86_64", strict=True)
    profile["syscalls"] = [entry("dup2", "set_tls")]  # ARM has the latter
    ours.compile_profile(profile, "x86_64", strict=True)


def test_numbers_above_the_highest_named_do_not_exist_unless_the_default_lets_them_pass() -> None:
    above = number_of("dup2") + 1
    for default, expected in (
        ("ERRNO", ENOSYS), ("KILL_PROCESS", ENOSYS), ("TRAP", ENOSYS), ("KILL", ENOSYS), ("ALLOW", ALLOW), ("LOG", 0x7FFC0000),
        ("TRACE", 0x7FF00001),
    ):  # fmt: skip
        profile = {"defaultAction": f"SCMP_ACT_{default}", "syscalls": [entry("dup2", action="SCMP_ACT_ERRNO", errnoRet=7)]}
        assert run(profile, above) == expected, default
        assert run(profile, above - 1) == 0x00050007, default
    arm = {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_ARM"], "syscalls": [entry("dup2", "set_tls")]}
    program, _ = ours.compile_profile(arm, "aarch64")
    for number, expected in ((62, EPERM), (63, ALLOW), (64, ENOSYS), (0xF0004, ENOSYS), (0xF0005, ALLOW), (0xF0006, ENOSYS)):
        assert interpret(program, number, arch=tables.AUDIT_ARCH["arm"]) == expected, number


def test_architectures_that_the_profile_names_have_their_own_numbers() -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [entry("waitpid", "execve")]}
    assert run(profile, 11, arch=I386) == KILL
    both = {**profile, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_MIPS64"]}
    assert [run(both, number, arch=I386) for number in (7, 11, 8, 12)] == [ALLOW, ALLOW, EPERM, ENOSYS]
    assert [run(both, number) for number in (59, 7, 11)] == [ALLOW, EPERM, EPERM]
    assert run(both, 59 | 0x40000000) == ENOSYS  # x32 stays shut
    assert run(both, 59, arch=ARM) == KILL


def test_the_second_door_of_i386_is_shut_where_arguments_would_count() -> None:
    """The hole of Docker's profile: AF_ALG through socketcall, whose arguments no filter can see."""
    socketcall, ipc = tables.numbers("x86")["socketcall"], tables.numbers("x86")["ipc"]
    test = [{"index": 0, "op": "SCMP_CMP_EQ", "value": 38}]
    base = {"architectures": ["SCMP_ARCH_X86"]}
    allowing = {**base, "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [entry("socket", args=test), entry("semop")]}
    assert run(allowing, socketcall, 1, arch=I386) == EPERM
    assert [run(allowing, ipc, call, arch=I386) for call in (1, 2)] == [ALLOW, EPERM]
    refusing = {**base, "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry("socket", action="SCMP_ACT_ERRNO", args=test)]}
    assert [run(refusing, socketcall, call, arch=I386) for call in (1, 2)] == [EPERM, ALLOW]


def test_flags() -> None:
    def flags(*names: str, notify: bool = False, absent: bool = False) -> int:
        calls = [entry("dup2", action="SCMP_ACT_NOTIFY")] if notify else []
        named = {} if absent else {"flags": [f"SECCOMP_FILTER_FLAG_{name}" for name in names]}
        return ours.compile_profile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": calls, **named}, "x86_64")[1]

    assert (flags(absent=True), flags(), flags("LOG"), flags("TSYNC"), flags("LOG", "SPEC_ALLOW")) == (4, 0, 2, 0, 6)
    assert (flags(absent=True, notify=True), flags(notify=True)) == (12, 8)
    assert (flags("WAIT_KILLABLE_RECV", notify=True), flags("WAIT_KILLABLE_RECV")) == (40, 0)


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
