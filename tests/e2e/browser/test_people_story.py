"""Users and access tokens."""

from __future__ import annotations

import httpx
from playwright.sync_api import expect

from tests.e2e.browser.product import STORY
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY


def test_a_user_is_made_disabled_and_enabled(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/users")
    visitor.button("New user").click()
    page.get_by_label("User name").fill("dora")
    page.get_by_label("Password").fill("short")
    visitor.button("Create").click()
    expect(page.get_by_role("alert").first).to_contain_text("password")
    visitor.button("New user").click()
    page.get_by_label("User name").fill("dora")
    page.get_by_label("Password").fill("correct horse battery")
    visitor.button("Create").click()
    expect(page.get_by_text("User dora can sign in now.")).to_be_visible()
    row = page.get_by_role("row", name="dora")
    expect(row).to_contain_text("active")
    visitor.button("Disable dora").click()
    expect(row).to_contain_text("disabled")
    visitor.button("Enable dora").click()
    expect(row).to_contain_text("active")


def test_a_token_is_shown_once_works_and_is_revoked(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    visitor.go("/tokens")
    visitor.button("New token").click()
    page.get_by_label("Name").fill("pipeline")
    page.get_by_label("Scopes").fill("Service View")
    visitor.button("Create").click()
    text = page.get_by_role("region", name="New token").locator("code").inner_text()

    def asks() -> int:
        headers = {"Authorization": f"Bearer {text}"}
        return httpx.get(f"{product.url}/api/v1/services", headers=headers, verify=False, timeout=60).status_code

    assert asks() == 200
    page.reload()
    expect(page.get_by_role("region", name="New token")).to_have_count(0)
    visitor.button("Revoke pipeline").click()
    expect(page.get_by_text("Token pipeline is revoked.")).to_be_visible()
    assert asks() == 401
