"""The page in a real browser: what a person sees is what the ledger holds, and nothing leaves the host."""

from dataclasses import replace

import pytest
from tests.exporters.browsing import Served, attributes, opened
from tests.exporters.snapshots import empty_snapshot, engine_view, snapshot, spend_view, tenant_views

from farthing.domain.model import EngineGauges

pytestmark = pytest.mark.real

EVIL = '<img src=x onerror="document.title=1">'
BEYOND_DOUBLE = 2**53 + 1


def test_the_identity_on_the_page_adds_up(browser):
    """Bill, lines and residual are on the page as integers, and the visible sum is exact."""
    with opened(browser, snapshot()) as (page, _):
        lines = [int(nano) for nano in attributes(page, "line", "data-nano")]
        assert len(lines) == 11
        assert (
            [sum(lines)] == [int(nano) for nano in attributes(page, "bill", "data-nano")] == [engine_view().bill_nano]
        )
        assert attributes(page, "residual", "data-nano") == ["0"]
        assert "0.000000000" in page.get_by_test_id("residual").inner_text()
        assert "adds up to the nano-dollar" in page.inner_text("#balance")
        assert attributes(page, "line", "data-account")[0] == "prefill"


def test_tenants_are_sorted_by_cost_and_their_names_are_text(browser):
    """A tenant that calls itself markup is shown as it is, and runs nothing."""
    evil = replace(tenant_views()[0], tenant=EVIL, cost_nano={"decode": 10**12}, aborted_nano=0)
    with opened(browser, replace(snapshot(), tenants=(*tenant_views(), evil))) as (page, _):
        assert attributes(page, "tenant-row", "data-tenant") == [EVIL, "acme-search", "globex", "initech", "unknown"]
        assert attributes(page, "tenant-row", "data-cost-nano")[1] == str(112_000_000_300 + 1_200_000_000)
        assert page.get_by_test_id("tenant-row").first.locator("th").inner_text() == EVIL
        assert page.title() == "Farthing"
        assert page.locator("#tenants img").count() == 0


def test_beyond_a_hundred_tenants_one_row_keeps_the_rest(browser):
    """The table stays short, and its total whole."""
    many = tuple(replace(tenant_views()[3], tenant=f"t{i:03d}") for i in range(140))
    with opened(browser, replace(snapshot(), tenants=many)) as (page, _):
        assert page.get_by_test_id("tenant-row").count() == 100
        assert "40 more tenants" in page.get_by_test_id("tenant-rest").inner_text()
        assert "$154.00" in page.locator("#tenants tfoot").inner_text()


def test_the_page_is_live(browser):
    """A new snapshot shows within a few seconds, without a reload."""
    with opened(browser, snapshot(100)) as (page, served):
        served.pictured = snapshot(200)
        served.history.observe(snapshot(200))
        wanted = engine_view(200).bill_nano
        page.wait_for_selector(f'[data-testid="bill"][data-nano="{wanted}"]', timeout=10_000)
        assert "Live" in page.get_by_test_id("status").inner_text()


def test_plots_are_drawn_in_either_scheme(browser):
    """Every plot has ink on its canvas, light and dark, and names its latest value."""
    ink = "(c) => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 === 3 && v > 0)"
    for scheme in ("light", "dark"):
        with opened(browser, snapshot(), color_scheme=scheme) as (page, _):
            page.wait_for_selector("[data-plot=kv] canvas")
            assert page.get_by_test_id("plot").count() == 7
            assert page.locator("[data-testid=plot] canvas").evaluate_all(f"(all) => all.map({ink})") == [True] * 7
            assert "$1.06" in page.locator("[data-plot=unit-cost]").inner_text()


def test_unknown_is_a_dash_with_a_reason(browser):
    """What nobody knows is an em dash that explains itself, never 0; a missing price is said aloud."""
    blank = replace(engine_view(), price_nano_per_hour=None, fit=None, gauges=EngineGauges(), energy_millijoules=None)
    with opened(browser, replace(snapshot(), engines=(blank,))) as (page, _):
        spend = page.get_by_test_id("spend-rate").locator(".unknown")
        assert spend.inner_text() == "—"
        assert spend.get_attribute("title") == "Unknown: no engine has a price"
        row = page.get_by_test_id("engine-row").inner_text()
        assert row.count("—") == 8
        assert "llama-8b has no price" in page.get_by_test_id("banner").inner_text()


def test_books_that_do_not_balance_are_red(browser):
    """A residual of one nano-dollar is shown, and the page says not to trust it."""
    wrong = replace(engine_view(), residual_nano=1, bill_nano=engine_view().bill_nano + 1)
    with opened(browser, replace(snapshot(), engines=(wrong,))) as (page, _):
        assert "does not add up" in page.inner_text("#balance")
        assert "0.000000001" in page.get_by_test_id("residual").inner_text()


def test_amounts_beyond_a_double_keep_every_digit(browser):
    """Nine million dollars and more are still exact to the nano-dollar on the page."""
    with opened(browser, replace(snapshot(), engines=(replace(engine_view(), bill_nano=BEYOND_DOUBLE),))) as (page, _):
        assert attributes(page, "bill", "data-nano") == [str(BEYOND_DOUBLE)]
        assert "9,007,199.254740993" in page.get_by_test_id("bill").inner_text()


def test_failed_checks_come_first(browser):
    """A reconciliation that disagrees is what an engineer sees first."""
    with opened(browser, snapshot()) as (page, _):
        assert attributes(page, "check", "data-check") == ["output_tokens", "identity"]
        assert attributes(page, "check", "data-ok") == ["false", "true"]


def test_without_engines_the_page_says_what_to_do(browser):
    """An empty ledger explains itself instead of showing zeros."""
    with opened(browser, empty_snapshot()) as (page, _):
        assert page.get_by_test_id("empty").is_visible()
        assert not page.locator("#board").is_visible()
        assert "farthing.yaml" in page.get_by_test_id("empty").inner_text()


def test_a_server_that_stops_answering_is_announced(browser):
    """Old numbers are not passed off as present ones."""
    served = Served(snapshot())
    page = browser.new_page()
    try:
        page.goto(served.url)
        page.wait_for_selector("#board:visible")
        served.stop()
        page.wait_for_selector("[data-testid=banner][role=alert]", timeout=15_000)
        assert "Farthing does not answer" in page.get_by_test_id("banner").inner_text()
        assert "No answer" in page.get_by_test_id("status").inner_text()
    finally:
        page.close()
        served.stop()


def test_spend_forecast_and_budgets_are_on_the_page(browser):
    """Exact amounts behind the rounded ones; what is unknown says why; a budget that is over looks it."""
    with opened(browser, snapshot()) as (page, _):
        spend = spend_view()
        assert spend.forecast is not None
        assert attributes(page, "spend-today", "data-nano") == [str(spend.today_nano)]
        assert attributes(page, "spend-month", "data-nano") == [str(spend.month_nano)]
        assert attributes(page, "spend-forecast", "data-nano") == [str(spend.forecast.expected_nano)]
        assert "80 %: $350.00 to $470.00" in page.get_by_test_id("spend-forecast").inner_text()
        last_month = page.get_by_test_id("spend-month").locator(".unknown")
        assert last_month.get_attribute("title") == "Unknown: the books began later"
        assert attributes(page, "budget", "data-level") == ["within", "over"]
        assert attributes(page, "budget", "data-spent-nano") == [str(one.spent_nano) for one in spend.budgets]
        assert "50.0 % on" in str(page.locator("[data-testid=budget] .bar").first.get_attribute("title"))
        assert attributes(page, "anomaly", "data-tenant") == ["globex", "everything"]
        assert "globex: spike, $6.00 more than usual" in page.get_by_test_id("anomaly").first.inner_text()
        assert "unallocated (unassigned) $5.00" in page.inner_text("#spend")


def test_an_engine_without_a_price_is_unpriced_in_the_block_of_spend(browser):
    """Its cost is in no amount, and the page says so by name."""
    with opened(browser, snapshot()) as (page, _):
        assert attributes(page, "unpriced", "data-engine") == ["lab-1"]
        assert "lab-1: unpriced" in page.get_by_test_id("unpriced").inner_text()


def test_before_spend_was_computed_there_is_no_block_of_it(browser):
    """Nothing is shown as 0 that is not known yet."""
    with opened(browser, replace(snapshot(), spend=None)) as (page, _):
        assert not page.locator("#spend-card").is_visible()


@pytest.mark.parametrize("part", ["app.js", "cost.js", "vendor/uplot/uPlot.iife.min.js"])
def test_a_page_whose_loading_was_interrupted_begins_again(browser, part):
    """A part that does not arrive, since the host's network changed, is asked for once more; nobody has to reload."""
    served = Served(snapshot())
    lost: list[str] = []

    def interrupt(route):
        if lost:
            route.continue_()
        else:
            lost.append(route.request.url)
            route.abort("internetdisconnected")

    page = browser.new_page()
    try:
        page.route(f"**/static/{part}", interrupt)
        page.goto(served.url)
        page.wait_for_selector("#board:visible", timeout=15_000)
        assert len(lost) == 1
    finally:
        page.close()
        served.stop()
