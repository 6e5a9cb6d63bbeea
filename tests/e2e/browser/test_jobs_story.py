"""Background work: progress and log while it runs, an end, a stop half-way."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.e2e.browser.product import STORY
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY


def test_a_collection_of_garbage_is_watched_to_its_end(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/jobs")
    visitor.live()
    job = visitor.product.api("POST", "jobs", {"kind": "registry.gc"})
    row = page.locator(f'a[href="/jobs/{job["id"]}"]')
    expect(row).to_be_visible()  # it came into the list by itself
    visitor.never_reloaded()
    row.click()
    visitor.heading("registry.gc")
    expect(page.locator("#job-live .page-head .state")).to_have_text("done")
    expect(page.locator("#job-live .log")).not_to_have_text("Nothing written yet.")
    visitor.button("Run again").click()
    expect(page.get_by_text("Queued again.")).to_be_visible()
    expect(page).not_to_have_url(f"{visitor.product.url}/jobs/{job['id']}")
    expect(page.locator("#job-live .page-head .state")).to_have_text("done")


def test_a_running_job_shows_progress_and_is_cancelled(visitor: Visitor) -> None:
    page = visitor.page
    job = visitor.product.api("POST", "jobs", {"kind": "jobs.sleep", "payload": {"seconds": 300}})
    visitor.go(f"/jobs/{job['id']}")
    visitor.live()
    state = page.locator("#job-live .page-head .state")
    expect(state).to_have_text("running")
    expect(page.locator("#job-live .log")).to_contain_text("Sleeping for 300")
    bar = page.get_by_role("progressbar").first
    expect(bar).to_be_visible()
    seen = page.locator("#job-progress").inner_text()
    expect(page.locator("#job-progress")).not_to_have_text(seen)  # it moves
    visitor.never_reloaded()
    visitor.button("Cancel").click()
    expect(page.get_by_text("The job was asked to stop.")).to_be_visible()
    expect(state).to_have_text("cancelled")
    expect(visitor.button("Cancel")).to_have_count(0)
