"""A node is drained for maintenance and comes back; a token lets another one in."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.browser.product import STORY
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY


def test_drain_and_back(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    product.until(lambda: product.running("web") == 2, "web runs")
    visitor.go("/nodes")
    page.get_by_role("region", name="Nodes").get_by_role("link").click()
    expect(page.locator("#node-live .page-head .state")).to_have_text("ready")
    tasks = page.get_by_role("region", name="Tasks")
    expect(tasks.get_by_role("link", name="web.1")).to_be_visible()
    try:
        page.get_by_label("Availability").select_option("drain")
        with page.expect_response(lambda answer: "/nodes/" in answer.url):
            page.locator("#node-live").dispatch_event("stale")
        expect(page.locator("#node-live.htmx-request, #node-live.htmx-swapping")).to_have_count(0)
        expect(page.get_by_label("Availability")).to_have_value("drain")  # a new copy of the page keeps what was chosen
        visitor.button("Set").click()
        expect(page.get_by_text("Its tasks move to other nodes.")).to_be_visible()
        visitor.live()
        expect(page.locator("#node-live .page-head .state")).to_have_text("drain")
        expect(page.get_by_text("No tasks run here.")).to_be_visible()
        visitor.never_reloaded()
        # with no other node they wait, and say why
        visitor.go("/services/by-name/web")
        expect(page.locator("#service-live .why").first).to_contain_text("drain")
        visitor.live()
    finally:
        node = product.rows("nodes")[0]["id"]
        product.api("PATCH", f"nodes/{node}", {"availability": "active"})
    expect(page.locator("#service-live .facts")).to_contain_text("2 of 2")
    visitor.never_reloaded()


def test_a_join_token_is_shown_once_and_revoked(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/nodes")
    visitor.button("Add a node").click()
    page.get_by_label("Name").fill("rack 4")
    page.get_by_label("How many hosts").fill("3")
    visitor.button("Make token").click()
    line = page.get_by_role("region", name="Join token", exact=True).locator("code")
    expect(line).to_contain_text("wharf-agent join --token WHARF-1-")
    row = page.get_by_role("row", name="rack 4")
    expect(row).to_contain_text("3")
    page.reload()
    expect(line).to_have_count(0)
    visitor.button("Revoke rack 4").click()
    expect(row).to_have_count(0)
