"""Policies from draft to effect: a promotion follows a push, a retention is tried and run, what was deleted comes back."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.browser.product import STORY, Product
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY


def _tags(product: Product, name: str) -> dict[str, str]:
    pk = product.rows(f"repositories?name={name}")[0]["id"]
    return {row["name"]: row["digest"] for row in product.rows(f"repositories/{pk}/tags")}


def _rehearsed(visitor: Visitor) -> dict[str, str]:
    """Tag -> what would become of it and why, as the page says it."""
    visitor.button("Show what it would do").click()
    rows = visitor.page.get_by_role("region", name="Outcome").locator("tbody tr")
    expect(rows.first).to_be_visible()
    found = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows.all()]
    return {cells[0]: " | ".join(cells[1:]) for cells in found}


def test_a_promotion_from_draft_to_push(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    product.push("admin/line:dev-1", "31")
    product.push("admin/line:rc-1", "31")
    product.push("admin/line-prod:first", "32")
    visitor.go("/repositories/admin/line")
    page.get_by_role("link", name="Policies").click()
    page.get_by_role("link", name="Promotion").click()
    page.get_by_label("Into repository").fill("admin/line-prod")
    page.get_by_label("As tag").fill("from-%n")
    page.get_by_label("Rule 1: field").select_option("tag")
    page.get_by_label("Rule 1: comparison").select_option("starts_with")
    page.get_by_label("Rule 1: value").fill("rc-")
    said = _rehearsed(visitor)
    assert "promote" in said["rc-1"]
    assert "admin/line-prod:from-rc-1" in said["rc-1"]
    assert "tag starts with rc-" in said["rc-1"]
    assert "skip" in said["dev-1"]
    assert "not so: tag starts with rc-" in said["dev-1"]
    assert set(_tags(product, "admin/line-prod")) == {"first"}, "a rehearsal changes nothing"
    visitor.button("Save").click()
    expect(page.get_by_text("Promotion is saved.")).to_be_visible()
    expect(page.get_by_role("region", name="Policies")).to_contain_text("to admin/line-prod:from-%n")

    product.push("admin/line:rc-2", "33")
    product.until(lambda: {"from-rc-1", "from-rc-2"} <= set(_tags(product, "admin/line-prod")), "both are promoted")
    assert _tags(product, "admin/line-prod")["from-rc-2"] == _tags(product, "admin/line")["rc-2"]
    assert "from-dev-1" not in _tags(product, "admin/line-prod")


def test_a_retention_is_tried_then_run(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    product.push("admin/attic:old", "34")
    product.push("admin/attic:new", "35")
    visitor.go("/repositories/admin/attic/-/policies")
    page.get_by_role("link", name="Retention").click()
    page.get_by_label("Rule 1: keep").select_option("latest_pushed")
    page.get_by_label("Rule 1: how many or how long").fill("many")
    visitor.button("Show what it would do").click()
    expect(page.get_by_role("alert")).to_contain_text("latest_pushed takes how many to keep")
    expect(visitor.button("Save")).to_have_count(0)
    page.get_by_label("Rule 1: how many or how long").fill("1")
    page.get_by_label("Only tags that are pushed from now on").check()
    visitor.button("Show what it would do").click()
    expect(page.get_by_text("Nothing that is here now")).to_be_visible()
    visitor.button("Save").click()
    row = page.get_by_role("region", name="Policies").locator("tbody tr")
    expect(row).to_contain_text("what is among the 1 newest pushes")

    row.get_by_role("button", name="Turn off").click()
    expect(row).to_contain_text("off")
    row.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("No policies yet")).to_be_visible()

    page.get_by_role("link", name="Retention").click()
    page.get_by_label("Rule 1: keep").select_option("latest_pushed")
    page.get_by_label("Rule 1: how many or how long").fill("1")
    said = _rehearsed(visitor)
    assert "keep" in said["new"]
    assert "among the 1 newest pushes" in said["new"]
    assert "remove" in said["old"]
    assert "no rule keeps it" in said["old"]
    visitor.button("Save").click()
    visitor.button("Run now the retention policy").click()
    visitor.heading("registry.policies")
    product.until(lambda: set(_tags(product, "admin/attic")) == {"new"}, "the old tag goes")


def test_a_deleted_tag_and_a_deleted_repository_come_back(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    product.push("admin/lost:1", "36")
    before = _tags(product, "admin/lost")
    visitor.go("/repositories/admin/lost")
    visitor.button("Remove tag 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("No tags yet")).to_be_visible()
    page.get_by_role("link", name="History", exact=True).first.click()
    page.get_by_role("button", name="Restore 1 to").first.click()
    expect(page.get_by_text("Tag 1 names")).to_be_visible()
    assert _tags(product, "admin/lost") == before

    pk = product.rows("repositories?name=admin/lost")[0]["id"]
    product.api("DELETE", f"repositories/{pk}/manifests/{before['1']}")
    visitor.go("/repositories/admin/lost/-/history")
    deleted = page.get_by_role("region", name="Deleted images").locator("tbody tr")
    expect(deleted).to_contain_text("in 6 d")
    deleted.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("The image is back, named 1")).to_be_visible()
    assert _tags(product, "admin/lost") == before

    visitor.button("Remove").click()
    visitor.confirm("admin/lost")
    visitor.heading("Repositories")
    page.get_by_role("link", name="Deleted", exact=True).click()
    page.get_by_role("button", name="Undo the deletion of admin/lost").click()
    visitor.heading("admin/lost")
    assert _tags(product, "admin/lost") == before


def test_a_promotion_by_hand_a_quota_and_read_only_mode(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    product.push("admin/hand:1", "37")
    product.push("admin/hand-prod:0", "38")
    visitor.go("/repositories/admin/hand")
    page.get_by_role("link", name="Promote a tag").click()
    page.get_by_label("Into repository").fill("admin/hand-prod")
    page.get_by_label("As tag").fill("good")
    visitor.button("Promote").click()
    expect(page.get_by_text("admin/hand-prod:good is the image that 1 names here.")).to_be_visible()
    assert _tags(product, "admin/hand-prod")["good"] == _tags(product, "admin/hand")["1"]

    page.get_by_role("link", name="Policies").click()
    page.get_by_label("Bytes that admin may hold").fill("2")
    visitor.button("Set quota").click()
    expect(page.get_by_text("of 2.0 GiB used by all of admin")).to_be_visible()
    visitor.button("Remove quota").click()
    expect(page.get_by_text("of 2.0 GiB used by all of admin")).to_have_count(0)

    page.get_by_role("link", name="Read-only").click()
    page.get_by_label("Why").fill("the storage is moved")
    visitor.button("Refuse pushes").click()
    try:
        expect(page.get_by_text("the storage is moved")).to_be_visible()
        assert product.api("GET", "registry/read-only")["enabled"] is True
    finally:
        visitor.button("Take pushes again").click()
    expect(visitor.button("Refuse pushes")).to_be_visible()
    assert product.api("GET", "registry/read-only")["enabled"] is False
