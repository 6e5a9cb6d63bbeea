"""The command line's own reading of words, durations, sizes and signals."""

from __future__ import annotations

import pytest

from agent.protocol.errors import InvalidInput
from agent.runtime.cli import commands, events, helptext, limits, signals, tables
from agent.runtime.cli.arguments import Options, UsageError, parse
from agent.runtime.errors import InvalidConfig


def read(*words: str) -> Options:
    return parse("wharf-runtime", list(words))


def test_options_before_and_after_the_command() -> None:
    options = read("--root", "/r", "-debug", "--log=/l", "run", "-b", "/bundle", "--detach", "-preserve-fds=2", "box")
    assert (options.command, options.words, options.id) == ("run", ["box"], "box")
    assert (options.text("root"), options.text("log"), options.text("bundle")) == ("/r", "/l", "/bundle")
    assert options.flag("debug")
    assert options.flag("detach")
    assert options.number("preserve-fds") == 2
    assert options.number("nothing") is None


def test_options_stand_among_operands_but_not_among_another_program_s() -> None:
    assert read("update", "box", "--memory", "-1").text("memory") == "-1"
    assert read("kill", "box", "-a", "KILL").words == ["box", "KILL"]
    options = read("exec", "-e", "A=1", "--env=B=2", "box", "ls", "-e", "--cwd")
    assert options.many("env") == ["A=1", "B=2"]
    assert options.words == ["box", "ls", "-e", "--cwd"]
    assert read("ps", "box", "-e", "-x").words == ["box", "-e", "-x"]
    assert read("exec", "box", "--", "ls").words == ["box", "--", "ls"]
    assert read("exec", "--", "box", "-t").words == ["box", "-t"]


def test_letters_together_and_flags_with_values() -> None:
    options = read("exec", "-dt", "-u1000", "box", "ls")
    assert options.flag("detach")
    assert options.flag("tty")
    assert options.text("user") == "1000"
    assert not read("exec", "--tty=false", "box", "ls").flag("tty")


@pytest.mark.parametrize(
    ("words", "detail", "status"),
    [
        (["foo", "-h"], "No help topic for 'foo'", 3),
        (["run"], 'wharf-runtime: "run" requires exactly 1 argument(s)', 1),
        (["kill"], 'wharf-runtime: "kill" requires a minimum of 1 argument(s)', 1),
        (["kill", "a", "b", "c"], 'wharf-runtime: "kill" requires a maximum of 2 argument(s)', 1),
        (["run", "--nope", "box"], "flag provided but not defined: -nope", 1),
        (["run", "box", "--bundle"], "flag needs an argument: -bundle", 1),
        (["exec", "--tty=maybe", "box", "ls"], 'invalid boolean value "maybe" for -tty: parse error', 1),
        (["run", "--preserve-fds", "x", "box"], 'invalid value "x" for flag -preserve-fds: parse error', 1),
    ],
)
def test_misuse_is_told_in_the_peers_words(words: list[str], detail: str, status: int) -> None:
    with pytest.raises(UsageError) as caught:
        read(*words)
    assert (caught.value.detail, caught.value.status) == (detail, status)


@pytest.mark.parametrize(
    "words", [["--help"], ["-h"], ["run", "-h"], ["run", "--help", "box", "more"], ["help"], ["help", "run"]]
)
def test_help_asks_for_nothing_else(words: list[str]) -> None:
    assert read(*words).flag("help")


def test_every_command_is_dispatched_and_explained() -> None:
    assert set(commands.TABLE) == set(tables.COMMANDS)
    for name, (_, _, _, _, _, options) in tables.COMMANDS.items():
        page = helptext.page("wharf-runtime", name)
        assert all(f"--{option[0]}" in page for option in options)
        letters = [option[1] for option in options if option[1]]
        assert len(letters) == len(set(letters))
        both = {option[0] for option in options} & {option[0] for option in tables.GLOBAL}  # Options holds both
        assert both <= {"rootless"}  # a text of the program's, a flag of spec's


@pytest.mark.parametrize(
    ("text", "expected"), [("5s", 5), ("100ms", 0.1), ("1m30s", 90), ("2", 2), ("1.5h", 5400), ("1h1s", 3601)]
)
def test_durations(text: str, expected: float) -> None:
    assert events.seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "s", "5x", "0", "-1s", "1 s"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput, match="invalid duration"):
        events.seconds(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("67108864", 1 << 26), ("50M", 50 << 20), ("1.5GiB", 3 << 29), ("2kb", 2048), ("-1", -1), ("0", 0)]
)
def test_sizes(text: str, expected: int) -> None:
    assert limits.size(text, "memory") == expected


def test_sizes_that_are_none() -> None:
    for text in ("much", "-2", "1X", "M"):
        with pytest.raises(InvalidInput, match="invalid size"):
            limits.size(text, "memory")


@pytest.mark.parametrize(
    ("text", "expected"), [("9", 9), ("0", 0), ("TERM", 15), ("sigkill", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)]
)
def test_signals(text: str, expected: int) -> None:
    assert signals.signal_number(text) == expected


@pytest.mark.parametrize("text", ["NOPE", "65", "-9", "RTMAX+9", "Signals", ""])
def test_signals_that_are_none(text: str) -> None:
    with pytest.raises(InvalidConfig, match="unknown signal"):
        signals.signal_number(text)
