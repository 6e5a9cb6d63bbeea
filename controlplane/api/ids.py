"""Identifiers of rows: 25 characters of base 36, as SwarmKit's (identity/doc.go): short, without case, safe in names and URLs."""

import secrets

LENGTH = 25
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(number: int, length: int) -> str:
    """`number` in base 36, padded with zeros to `length` characters."""
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits)).rjust(length, "0")


def new_id() -> str:
    """A new random identifier: 128 bits in 25 characters."""
    return base36(secrets.randbits(128), LENGTH)
