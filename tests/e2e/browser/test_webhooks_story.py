"""An endpoint is subscribed, fails, is mended, and gets its message again."""

from __future__ import annotations

import json

from playwright.sync_api import expect

from tests.e2e.browser.product import STORY
from tests.e2e.browser.test_every_page import _violations
from tests.e2e.browser.visitor import Visitor
from tests.integration.registry.scripted import Asked, Says, scripted

pytestmark = STORY


def test_a_failed_delivery_is_sent_again(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    answers = [Says(410, {}, b"moved away")]

    def answer(asked: Asked) -> Says:
        return answers[0]

    with scripted(answer) as endpoint:
        product.push("admin/told:1", "1")
        visitor.go("/repositories/admin/told")
        page.get_by_role("link", name="Webhooks").click()
        expect(page.get_by_text("Nobody is told about this repository")).to_be_visible()
        page.get_by_label("URL").fill(f"{endpoint.url}/hook")
        visitor.button("Subscribe").click()
        expect(page.get_by_text("not shown again: whsec_")).to_be_visible()
        visitor.button("Send a test").click()
        log = f"webhooks/{product.rows('webhooks?repository=admin/told')[0]['id']}/deliveries"
        product.until(lambda: product.rows(log)[0]["state"] == "failed", "the endpoint refused")
        page.reload()
        row = page.get_by_role("region", name="Deliveries").get_by_role("row").nth(1)
        expect(row).to_contain_text("410")
        row.get_by_text("Request and error").click()
        expect(row).to_contain_text("moved away")
        assert _violations(page, "the log") == []

        answers[0] = Says(204)
        row.get_by_role("button", name="Redeliver TAG_PUSH test").click()
        expect(page.get_by_text("It is sent again")).to_be_visible()
        product.until(lambda: product.rows(log)[0]["state"] == "delivered", "the endpoint took it")
        page.reload()
        expect(page.get_by_role("region", name="Deliveries").get_by_role("row").nth(1)).to_contain_text("delivered")
        first, second = endpoint.asked
        assert first.headers["wharf-delivery"] == second.headers["wharf-delivery"]
        assert first.body == second.body

        product.push("admin/told:2", "2")
        product.until(lambda: len(endpoint.asked) == 3, "a push is told by itself")
        assert json.loads(endpoint.asked[2].body)["contents"]["tag"] == "2"
        visitor.button("Remove webhook").click()
        expect(page.get_by_text("The webhook is removed")).to_be_visible()
