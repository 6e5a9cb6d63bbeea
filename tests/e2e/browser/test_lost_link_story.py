"""The web process dies under an open page: the page says so, heals, and shows what happened meanwhile."""

from __future__ import annotations

import os
import signal

from playwright.sync_api import expect

from tests.e2e.browser.product import STORY
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY


def test_the_console_says_that_it_lost_the_link_and_heals(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    visitor.expects(r"WebSocket|ERR_|status of 5|Failed to fetch|sendError|502|503")
    visitor.go("/services")
    visitor.live()
    dot = page.locator("#live-state")
    pid = product.up.pid_of("web")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    expect(dot).to_have_attribute("data-state", "off")
    expect(dot).to_contain_text("Connection lost")
    product.until(lambda: product.up.pid_of("web") not in (None, pid) and product.up.healthy(), "web is back")
    product.serve("meanwhile", replicas=0)
    expect(dot).to_have_attribute("data-state", "on")
    expect(page.get_by_role("link", name="meanwhile")).to_be_visible()
    visitor.never_reloaded()
    page.get_by_role("link", name="web", exact=True).click()
    visitor.heading("web")  # the session outlived the process
