"""The web process dies under an open page: the page says so, heals, and shows what happened meanwhile."""

from __future__ import annotations

import os
import signal

from playwright.sync_api import expect

from tests.e2e.browser.product import STORY, Product
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY


def _expects_the_loss(visitor: Visitor) -> None:
    visitor.expects(r"WebSocket|ERR_|status of 5|Failed to fetch|sendError")


def _kill_web(product: Product) -> int:
    pid = product.up.pid_of("web")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def _web_is_back(product: Product, old: int) -> None:
    product.until(lambda: product.up.pid_of("web") not in (None, old) and product.up.healthy(), "web is back")


def test_the_console_says_that_it_lost_the_link_and_heals(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    _expects_the_loss(visitor)
    visitor.go("/services")
    visitor.live()
    dot = page.locator("#live-state")
    pid = _kill_web(product)
    expect(dot).to_have_attribute("data-state", "off")
    expect(dot).to_contain_text("Connection lost")
    _web_is_back(product, pid)
    product.serve("meanwhile", replicas=0)
    expect(dot).to_have_attribute("data-state", "on")
    expect(page.get_by_role("link", name="meanwhile")).to_be_visible()
    visitor.never_reloaded()
    page.get_by_role("link", name="web", exact=True).click()
    visitor.heading("web")  # the session outlived the process


def test_logs_go_on_by_themselves(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    _expects_the_loss(visitor)
    visitor.go("/services/by-name/web/logs")
    state = page.locator("[data-logs-state]")
    expect(state).to_have_text("following")
    page.evaluate("window.sameDocument = true")
    pid = _kill_web(product)
    expect(state).to_contain_text("trying again")
    _web_is_back(product, pid)
    expect(state).to_have_text("following")
    expect(page.locator(".log-line").first).to_be_visible()
    visitor.never_reloaded()
