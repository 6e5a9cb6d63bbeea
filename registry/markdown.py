"""A repository's long description: Markdown to HTML that is safe to show to anybody.

CommonMark with tables and strikethrough; raw HTML in the text is shown as text. What comes out is sanitised all the same. Links
open as `nofollow noopener`; images become links, since the console loads nothing from other hosts.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from functools import lru_cache
from html import escape
from typing import Any

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

TAGS = {
    *("p", "br", "hr", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code"),
    *("em", "strong", "s", "a", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
_FRAME = '<div class="table-wrap" tabindex="0" role="group" aria-label="Table">'
SCHEMES = {"http", "https", "mailto"}


class _Renderer(RendererHTML):
    """Headings one step down (the page has its h1), images as links to what they show, a header that says nothing as a cell."""

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        token = tokens[idx]
        source = escape(str(token.attrs.get("src", "")))
        label = escape(token.content or "image")
        return f'<a href="{source}">{label}</a>'

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return f"<{_lower(tokens[idx].tag)}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return f"</{_lower(tokens[idx].tag)}>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return "<th>" if tokens[idx + 1].content else "<td>"

    def th_close(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        return "</th>\n" if tokens[idx - 1].content else "</td>\n"


def _lower(tag: str) -> str:
    return f"h{min(int(tag[1]) + 1, 6)}"


_parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable(["table", "strikethrough"])


@lru_cache(maxsize=256)
def render(text: str) -> SafeString:
    """Sanitised HTML, "" for nothing."""
    html = nh3.clean(
        _parser.render(text), tags=TAGS, attributes=ATTRIBUTES, url_schemes=SCHEMES, link_rel="nofollow noopener noreferrer"
    )
    # A table scrolls in a frame of its own; "<table>" is markup here, never a word of the text, which is escaped.
    html = html.replace("<table>", f"{_FRAME}<table>").replace("</table>", "</table></div>")
    return mark_safe(html.strip())  # noqa: S308  # sanitised above
