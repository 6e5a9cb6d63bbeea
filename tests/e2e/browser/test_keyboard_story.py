"""Everything by keyboard, the drawer of a narrow window, the theme."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.e2e.browser.product import STORY
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY


def _focused(page: Page) -> str:
    said: str = page.evaluate(
        "(document.activeElement.getAttribute('aria-label') || document.activeElement.textContent || '').trim()"
    )
    return said


def test_shortcuts(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/")
    page.keyboard.press("/")
    expect(page.get_by_label("Search everything")).to_be_focused()
    page.keyboard.type("web\n")
    visitor.heading("Search")
    expect(page.get_by_role("region", name="Found").get_by_role("link", name="admin/web")).to_be_visible()
    page.keyboard.press("Control+k")
    expect(page.get_by_label("Search everything")).to_be_focused()
    page.keyboard.type("gs?")  # in a field they are letters
    expect(page.get_by_label("Search everything")).to_have_value("gs?")
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    for letter, heading in (("s", "Services"), ("n", "Nodes"), ("r", "Repositories"), ("j", "Jobs"), ("o", "Overview")):
        page.keyboard.press("g")
        page.keyboard.press(letter)
        visitor.heading(heading)


def test_the_order_of_tabbing(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/services")
    page.keyboard.press("Tab")
    assert _focused(page) == "Skip to content"
    expect(page.get_by_role("link", name="Skip to content")).to_be_in_viewport()
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(_focused(page))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"nothing shows that {seen[-1]!r} has the focus"
        if seen[-1] == "web":
            break
    assert seen[0] == "Wharfinger"
    wanted = ["Overview", "Services", "Nodes", "Search everything", "Keyboard shortcuts", "Log out", "New service"]
    wanted += ["Services", "web"]  # the table, which scrolls, and its row
    assert [name for name in seen if name in wanted] == wanted
    page.keyboard.press("Enter")
    visitor.heading("web")


def test_focus_is_kept_when_a_fragment_is_refreshed(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/services")
    visitor.live()
    page.get_by_role("link", name="web", exact=True).focus()
    with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true"):
        page.evaluate("document.querySelector('#services-live').dispatchEvent(new CustomEvent('stale'))")
    expect(page.locator(".htmx-request, .htmx-swapping, .htmx-settling")).to_have_count(0)
    assert _focused(page) == "web"


def test_the_drawer_of_a_narrow_window(visitor: Visitor) -> None:
    page = visitor.page
    page.set_viewport_size({"width": 390, "height": 844})
    visitor.go("/")
    rail = page.get_by_role("navigation", name="Main")
    expect(rail).to_be_hidden()
    opener = page.get_by_role("button", name="Navigation", exact=True)
    opener.click()
    expect(rail).to_be_visible()
    expect(opener).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(rail).to_be_hidden()
    expect(opener).to_be_focused()
    opener.click()
    page.mouse.click(380, 600)  # beside it
    expect(rail).to_be_hidden()
    opener.click()
    rail.get_by_role("link", name="Services").click()
    visitor.heading("Services")


def test_the_theme_stays(visitor: Visitor) -> None:
    page = visitor.page
    visitor.go("/")
    html = page.locator("html")
    expect(html).to_have_attribute("data-bs-theme", "light")
    page.get_by_role("button", name="Switch between light and dark").click()
    expect(html).to_have_attribute("data-bs-theme", "dark")
    visitor.go("/services")
    expect(html).to_have_attribute("data-bs-theme", "dark")
    page.reload()
    expect(html).to_have_attribute("data-bs-theme", "dark")
