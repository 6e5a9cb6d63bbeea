"""A command line into options, by hand: argparse costs 8 ms of every start.

As Go's flag package, which runc uses: one dash or two, `--name value` or `--name=value`, a flag may be given `=false`. As argp,
which crun uses: letters may stand together (-dt). Options may stand among the operands, except of `exec` and `ps`, whose operands
are another program's.
"""

from __future__ import annotations

from agent.runtime.cli import tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    Value = str | int | bool | list[str]

TRUE, FALSE = ("true", "1", "t", "T", "TRUE", "True"), ("false", "0", "f", "F", "FALSE", "False")


class UsageError(Exception):
    """`command` is where it went wrong; "" before any."""

    def __init__(self, detail: str, command: str = "", status: int = 1) -> None:
        super().__init__(detail)
        self.detail, self.command, self.status = detail, command, status


class Options:
    """Values by option name, of the program and its command (a test keeps their names apart). `words` are the operands."""

    __slots__ = ("_values", "command", "program", "words")

    def __init__(self, program: str, command: str, words: list[str], values: dict[str, Value]) -> None:
        self.program, self.command, self.words = program, command, words
        self._values = values

    def text(self, name: str, default: str = "") -> str:
        value = self._values.get(name, default)
        return value if isinstance(value, str) else default

    def flag(self, name: str) -> bool:
        return self._values.get(name) is True

    def number(self, name: str) -> int | None:
        """None when it was not given."""
        value = self._values.get(name)
        return value if isinstance(value, int) else None

    def many(self, name: str) -> list[str]:
        value = self._values.get(name)
        return value if isinstance(value, list) else []

    def values(self) -> dict[str, Value]:
        """All that was given."""
        return dict(self._values)

    @property
    def id(self) -> str:
        """The first operand, the container's id of nearly every command."""
        return self.words[0]


def parse(program: str, argv: list[str]) -> Options:
    """Raises UsageError. `command` is "" when none is given; the options `help` and `version` are the caller's to look at."""
    values: dict[str, Value] = {}
    words, rest = _read(argv, tables.GLOBAL, values, "", in_order=True)
    if not words:
        return Options(program, "", [], values)
    name = words[0]
    if name in ("help", "h") and len(words) <= 2:
        name, words, rest = (words[1] if len(words) == 2 else ""), ["help"], []
        values["help"] = True
    if name and name not in tables.COMMANDS:
        raise UsageError(f"No help topic for '{name}'", status=3)
    if words == ["help"]:
        return Options(program, name, [], values)
    _, _, fewest, most, in_order, options = tables.COMMANDS[name]
    words, more = _read(words[1:] + rest, (*options, tables.HELP), values, name, in_order)
    words += more
    if "help" not in values:
        _count(program, name, len(words), fewest, most)
    return Options(program, name, words, values)


def _count(program: str, name: str, found: int, fewest: int, most: int) -> None:
    """In runc's words."""
    if fewest == most != found:
        raise UsageError(f'{program}: "{name}" requires exactly {fewest} argument(s)', name)
    if found < fewest:
        raise UsageError(f'{program}: "{name}" requires a minimum of {fewest} argument(s)', name)
    if found > most >= 0:
        raise UsageError(f'{program}: "{name}" requires a maximum of {most} argument(s)', name)


def _read(
    argv: list[str], options: tuple[tables.Option, ...], values: dict[str, Value], command: str, in_order: bool
) -> tuple[list[str], list[str]]:
    """(operands, what follows `--` or, in order, the first operand)."""
    known = {option[0]: option for option in options}
    letters = {option[1]: option for option in options if option[1]}
    words: list[str] = []
    index = 0
    while index < len(argv):
        word = argv[index]
        index += 1
        if word == "--":
            return words, argv[index:]
        if len(word) < 2 or word[0] != "-":
            words.append(word)
            if in_order:
                return [*words, *argv[index:]], []
            continue
        name, equals, value = word.lstrip("-").partition("=")
        option = known.get(name) or letters.get(name)
        if option is None:
            if not _letters(word, letters, values):
                raise UsageError(f"flag provided but not defined: -{name}", command)
        elif option[2] == "flag":
            values[option[0]] = _truth(option, value, command) if equals else True
        else:
            if not equals:
                if index == len(argv):
                    raise UsageError(f"flag needs an argument: -{name}", command)
                value = argv[index]
                index += 1
            _store(option, value, values, command)
    return words, []


def _letters(word: str, letters: dict[str, tables.Option], values: dict[str, Value]) -> bool:
    """-dt, and -bDIR; False when it is neither."""
    if word.startswith("--") or word[1] not in letters:
        return False
    for position, letter in enumerate(word[1:], 1):
        option = letters.get(letter)
        if option is None:
            return False
        if option[2] != "flag":
            _store(option, word[position + 1 :], values, "")
            return position + 1 < len(word)
        values[option[0]] = True
    return True


def _truth(option: tables.Option, value: str, command: str) -> bool:
    if value not in TRUE + FALSE:
        raise UsageError(f'invalid boolean value "{value}" for -{option[0]}: parse error', command)
    return value in TRUE


def _store(option: tables.Option, value: str, values: dict[str, Value], command: str) -> None:
    if option[2] == "many":
        many = values.setdefault(option[0], [])
        if isinstance(many, list):
            many.append(value)
    elif option[2] == "number":
        try:
            values[option[0]] = int(value, 0)
        except ValueError:
            raise UsageError(f'invalid value "{value}" for flag -{option[0]}: parse error', command) from None
    else:
        values[option[0]] = value
