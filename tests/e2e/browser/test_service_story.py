"""A developer's first service: from the form to a shell in a container."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.e2e.browser.product import STORY
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY
STATE_OF_TASKS = "#service-live .list-table .state"


def test_sign_in_create_a_service_read_its_logs_and_open_a_shell(newcomer: Visitor) -> None:
    page = newcomer.page
    newcomer.expects(r"status of 4(01|22)")  # the refusals below
    _sign_in(newcomer)
    _create(newcomer)
    _logs(newcomer)
    _terminal(newcomer)
    expect(page.locator("[data-terminal-state]")).to_have_text("exited with code 7")


def _sign_in(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/services")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill("a wrong password")
    visitor.button("Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("wrong")
    page.get_by_label("Password").fill(visitor.product.password)
    visitor.button("Sign in").click()
    visitor.heading("Services")  # where they wanted to go


def _create(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("link", name="New service").first.click()
    page.get_by_label("Name", exact=True).fill("shop")
    page.get_by_label("Image", exact=True).fill("admin/nosuch:1")
    page.get_by_label("Published ports").fill("eighty")
    visitor.button("Create").click()
    expect(page.get_by_label("Published ports")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#s-ports-error")).to_contain_text("needs the form")
    expect(page.get_by_label("Name", exact=True)).to_have_value("shop")
    page.get_by_label("Published ports").fill("80")
    visitor.button("Create").click()
    expect(page.locator("#s-image-error")).to_contain_text("nosuch")
    page.get_by_label("Image", exact=True).fill("admin/web:1")
    page.get_by_label("Replicas").fill("2")
    visitor.button("Create").click()
    visitor.heading("shop")
    visitor.live()
    expect(page.locator(STATE_OF_TASKS)).to_have_text(["running", "running"])
    visitor.never_reloaded()


def _logs(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("link", name="Logs").click()
    log = page.get_by_role("log")
    expect(page.locator("[data-logs-state]")).to_have_text("following")
    expect(log.get_by_text("needle: version 1 is ready")).to_have_count(2)  # one from each task
    expect(log.locator(".log-error").first).to_contain_text("a complaint")
    expect(log.get_by_text(re.compile(r"line \d+")).nth(5)).to_be_visible()
    page.get_by_label("Search in the logs").fill("needle")
    expect(log.locator("mark")).to_have_text(["needle", "needle"])
    expect(log.locator(".log-line")).to_have_count(2)
    page.get_by_label("Search in the logs").fill("")
    last = max(int(text.split()[-1]) for text in log.locator(".log-text").all_text_contents() if text.startswith("line "))
    expect(log.get_by_text(f"line {last + 2}", exact=True).first).to_be_visible()  # it follows
    with page.expect_download() as download:
        visitor.button("Download").click()
    assert "needle: version 1 is ready" in download.value.path().read_text()


def _terminal(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("link", name="Summary").click()
    page.get_by_role("link", name="Container", exact=True).first.click()
    page.get_by_role("link", name="Terminal").click()
    state = page.locator("[data-terminal-state]")
    expect(state).to_have_text("connected")
    screen = page.locator(".xterm-rows")
    _says(visitor, "stty size; echo first-$?", "first-0")
    expect(screen).to_contain_text(page.get_attribute("[data-terminal]", "data-size") or "no size")
    before = page.get_attribute("[data-terminal]", "data-size")
    page.set_viewport_size({"width": 900, "height": 600})
    expect(page.locator("[data-terminal]")).not_to_have_attribute("data-size", before or "")
    _says(visitor, "stty size; echo second-$?", "second-0")
    expect(screen).to_contain_text(page.get_attribute("[data-terminal]", "data-size") or "no size")
    page.keyboard.type("exit 7\n")


def _says(visitor: Visitor, command: str, answer: str) -> None:
    visitor.page.keyboard.type(f"{command}\n")
    expect(visitor.page.locator(".xterm-rows")).to_contain_text(answer)
