"""A repository with images from its making to its readers: text, rights, artifacts, comparison, a robot, storage and garbage."""

from __future__ import annotations

import re

import httpx
from playwright.sync_api import expect

from tests.e2e.browser.artifacts import Pusher
from tests.e2e.browser.product import STORY
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY


def pusher(visitor: Visitor, repository: str) -> Pusher:
    return Pusher(visitor.product.url, repository, "admin", visitor.product.password)


def test_a_repository_is_described_and_found_by_its_label(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/repositories")
    visitor.button("New repository").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill("admin/till")
    dialog.get_by_label("Labels").fill("team=till shelf=front")
    visitor.button("Create").click()
    visitor.heading("admin/till")
    page.get_by_role("link", name="Settings", exact=True).click()
    page.get_by_label("Description", exact=True).fill("Where money is counted")
    page.get_by_label("Long description").fill(
        "# The till\n\n<script>alert(1)</script> See [docs](https://docs.example.com).\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    visitor.button("Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    page.get_by_role("link", name="Info", exact=True).click()
    expect(page.get_by_role("heading", name="The till")).to_be_visible()
    expect(page.get_by_role("link", name="docs", exact=True)).to_have_attribute("rel", re.compile("nofollow"))
    expect(page.locator(".written td").first).to_have_text("1")
    page.get_by_role("link", name="shelf=front").click()
    visitor.heading("Repositories")
    expect(page.get_by_role("region", name="Repositories").get_by_role("row")).to_have_count(2)
    page.get_by_role("link", name="Pulls", exact=True).click()
    expect(page.get_by_role("columnheader", name="Pulls")).to_have_attribute("aria-sort", "descending")
    visitor.product.api("DELETE", f"repositories/{visitor.product.rows('repositories?name=admin/till')[0]['id']}")


def test_a_team_gets_a_right_and_the_page_says_why(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    product.api("POST", "repositories", {"name": "admin/rights"})
    if not product.rows("users?username=wilma"):
        product.api("POST", "users", {"username": "wilma", "password": "a long enough password"})
    visitor.go("/repositories/admin/rights/-/access")
    rows = page.get_by_role("region", name="Rights").get_by_role("row")
    expect(rows.filter(has_text="The namespace is theirs.")).to_have_count(1)
    expect(rows.filter(has_text="wilma")).to_have_count(0)
    visitor.button("Give a right").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("To a").select_option("user")
    dialog.get_by_label("Name", exact=True).fill("wilma")
    dialog.get_by_label("Right", exact=True).select_option("read-write")
    dialog.get_by_role("button", name="Give", exact=True).click()
    expect(page.get_by_text("wilma has read-write here")).to_be_visible()
    expect(rows.filter(has_text="wilma")).to_contain_text("The role Registry Read-Write on this repository.")
    page.get_by_role("link", name="Explain user wilma").click()
    expect(page.get_by_role("textbox", name="Name", exact=True)).to_have_value("wilma")
    visitor.button("Explain").click()
    answers = page.get_by_role("region", name="What wilma may do")
    expect(answers.get_by_role("row", name="Repository Push")).to_contain_text("yes")
    expect(answers.get_by_role("row", name="Repository Delete")).to_contain_text("no")
    visitor.button("Take away Registry Read-Write from wilma").click()
    page.get_by_role("dialog").get_by_role("button", name="Take away").click()
    expect(rows.filter(has_text="wilma")).to_have_count(0)
    page.get_by_role("link", name="Activity", exact=True).click()
    expect(page.get_by_role("region", name="Activity")).to_contain_text("took the role Registry Read-Write")
    visitor.go("/")  # away from what goes
    product.api("DELETE", f"repositories/{product.rows('repositories?name=admin/rights')[0]['id']}")


def test_images_and_artifacts_are_shown_for_what_they_are(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    product.api("POST", "repositories", {"name": "admin/kinds"})
    with pusher(visitor, "admin/kinds") as into:
        _, amd = into.index("multi")
        into.refer(
            amd,
            "application/vnd.dev.sigstore.bundle.v0.3+json",
            b"{}",
            "application/vnd.dev.sigstore.bundle.v0.3+json",
            "bundle.json",
        )
        into.refer(amd, "application/spdx+json", b"{ }", "application/spdx+json", "sbom.spdx.json")
        into.image("amd64", "FROM scratch", "COPY app2 /app", tag="one", env="A=2")
        into.chart("1.2.3")
        into.module("filter")

    visitor.go("/repositories/admin/kinds")
    tags = page.get_by_role("region", name="Tags")
    expect(tags.get_by_role("row", name="multi")).to_contain_text("Index of images")
    expect(tags.get_by_role("row", name="1.2.3")).to_contain_text("Helm chart")
    expect(tags.get_by_role("row", name="filter")).to_contain_text("WebAssembly module")
    page.get_by_role("link", name="multi", exact=True).click()
    expect(page.get_by_role("region", name="Attestations").get_by_role("row")).to_have_count(2)
    page.get_by_role("region", name="Platforms").get_by_role("link", name="linux/amd64").click()
    referrers = page.get_by_role("region", name="Referrers")
    expect(referrers).to_contain_text("Signature")
    expect(referrers).to_contain_text("SBOM")
    layers = page.get_by_role("region", name="Layers").get_by_role("row")
    expect(layers.nth(2)).to_contain_text("COPY app /app")
    page.get_by_label("Compare with").select_option("one")
    visitor.button("Compare").click()
    visitor.heading("Compare two images")
    expect(page.get_by_role("region", name="Configuration").get_by_role("row", name="Env A")).to_contain_text("1")
    expect(page.get_by_role("heading", name="Layers: 1 kept, 1 added, 1 removed")).to_be_visible()

    visitor.go("/repositories/admin/kinds")
    page.get_by_role("link", name="1.2.3", exact=True).click()
    expect(page.get_by_role("region", name="Dependencies")).to_contain_text("postgresql")
    expect(page.get_by_text(re.compile("helm pull oci://.*/admin/kinds --version 1.2.3"))).to_be_visible()
    product.api("DELETE", f"repositories/{product.rows('repositories?name=admin/kinds')[0]['id']}")


def test_where_an_image_runs(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    digest = next(row for row in product.rows("services") if row["name"] == "web")["image"].rpartition("@")[2]
    visitor.go(f"/repositories/admin/web/-/{digest}")
    places = page.get_by_role("region", name="Where it runs")
    expect(places.get_by_role("row")).to_have_count(3)
    places.get_by_role("link", name="web.1").click()
    visitor.heading("web")


def test_a_robot_is_made_logs_in_and_is_stopped(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    visitor.go("/robots")
    visitor.button("New robot").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill("builder")
    dialog.get_by_label("Repositories").fill("admin/*")
    visitor.button("Create").click()
    panel = page.get_by_role("region", name="Secret")
    expect(panel).to_contain_text("admin+builder")
    secret = panel.locator("code").first.inner_text()

    def pull() -> int:
        path = f"{product.url}/v2/admin/web/manifests/1"
        return httpx.get(path, auth=("admin+builder", secret), verify=False, timeout=60).status_code

    assert pull() == 200
    visitor.go("/robots")
    expect(page.get_by_role("region", name="Secret")).to_have_count(0)
    visitor.button("Disable admin+builder").click()
    expect(page.get_by_text("admin+builder is disabled")).to_be_visible()
    assert pull() == 401
    visitor.button("Remove admin+builder").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    expect(page.get_by_text("Robot admin+builder was removed.")).to_be_visible()


def test_garbage_is_collected_with_progress_after_a_dry_run(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/storage")
    visitor.button("Run now registry.usage").click()
    visitor.heading("registry.usage")
    expect(page.locator("#job-live .page-head .state")).to_have_text("done")
    visitor.go("/storage")
    expect(page.locator(".tile", has_text="On disk")).to_be_visible()
    expect(page.get_by_role("region", name="Namespaces").get_by_role("row", name="admin")).to_be_visible()
    visitor.button("Dry run of registry.gc").click()
    visitor.heading("registry.gc")
    expect(page.locator("#job-live .log")).to_contain_text("Dry run:")
    expect(page.locator("#job-live .page-head .state")).to_have_text("done")
    visitor.go("/storage")
    visitor.button("Run now registry.gc").click()
    visitor.heading("registry.gc")
    expect(page.locator("#job-live .page-head .state")).to_have_text("done")
    expect(page.locator("#job-live .log")).to_contain_text("Collected")
    visitor.go("/storage")
    expect(page.get_by_role("region", name="Upkeep").get_by_role("row", name="registry.gc")).to_contain_text("done")


def test_pushes_are_allowed_to_make_repositories_and_no_more(visitor: Visitor) -> None:
    page, product = visitor.page, visitor.product
    path = f"{product.url}/v2/admin/bypush/blobs/uploads/"

    def push() -> int:
        return httpx.post(path, auth=("admin", product.password), verify=False, timeout=60).status_code

    assert push() == 404
    visitor.go("/storage")
    visitor.button("Turn on Create on push").click()
    expect(page.get_by_text("Create on push is on.")).to_be_visible()
    assert push() == 202
    visitor.button("Turn off Create on push").click()
    expect(page.get_by_text("Create on push is off.")).to_be_visible()
    product.api("DELETE", f"repositories/{product.rows('repositories?name=admin/bypush')[0]['id']}")
    assert push() == 404
