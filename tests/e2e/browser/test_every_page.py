"""Every page in both themes and at 390 px: 0 axe violations, nothing beyond the edge, and at most 250 KB over the wire.

With SHOTS=directory in the environment it also leaves a picture of each.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser.artifacts import Pusher
from tests.e2e.browser.product import STORY, Product
from tests.e2e.browser.visitor import Visitor

pytestmark = STORY
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
WIDE, NARROW = {"width": 1360, "height": 850}, {"width": 390, "height": 844}
MOST = 250_000  # bytes a page may cost, compressed, without the terminal

# name -> (address, selector of a button that opens the page's dialog, or "")
PAGES = {
    "overview": ("/", "[data-dialog=keys-help]"),
    "search": ("/search?q=web", ""),
    "search-nothing": ("/search?q=zzzz", ""),
    "services": ("/services", ""),
    "service-new": ("/services/new", ""),
    "service": ("/services/by-name/web", "[data-dialog=remove-service]"),
    "service-pending": ("/services/by-name/picky", ""),
    "service-logs": ("/services/by-name/web/logs", ""),
    "service-spec": ("/services/by-name/web/spec", ""),
    "service-edit": ("/services/by-name/web/edit", ""),
    "containers": ("/containers", ""),
    "containers-none": ("/containers?q=zzzz", ""),
    "container": ("/containers/{container}", ""),
    "container-logs": ("/containers/{container}/logs", ""),
    "container-terminal": ("/containers/{container}/terminal", ""),
    "nodes": ("/nodes", "[data-dialog=join]"),
    "node": ("/nodes/{node}", "[data-dialog=remove-node]"),
    "repositories": ("/repositories", "[data-dialog=new-repository]"),
    "repositories-none": ("/repositories?q=zzzz", ""),
    "repository": ("/repositories/{repository}", "[data-dialog=remove-tag]"),
    "repository-info": ("/repositories/admin/full/-/info", ""),
    "repository-activity": ("/repositories/admin/full/-/activity", ""),
    "repository-access": ("/repositories/admin/full/-/access?kind=user&name=admin", "[data-dialog=give]"),
    "repository-settings": ("/repositories/admin/full/-/settings", ""),
    "repository-artifacts": ("/repositories/admin/full", ""),
    "repository-webhooks": ("/repositories/{repository}/-/webhooks", ""),
    "repository-webhook": ("/repositories/{repository}/-/webhooks/{webhook}", ""),
    "repository-mirrors": ("/repositories/{repository}/-/mirrors", ""),
    "repository-policies-none": ("/repositories/{long}/-/policies", ""),
    "repository-policies": ("/repositories/admin/ruled/-/policies", "[data-dialog=remove-policy]"),
    "policy-retention": (
        "/repositories/admin/ruled/-/policies/draft?kind=retention&keep=latest_pushed&value=1&rehearse=1",
        "",
    ),
    "policy-wrong": ("/repositories/admin/ruled/-/policies/draft?kind=pruning&rehearse=1", ""),
    "policy-promotion": ("/repositories/{repository}/-/policies/draft?kind=promotion", ""),
    "policy-immutability": ("/repositories/admin/ruled/-/policies/draft?kind=immutability&tags=v*&rehearse=1", ""),
    "policy-limit": ("/repositories/admin/ruled/-/policies/draft?kind=tag_limit&limit=1&rehearse=1", ""),
    "repository-history": ("/repositories/admin/ruled/-/history", ""),
    "repository-promote": ("/repositories/{repository}/-/promote", ""),
    "deleted-repositories": ("/deleted-repositories", ""),
    "proxies": ("/proxies", "[data-dialog=new-proxy]"),
    "proxy": ("/proxies/{proxy}", "[data-dialog=remove-proxy]"),
    "read-only": ("/read-only", ""),
    "manifest": ("/repositories/{repository}/-/{digest}", ""),
    "manifest-index": ("/repositories/admin/full/-/{index}", ""),
    "manifest-platform": ("/repositories/admin/full/-/{platform}", ""),
    "manifest-chart": ("/repositories/admin/full/-/{chart}", ""),
    "manifest-artifact": ("/repositories/admin/full/-/{artifact}", ""),
    "compare": ("/repositories/admin/full/-/compare?before=one&after=two", ""),
    "robots": ("/robots", "[data-dialog=new-robot]"),
    "robot": ("/robots/{robot}", ""),
    "robots-none": ("/robots?q=zzzz", ""),
    "storage": ("/storage", ""),
    "jobs": ("/jobs", ""),
    "jobs-none": ("/jobs?state=error", ""),
    "job": ("/jobs/{job}", ""),
    "events": ("/events", ""),
    "users": ("/users", "[data-dialog=new-user]"),
    "tokens": ("/tokens", "[data-dialog=new-token]"),
    "refused": ("/services/by-name/nosuch", ""),
    "not-found": ("/no/such/page", ""),
}
REGISTRY = ("/repositories", "/deleted-repositories", "/robots", "/proxies", "/storage", "/read-only")
LONG = "a-service-with-the-longest-name-that-anybody-may-give-it-63-chr"


@pytest.fixture(scope="module")
def world(product: Product) -> dict[str, str]:
    """Something of every kind, and names as long as they may be."""
    repository = f"admin/{LONG}/{LONG}"
    product.push(f"{repository}:{'t' * 100}", "1")
    product.serve(LONG, replicas=1, tag=f"{repository}:{'t' * 100}", placement={"constraints": ["node.labels.zone==moon"]})
    product.serve("picky", placement={"constraints": ["node.labels.zone==moon"]})
    artifacts = _full(product)
    product.api("POST", "tokens", {"name": "a token", "scopes": ["Service View", "Repository Pull"]})
    product.api("POST", "join-tokens", {"name": "a join token"})
    endpoint = {"repository": "admin/web", "types": ["TAG_PUSH"], "url": "http://127.0.0.1:9/nobody"}
    hook = product.api("POST", "webhooks", endpoint)["id"]
    product.api("POST", f"webhooks/{hook}/test")
    product.until(lambda: product.rows(f"webhooks/{hook}/deliveries")[0]["state"] == "failed", "nobody answers")
    mirror = {"repository": "admin/web", "direction": "push", "url": "http://127.0.0.1:9", "remote_name": "team/web"}
    product.api("POST", "mirrors", {**mirror, "on_event": False, "cron": "0 0 3 * * *"})
    _ruled(product)
    proxy = product.api("POST", "proxies", {"namespace": "hub", "url": "http://127.0.0.1:9", "prefix": "library"})["id"]
    job = product.api("POST", "jobs", {"kind": "registry.gc"})["id"]
    product.until(lambda: product.api("GET", f"jobs/{job}")["state"] == "done", "garbage is collected")
    container = next(row["id"] for row in product.rows("containers") if row["name"].startswith("web."))
    digest = product.rows("services")[0]["image"].rpartition("@")[2]
    return {
        "container": container,
        "node": product.rows("nodes")[0]["id"],
        "repository": "admin/web",
        "webhook": hook,
        "proxy": proxy,
        "long": repository,
        "digest": digest,
        "job": job,
        **artifacts,
    }


README = """# Full

Holds *one of each*; see [the docs](https://docs.example.com).

    docker run full

| | where it goes | and why |
|---|---|---|
| one | `/etc/containers/certs.d/registry.example.com:8443/ca.crt` | a path that no phone is wide enough for |
"""


def _full(product: Product) -> dict[str, str]:
    """A repository with text, labels, rights, and one of every kind of manifest; a robot; a count."""
    about = {"name": "admin/full", "description": "One of each", "readme": README, "labels": {"team": "web", "tier": "front"}}
    made = product.api("POST", "repositories", about)
    product.api("POST", f"repositories/{made['id']}/access", {"kind": "user", "name": "admin", "role": "read-write"})
    with Pusher(product.url, "admin/full", "admin", product.password) as into:
        index, platform = into.index("multi")
        bundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
        into.refer(platform, bundle, b"{}", bundle, "bundle.json")
        artifact = into.refer(platform, "application/spdx+json", b"{ }", "application/spdx+json", "sbom.spdx.json")
        into.image("amd64", "FROM scratch", "COPY app /app", tag="one")
        into.image("amd64", "FROM scratch", "COPY app2 /app", "RUN x", tag="two", env="A=2")
        chart = into.chart("1.2.3")
        into.module("filter")
    right = {"repositories": "admin/*", "actions": ["pull", "push"]}
    robot = product.api("POST", "robots", {"name": "ci", "namespace": "admin", "rights": [right], "cidrs": ["10.0.0.0/8"]})
    job = product.api("POST", "jobs", {"kind": "registry.usage"})["id"]
    product.until(lambda: product.api("GET", f"jobs/{job}")["state"] == "done", "storage is counted")
    found = {"index": index, "platform": platform, "chart": chart, "artifact": artifact}
    return {"robot": robot["id"], **{name: descriptor["digest"] for name, descriptor in found.items()}}


def _ruled(product: Product) -> None:
    """A repository with policies, a namespace with a quota, something deleted of each kind."""
    for tag in ("v1", "old"):
        product.push(f"admin/ruled:{tag}", "21")
    product.push("admin/ruled:other", "22")
    product.push("admin/gone:1", "23")
    here, gone = (product.rows(f"repositories?name=admin/{name}")[0]["id"] for name in ("ruled", "gone"))
    product.api("DELETE", f"repositories/{gone}")
    other = next(row["digest"] for row in product.rows(f"repositories/{here}/tags") if row["name"] == "other")
    product.api("DELETE", f"repositories/{here}/manifests/{other}")
    product.api("PUT", "quotas/admin", {"limit": 1 << 32})
    rule = {"field": "pulled_at", "operator": "before", "values": ["6 months"]}
    product.api("POST", "policies", {"kind": "pruning", "repository": "admin/ruled", "rules": [rule]})
    product.api("POST", "policies", {"kind": "immutability", "namespace": "admin", "repositories": "rul*", "tags": "v*"})
    promotion = {"kind": "promotion", "repository": "admin/ruled", "options": {"target": "admin/web"}}
    product.api("POST", "policies", {**promotion, "rules": [{"field": "tag", "operator": "equals", "values": ["nothing"]}]})


def _violations(page: Page, where: str) -> list[str]:
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(AXE)
    found: list[Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations)")
    return [
        f"{where}: {item['id']}: {item['help']}: {[(node['target'], node.get('failureSummary')) for node in item['nodes'][:3]]}"
        for item in found
    ]


def _too_wide(page: Page) -> list[str]:
    """What makes the page scroll sideways."""
    found: list[str] = page.evaluate(
        """() => {
            const right = (element) => element.getBoundingClientRect().right;
            const widest = [...document.querySelectorAll("body *")].filter((element) => right(element) > innerWidth);
            const wide = document.scrollingElement.scrollWidth;
            return wide <= innerWidth ? [] : [`${wide} px`, ...widest.map((element) => element.outerHTML.slice(0, 90))];
        }"""
    )
    return found


def _sideways(page: Page) -> list[str]:
    """Lists that hide a part of themselves beyond the edge; a table that a person wrote may."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll(".table-wrap, .tabs, .command")]
            .filter((element) => !element.closest(".written") && element.scrollWidth > element.clientWidth + 1)
            .map((element) => `${element.getAttribute("aria-label")}: ${element.scrollWidth} > ${element.clientWidth} px`)"""
    )
    return found


def _shoot(page: Page, name: str) -> None:
    if directory := os.environ.get("SHOTS"):
        page.screenshot(path=Path(directory) / f"{name}.png", full_page=True)


def _settled(page: Page) -> None:
    """The page's script has run, its charts have asked, its logs have come."""
    page.wait_for_load_state("networkidle")
    if page.locator("[data-logs]").count():
        expect(page.locator(".log-line").first).to_be_visible()
    if page.locator("[data-terminal]").count():
        expect(page.locator("[data-terminal-state]")).to_have_text("connected")


@pytest.mark.parametrize("name", PAGES)
def test_page(visitor: Visitor, world: dict[str, str], name: str) -> None:
    page = visitor.page
    path, opener = PAGES[name]
    if name in ("refused", "not-found"):
        visitor.expects("status of 404")
    cost = _Cost(page)
    visitor.go(path.format(**world))
    _settled(page)
    spent = cost.bytes()
    assert page.title().endswith(" · Wharfinger")
    assert len(page.title()) > len(" · Wharfinger")
    found = _violations(page, "light")
    _shoot(page, name)
    if opener:
        page.locator(opener).first.click()
        found += _violations(page, "light, dialog open")
        _shoot(page, f"{name}-dialog")
        page.keyboard.press("Escape")
    page.get_by_role("button", name="Switch between light and dark").click()
    found += _violations(page, "dark")
    _shoot(page, f"{name}-dark")
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]  # a TypedDict's shape
    found += _violations(page, "dark, 390 px")
    wide = _too_wide(page)
    if path.startswith(REGISTRY):
        wide += _sideways(page)
    _shoot(page, f"{name}-390")
    assert found == []
    assert spent < MOST or name == "container-terminal"
    assert wide == []


@pytest.mark.parametrize("path", ["/login", "/login?next=/services"])
def test_the_login_page(newcomer: Visitor, path: str) -> None:
    page = newcomer.page
    newcomer.expects("status of 401")
    newcomer.go(path)
    found = _violations(page, "login")
    page.get_by_label("User name").fill("admin")
    page.get_by_label("Password").fill("not it")
    newcomer.button("Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    found += _violations(page, "login refused")
    page.evaluate("document.documentElement.dataset.bsTheme = 'dark'")
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]  # a TypedDict's shape
    found += _violations(page, "login, dark, 390 px")
    _shoot(page, "login-390")
    assert found == []
    assert _too_wide(page) == []


class _Cost:
    """What came over the wire for one page load: headers and compressed bodies, as the browser counted them."""

    def __init__(self, page: Page) -> None:
        self.session = page.context.new_cdp_session(page)
        self.session.send("Network.enable")
        self.session.send("Network.setCacheDisabled", {"cacheDisabled": True})
        self.total = 0.0
        self.session.on("Network.loadingFinished", self._finished)

    def _finished(self, event: dict[str, Any]) -> None:
        self.total += event["encodedDataLength"]

    def bytes(self) -> float:
        self.session.detach()
        return self.total
