"""Repositories: tags, layers, a tag removed, a new repository."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.browser.product import STORY
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY


def test_tags_layers_and_the_removal_of_a_tag(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    visitor.go("/repositories")
    visitor.live()
    product.push("admin/shed:1", "1")
    page.get_by_role("link", name="admin/shed").click()  # it came in by itself
    visitor.heading("admin/shed")
    visitor.live()
    product.push("admin/shed:2", "2")
    tags = page.get_by_role("region", name="Tags").get_by_role("row")
    expect(tags).to_have_count(3)
    visitor.never_reloaded()
    expect(tags.last.locator("td").first).to_have_attribute("role", "cell")  # also of a row that came in by itself

    page.get_by_role("link", name="1", exact=True).click()
    visitor.heading("1")
    layers = page.get_by_role("region", name="Layers").get_by_role("row")
    expect(layers).to_have_count(3)
    expect(layers.nth(1)).to_contain_text("busybox and its applets")
    expect(page.locator("dd", has_text="sh")).to_be_visible()  # the command
    page.get_by_role("link", name="admin/shed").click()

    visitor.button("Remove tag 2").click()
    expect(page.get_by_role("dialog")).to_contain_text("Remove tag 2?")
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("Tag 2 was removed")).to_be_visible()
    expect(tags).to_have_count(2)

    visitor.button("Remove").click()
    visitor.confirm("admin/shed")
    visitor.heading("Repositories")
    expect(page.get_by_role("link", name="admin/shed")).to_have_count(0)


def test_a_new_repository_explains_how_to_fill_it(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/repositories")
    visitor.button("New repository").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill("admin/empty")
    visitor.button("Create").click()
    visitor.heading("admin/empty")
    expect(page.get_by_text("No tags yet")).to_be_visible()
    visitor.go("/repositories")
    visitor.button("New repository").click()
    page.get_by_role("dialog").get_by_label("Name", exact=True).fill("admin/UPPER")
    visitor.button("Create").click()
    expect(page.get_by_role("alert").first).to_be_visible()
