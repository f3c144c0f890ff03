"""The page behind a login, in a real browser: who logs in sees what the token opens, and leaves nothing behind."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.exporters.browsing import Served, attributes, watched
from tests.exporters.snapshots import CHARGES, MODEL, snapshot, spend_view, tenant_views

from farthing.domain.access import Scope
from farthing.service.access import Access
from farthing.service.access_sessions import Sessions
from farthing.service.access_tokens import TokenFile, add_token, remove_token

pytestmark = pytest.mark.real

EVIL = '<img src=x onerror="document.title=1">'
NOW = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
HOLDERS = {
    "auditor": ([Scope.READ_ALL], []),
    "acme-dashboard": ([Scope.READ_TENANT], ["acme-search"]),
    "finance": ([Scope.READ_TENANT], ["acme-search", "globex"]),
    "newcomer": ([Scope.READ_TENANT], ["newcomer"]),
    "probe": ([Scope.INGEST], []),
    "evil": ([Scope.READ_TENANT], [EVIL]),
}
STATEMENT = {
    "number": "2026-09-0001", "period": "2026-09", "tenant": "acme-search", "total_nano": 123_456_000_000,
    "sha256": "0" * 64, "disputed": 1, "forms": ["csv"],
}  # fmt: skip
REFUSED = ("401 (Unauthorized)", "403 (Forbidden)", "net::ERR_FAILED")
"""What a browser says of requests that the tests have refused or broken off."""


def statements(request):
    return JSONResponse({"currency": "USD", "statements": [STATEMENT]})


@pytest.fixture
def tokens_file(tmp_path):
    return tmp_path / "tokens.yaml"


@pytest.fixture
def tokens(tokens_file):
    """Name -> token."""
    return {name: add_token(tokens_file, name, *opens, NOW) for name, opens in HOLDERS.items()}


@pytest.fixture
def served(tokens, tokens_file):
    """A page with tenants, one of whom calls itself markup, that demands a login."""
    evil = replace(tenant_views()[0], tenant=EVIL)
    access = Access(TokenFile(tokens_file), None, Sessions(lambda: b"k" * 32, 1.0, time.time))
    listed = Route("/api/v1/statements", statements, name="statements")
    running = Served(replace(snapshot(), tenants=(*tenant_views(), evil)), access, [listed])
    yield running
    running.stop()


@pytest.fixture
def page(browser, served):
    """A page on which nothing may go wrong but the answer that says to log in."""
    with watched(browser, served) as (blank, problems):
        yield blank
        assert [problem for problem in problems if not problem.endswith(REFUSED)] == []


def enter(page, served, token):
    """Log in by the link that the stack prints."""
    page.goto(f"{served.url}login#token={token}")
    page.wait_for_selector("#board:visible, #own:visible, #login-problem:visible")


def test_a_token_typed_into_the_form_opens_the_page_and_logging_out_closes_it(page, served, tokens):
    """A wrong one is refused in words; after logging out no figure is left in the document."""
    page.goto(served.url)
    page.wait_for_selector("#login:visible")
    assert not page.locator("#board, #own, #empty").first.is_visible()
    page.fill("#token", "farthing_wrong")
    page.click("#login-form button")
    page.wait_for_selector("#login-problem:visible")
    assert "no such token" in page.get_by_test_id("login-problem").inner_text()
    page.fill("#token", tokens["auditor"])
    page.press("#token", "Enter")
    page.wait_for_selector("#board:visible")
    assert "auditor" in page.get_by_test_id("viewer").inner_text()
    assert not page.get_by_test_id("login").is_visible()
    page.get_by_test_id("logout").click()
    page.wait_for_selector("#login:visible")
    assert "globex" not in page.content()
    page.reload()
    page.wait_for_selector("#login:visible")


def test_a_login_link_leaves_its_token_nowhere(page, served, tokens):
    """Not in the address, the tab's history, the document, storage, or a cookie that scripts can read."""
    enter(page, served, tokens["auditor"])
    assert page.url == served.url
    kept = page.evaluate("JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, history.state])")
    assert kept == '["",{},{},null]'
    assert tokens["auditor"] not in page.content()
    assert page.input_value("#token") == ""
    page.go_back()
    assert tokens["auditor"] not in page.url
    page.goto(served.url)
    page.wait_for_selector("#board:visible")


def test_a_login_that_is_interrupted_is_tried_again(page, served, tokens):
    """The link's token is in no other place by then: a change of the host's network does not lose it."""
    lost: list[str] = []

    def interrupt(route):
        if lost or route.request.method != "POST":
            route.continue_()
        else:
            lost.append(route.request.url)
            route.abort("failed")

    page.route("**/login", interrupt)
    page.goto(f"{served.url}login#token={tokens['auditor']}")
    page.wait_for_selector("#board:visible", timeout=15_000)
    assert len(lost) == 1


def test_a_link_whose_token_opens_nothing_leads_to_the_form(page, served, tokens):
    """With the reason, whether there is no such token or it only delivers records; its token is gone all the same."""
    for token, reason in (("farthing_wrong", "no such token"), (tokens["probe"], "only delivers records")):
        page.goto("about:blank")
        enter(page, served, token)
        assert reason in page.get_by_test_id("login-problem").inner_text()
        assert page.url == served.url


def test_a_tenants_page_has_its_figures_and_no_word_of_anybody_else(page, served, tokens):
    """Cost by phase, spend, budget, tokens and latency of its own; no box is empty or says that something is hidden."""
    enter(page, served, tokens["acme-dashboard"])
    assert page.get_by_test_id("only").inner_text() == "acme-search only"
    assert "acme-dashboard" in page.get_by_test_id("viewer").inner_text()
    row = tenant_views()[0]
    cost = sum(row.cost_nano.values()) + row.aborted_nano
    assert attributes(page, "own-total", "data-nano") == attributes(page, "own-sum", "data-nano") == [str(cost)]
    lines = dict(
        zip(attributes(page, "own-line", "data-account"), attributes(page, "own-line", "data-nano"), strict=True)
    )
    assert lines == {**{phase: str(nano) for phase, nano in row.cost_nano.items()}, "aborted": str(row.aborted_nano)}
    month = next(one.month_nano for one in spend_view().tenants if one.tenant == "acme-search")
    assert attributes(page, "own-month", "data-nano") == [str(month)]
    assert attributes(page, "budget", "data-budget") == ["tenant=acme-search"]
    assert attributes(page, "part-row", "data-part") == [f"{MODEL} · interactive"]
    assert "350 ms" in page.locator("#own").get_by_test_id("ttft").inner_text()
    ink = "(c) => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 === 3 && v > 0)"
    page.wait_for_selector("#own-plots [data-plot=tpot] canvas")
    assert page.locator("#own-plots canvas").evaluate_all(f"(all) => all.map({ink})") == [True] * 5
    filled = "".join(page.locator(place).inner_html() for place in ("header", "#banners", "#own", "#foot"))
    for foreign in (*(set(CHARGES) - {"acme-search", "unknown"}), "llama-8b", "lab-1", "H100", "everything", "onerror"):
        assert foreign not in filled
    assert page.inner_html("#tiles") + page.inner_html("#engines") + page.inner_html("#checks") == ""
    boxes = page.locator("#own .card:visible").all_inner_texts()
    assert len(boxes) >= 16
    assert all(text.strip() for text in boxes)
    shown = page.inner_text("#own").lower()
    assert "no data" not in shown
    # the budget's forecast is the only thing here that nobody knows yet
    assert page.locator("#own .unknown:visible").count() == 1


def test_a_token_of_two_tenants_shows_both_and_their_sum(page, served, tokens):
    """Each is a row, and parts say whose they are."""
    enter(page, served, tokens["finance"])
    assert page.get_by_test_id("only").inner_text() == "acme-search, globex only"
    assert attributes(page, "tenant-row", "data-tenant")[-2:] == ["acme-search", "globex"]
    both = tenant_views()[:2]
    cost = sum(sum(view.cost_nano.values()) + view.aborted_nano for view in both)
    assert attributes(page, "own-total", "data-nano") == [str(cost)]
    assert attributes(page, "part-row", "data-part")[1] == f"globex · {MODEL} · documents"
    assert attributes(page, "anomaly", "data-tenant") == ["globex"]


def test_a_tenant_without_work_is_told_what_will_come(page, served, tokens):
    """No empty table: a sentence on when requests settle."""
    enter(page, served, tokens["newcomer"])
    assert "No settled request yet" in page.inner_text("#own-none")
    assert not page.locator("#own-cost").is_visible()
    assert "none has settled" in page.get_by_test_id("own-requests").inner_text()


def test_a_tenants_name_is_text_wherever_it_is_shown(page, served, tokens):
    """One that calls itself markup runs nothing, in the head of its own page too."""
    enter(page, served, tokens["evil"])
    assert page.get_by_test_id("only").inner_text() == f"{EVIL} only"
    assert page.title() == "Farthing"
    assert page.locator("#own img, .subtitle img").count() == 0


def test_when_the_token_is_removed_the_page_asks_for_another(page, served, tokens, tokens_file):
    """The next poll is refused: the figures go, and the form comes."""
    enter(page, served, tokens["acme-dashboard"])
    remove_token(tokens_file, "acme-dashboard")
    page.wait_for_selector("#login:visible", timeout=10_000)
    assert "acme-search" not in page.content()


def test_statements_and_reports_are_linked(page, served, tokens):
    """Every statement of the list with its amount; reports of the month by day, project and model."""
    enter(page, served, tokens["acme-dashboard"])
    page.wait_for_selector("[data-testid=own-statement]", timeout=10_000)
    text = page.get_by_test_id("own-statement").inner_text()
    assert "2026-09-0001" in text
    assert "$123.46" in text
    assert "1 disputed" in text
    link = page.get_by_test_id("own-statement").locator("a").get_attribute("href")
    assert link == "api/v1/statements/2026-09-0001.csv"
    links = (
        page.get_by_test_id("own-reports").locator("a").evaluate_all("(all) => all.map((a) => a.getAttribute('href'))")
    )
    assert "api/v1/report?since=month&by=day&output=csv" in links
    assert len(links) == 6


@pytest.mark.parametrize("who", ["auditor", "finance"])
def test_on_a_telephone_nothing_is_wider_than_the_screen(browser, served, tokens, who):
    """At 390 px neither the form nor a page scrolls sideways."""
    overflow = "document.documentElement.scrollWidth - window.innerWidth"
    with watched(browser, served) as (page, _):
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(served.url)
        page.wait_for_selector("#login:visible")
        assert page.evaluate(overflow) <= 0
        enter(page, served, tokens[who])
        page.wait_for_selector("[data-testid=plot] canvas >> visible=true")
        assert page.evaluate(overflow) <= 0
