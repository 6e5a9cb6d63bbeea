from __future__ import annotations

from html.parser import HTMLParser

import pytest

from registry.markdown import render


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("", ""),
        ("plain", "<p>plain</p>"),
        ("# Top", "<h2>Top</h2>"),
        ("###### Low", "<h6>Low</h6>"),
        ("[x](https://example.com)", '<p><a href="https://example.com" rel="nofollow noopener noreferrer">x</a></p>'),
        ("~~no~~ `code`", "<p><s>no</s> <code>code</code></p>"),
        (
            "![logo](https://example.com/a.png)",
            '<p><a href="https://example.com/a.png" rel="nofollow noopener noreferrer">logo</a></p>',
        ),
        ("3. three", '<ol start="3">\n<li>three</li>\n</ol>'),
    ],
)
def test_what_is_shown(text: str, html: str) -> None:
    assert render(text) == html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[x](javascript:alert(1))",
        '![x](javascript:alert(1) "y")',
        '![" onerror="alert(1)](https://example.com)',
        "<javascript:alert(1)>",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        '<a href="https://example.com" onclick="alert(1)">x</a>',
        "<style>body{display:none}</style>",
        '[x](<https://example.com/" onmouseover="alert(1)>)',
    ],
)
def test_what_is_not(text: str) -> None:
    found: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append((tag, dict(attrs)))  # type: ignore[method-assign]  # a recording
    parser.feed(render(text))
    assert {tag for tag, _ in found} <= {"p", "a"}
    for _, attributes in found:
        assert set(attributes) <= {"href", "title", "rel"}
        assert str(attributes.get("href", "https:")).startswith("https:")


def test_tables() -> None:
    html = render("| a | b |\n|---|---|\n| 1 | 2 |")
    assert "<table>" in html
    assert "<td>2</td>" in html


def test_a_wide_table_scrolls_in_its_own_frame_and_an_empty_header_is_no_header() -> None:
    html = render("| | b |\n|---|---|\n| 1 | `<table>` |")
    assert html.startswith('<div class="table-wrap" tabindex="0" role="group" aria-label="Table"><table>')
    assert html.endswith("</table></div>")
    assert html.count("<div") == html.count("</div>") == html.count("<table>") == 1
    assert "<td></td>\n<th>b</th>" in html
    assert "<code>&lt;table&gt;</code>" in html
