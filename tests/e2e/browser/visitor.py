"""A person in front of a browser, and everything that must not happen while they use the console."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Page, Request, Response, expect

from tests.e2e.browser.product import Product

# The browser reports a refused inline style or a foreign script only as an event of the document.
REPORT_VIOLATIONS = """document.addEventListener("securitypolicyviolation",
    (event) => console.error(`CSP ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));"""


class Visitor:
    """`page` is the tab. `problems` is what went wrong in it: the `visitor` fixture demands that nothing did."""

    def __init__(self, page: Page, product: Product) -> None:
        self.page = page
        self.product = product
        self.problems: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        self.loaded: list[tuple[str, int]] = []
        page.add_init_script(REPORT_VIOLATIONS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self._problem(f"page error: {error}"))
        page.on("request", self._asked)
        page.on("response", self._answered)

    def _problem(self, text: str) -> None:
        self.problems.append(text)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._problem(f"console {message.type}: {message.text} ({message.location.get('url', '')})")

    def _asked(self, request: Request) -> None:
        where = urlsplit(request.url)
        if where.scheme not in ("data", "blob") and where.netloc != urlsplit(self.product.url).netloc:
            self._problem(f"request to another host: {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 500:
            self._problem(f"{response.status} from {response.url}")

    def expects(self, pattern: str) -> None:
        """What the browser says about a refusal that the story provokes."""
        self._expected.append(re.compile(pattern))

    def unexpected(self) -> list[str]:
        return [text for text in self.problems if not any(pattern.search(text) for pattern in self._expected)]

    # --- going about ---

    def go(self, path: str) -> Response | None:
        return self.page.goto(self.product.url + path)

    def sign_in(self) -> None:
        self.go("/login")
        self.page.get_by_label("User name").fill("admin")
        self.page.get_by_label("Password").fill(self.product.password)
        self.page.get_by_role("button", name="Sign in").click()
        self.heading("Overview")

    def heading(self, text: str) -> None:
        expect(self.page.get_by_role("heading", level=1)).to_have_text(text)

    def live(self) -> None:
        """The page is connected: what changes from now on is shown without a reload."""
        expect(self.page.locator("#live-state")).to_have_attribute("data-state", "on")
        self.page.evaluate("window.sameDocument = true")

    def never_reloaded(self) -> None:
        assert self.page.evaluate("window.sameDocument === true"), "the page was loaded again"

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def confirm(self, name: str) -> None:
        """Types the name into the open dialog of a removal and presses its button, which sleeps until then."""
        dialog = self.page.locator("dialog[open]")
        button = dialog.locator("button[type=submit]")
        expect(button).to_be_disabled()
        dialog.locator("input:not([type=hidden]):not([type=checkbox])").first.press_sequentially(name[:-1])
        expect(button).to_be_disabled()
        dialog.locator("input:not([type=hidden]):not([type=checkbox])").first.press_sequentially(name[-1])
        button.click()
