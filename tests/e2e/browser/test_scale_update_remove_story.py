"""A service grows, gets a new image and goes; every step is seen without a reload."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.e2e.browser.product import STORY
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY


def test_scale_update_and_remove(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    product.serve("lift")
    visitor.go("/services/by-name/lift")
    tasks = page.locator("#service-live section", has=page.get_by_role("heading", name="Tasks", exact=True)).locator(".state")
    expect(tasks).to_have_text(["running"])

    page.get_by_label("Replicas").fill("3")
    visitor.button("Scale").click()
    expect(page.get_by_role("status").filter(has_text="lift wants 3 replicas now.")).to_be_visible()
    visitor.live()
    expect(tasks).to_have_text(["running"] * 3)
    expect(page.locator(".facts")).to_contain_text("3 of 3")
    visitor.never_reloaded()

    before = page.locator("#pinned-image").inner_text()
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Image", exact=True).fill("admin/web:2")
    page.get_by_label("Update at once").fill("0")
    visitor.button("Update").click()
    visitor.live()
    expect(page.get_by_role("heading", name="Ended tasks")).to_be_visible()
    expect(tasks).to_have_text(["running"] * 3)
    expect(page.locator("#pinned-image")).not_to_have_text(before)
    visitor.never_reloaded()
    product.until(lambda: product.running("lift") == 3, "the new tasks run")

    visitor.button("Remove").click()
    visitor.confirm("lift")
    visitor.heading("Services")
    visitor.live()
    expect(page.get_by_role("link", name="lift")).to_have_count(0)
    expect(page.get_by_role("link", name="web", exact=True)).to_be_visible()
    visitor.never_reloaded()


def test_an_open_dialog_survives_the_refreshing_of_the_page(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/services/by-name/web")
    visitor.live()
    visitor.button("Remove").click()
    page.locator("#confirm-service").fill("we")
    with page.expect_response(re.compile("/services/by-name/web$")):  # the fragment is told to look again
        visitor.product.api("POST", "services", {"spec": {"name": "other", "replicas": 0, "container": {"image": "admin/web:1"}}})
        page.evaluate("fetch(location.pathname)")
        page.evaluate("document.querySelector('#service-live').dispatchEvent(new CustomEvent('stale'))")
    expect(page.locator("dialog[open] #confirm-service")).to_have_value("we")
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)
