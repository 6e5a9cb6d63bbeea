"""What JSON can spell and no database or page can hold."""

from __future__ import annotations

import json
from typing import Any


def unstorable(text: str, value: Any) -> str:
    """Why the `value` of a JSON `text` must be refused, "" when it can be stored and shown.

    Half a surrogate pair is no Unicode: a row that holds it could never be shown again, nor any list with it. PostgreSQL's text
    has no NUL. Only an escape can spell either.
    """
    if "\\u" not in text:
        return ""
    try:
        plain = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair (an escape \\ud800 to \\udfff by itself)"
    return "the character NUL (\\u0000)" if b"\\u0000" in plain.replace(b"\\\\", b"") else ""
