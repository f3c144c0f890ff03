"""The page in a real browser: a server on a loopback port, Chromium, and what the page holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pytest
import uvicorn
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from tests.alerts.real_parts import free_port
from tests.exporters.snapshots import CHARGES, snapshot
from tests.stack.scenery import require

from farthing.domain.conventions import METRIC_TPOT, METRIC_TTFT
from farthing.domain.model import Snapshot
from farthing.exporters.web.history import History
from farthing.exporters.web.routes import web_routes
from farthing.exporters.web.tenant_history import TenantHistory
from farthing.service.access import Access, Guard
from farthing.service.access_login import login_routes

__all__ = ["Served", "attributes", "browser", "chromium", "opened", "watched"]

INTERRUPTED = "net::ERR_NETWORK_CHANGED"


class Served:
    """A page on a loopback port; ``pictured`` is what it shows, to whom ``access`` lets in."""

    def __init__(self, pictured: Snapshot, access: Access | None = None, routes: Sequence[BaseRoute] = ()) -> None:
        self.pictured = pictured
        self.asked = 0
        self.history = History(100)
        self.own_history = TenantHistory(lambda _: (0.1, 0.2, 0.5, 1.0), self.latencies)
        self.own_history.watch(CHARGES)
        for step in range(60, 101):
            self.history.observe(snapshot(step))
            self.own_history.observe(snapshot(step))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/"
        page = web_routes(lambda: self.pictured, self.history, self.own_history)
        known = access or Access()
        app = Starlette(routes=[*login_routes(known), *page, *routes], middleware=[Middleware(Guard, access=known)])
        self.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 20
        while not self.server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)

    def latencies(self, tenants: Collection[str]) -> dict[tuple[str, str], tuple[int, ...]]:
        """Ever more requests of every tenant, most of them in the second bucket."""
        self.asked += 1
        return {
            (tenant, metric): (self.asked, 8 * self.asked, self.asked, 0, 0)
            for tenant in tenants
            for metric in (METRIC_TTFT, METRIC_TPOT)
        }

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=20)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium that is there within the block."""
    program = require("chromium", "google-chrome")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        try:
            yield started
        finally:
            started.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, started once."""
    with chromium() as started:
        yield started


@contextmanager
def opened(browser: Browser, pictured: Snapshot, **options: str) -> Iterator[tuple[Page, Served]]:
    """The page, loaded; fails on any console error, policy violation or request to another host."""
    served = Served(pictured)
    try:
        with watched(browser, served, **options) as (page, problems):
            page.goto(served.url)
            page.wait_for_selector("#board:visible, #empty:visible")
            yield page, served
            assert problems == []
    finally:
        served.stop()


@contextmanager
def watched(browser: Browser, served: Served, **options: str) -> Iterator[tuple[Page, list[str]]]:
    """A blank page in a context of its own, and a list of what goes wrong on it from now on.

    Chromium drops what it loads when an interface of the machine comes or goes, as those of containers do beside these
    tests. That is not the page's fault, and the page has to recover from it by itself.
    """
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page = context.new_page()
    problems: list[str] = []

    def told(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and INTERRUPTED not in message.text:
            problems.append(message.text)

    page.on("console", told)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(served.url) else problems.append(request.url))
    try:
        yield page, problems
    finally:
        context.close()


def attributes(page: Page, testid: str, name: str) -> list[str]:
    read = "(nodes, name) => nodes.map((node) => node.getAttribute(name))"
    values: list[str] = page.get_by_test_id(testid).evaluate_all(read, name)
    return values
