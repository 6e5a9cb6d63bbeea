"""One product and one Chromium for all stories; a fresh, signed-in tab for each. Both end with this directory.

The scope is the package, not the session: playwright's loop runs in the main thread, where tests of other directories run theirs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.e2e.browser.product import CHROMIUM, PATIENCE, Product
from tests.e2e.browser.visitor import Visitor
from tests.nodes import isolate

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-first-run",
         "--disable-sync", "--disable-dev-shm-usage")  # fmt: skip


@pytest.fixture(scope="package")
def product() -> Iterator[Product]:
    isolate()
    made = Product()
    try:
        made.start()
        yield made
    finally:
        left = made.stop()
    assert left == []


@pytest.fixture(scope="package")
def chromium(product: Product) -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def session(chromium: Browser, product: Product) -> Any:
    """The cookies of one sign-in."""
    context = chromium.new_context(ignore_https_errors=True)
    Visitor(context.new_page(), product).sign_in()
    state = context.storage_state()
    context.close()
    return state


def _tab(chromium: Browser, product: Product, request: pytest.FixtureRequest, state: Any) -> Iterator[Visitor]:
    context = chromium.new_context(ignore_https_errors=True, viewport={"width": 1360, "height": 850}, storage_state=state)
    context.set_default_timeout(PATIENCE * 1000)
    visitor = Visitor(context.new_page(), product)
    try:
        yield visitor
    finally:
        if visitor.unexpected() or getattr(request.node, "failed", False):
            shot = Path(tempfile.gettempdir()) / f"wharf-story-{request.node.name}.png"
            visitor.page.screenshot(path=shot)
            print(f"what was to be seen at the end: {shot}")
        context.close()
    assert visitor.unexpected() == []


@pytest.fixture
def visitor(chromium: Browser, product: Product, session: Any, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    """Signed in as the administrator. At the end no error may have been seen, and nobody else asked."""
    yield from _tab(chromium, product, request, session)


@pytest.fixture
def newcomer(chromium: Browser, product: Product, request: pytest.FixtureRequest) -> Iterator[Visitor]:
    """Not signed in."""
    yield from _tab(chromium, product, request, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        item.failed = True  # type: ignore[attr-defined]  # the fixtures look at it
    return report
