"""Tag templates of promotions and mirrors: `%n` is the source's tag, the other letters are strftime's, `%%` is a percent sign."""

from __future__ import annotations

import re
from datetime import datetime

from agent.protocol.errors import InvalidInput
from agent.protocol.oci import TagInvalid, check_tag

LETTERS = "AawdBbmYyHIpMSfZjW"  # of DTR; %n and %% come on top
_SAMPLE = datetime(2024, 12, 31, 23, 59, 58)  # a constant to try a template on, not a moment
_DIRECTIVE = re.compile(r"%(.?)", re.DOTALL)


class TemplateInvalid(InvalidInput):
    code = "tag_template_invalid"


def check_template(template: str) -> str:
    """The template itself. Raises TemplateInvalid for letters that mean nothing and for what can never be a tag."""
    expand(template, "1.0", _SAMPLE)
    return template


def expand(template: str, tag: str, now: datetime) -> str:
    """The target's tag. Raises TemplateInvalid."""

    def letter(found: re.Match[str]) -> str:
        char = found[1]
        if char == "n":
            return tag
        if char == "%":
            return "%"
        if char == "" or char not in LETTERS:
            raise TemplateInvalid(
                f"%{char} means nothing in a tag template; %n is the tag, and %{', %'.join(LETTERS)} are parts of the time"
            )
        return now.strftime(f"%{char}")

    text = _DIRECTIVE.sub(letter, template)
    try:
        return check_tag(text)
    except TagInvalid as error:
        raise TemplateInvalid(
            f"the template {template!r} makes {text[:200]!r} of {tag}, which is no tag (letters, digits, _ . -, at most 128)"
        ) from error
