"""What the fleet overview, token economics and the tenants' dashboard promise to whoever opens them."""

import re

import pytest
from tests.dashboards.panels import dashboards

from farthing.dashboards.render import DASHBOARDS
from farthing.domain import conventions as names
from farthing.settings import AlertSettings, Settings

FLEET, ECONOMICS, TENANTS = (
    f"{uid}.json" for uid in (names.DASHBOARD_FLEET, names.DASHBOARD_ECONOMICS, names.DASHBOARD_TENANTS)
)


def panels_of(file, settings=None):
    return [panel for panel in dashboards(settings)[file]["panels"] if panel["type"] != "row"]


def asked_by(file):
    """(kind of panel, PromQL) of every query."""
    return [(panel["type"], target["expr"]) for panel in panels_of(file) for target in panel["targets"]]


def panel_titled(file, title, settings=None):
    (panel,) = (panel for panel in panels_of(file, settings) if panel["title"] == title)
    return panel


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        ("timeseries", names.REC_REQUEST_RATE),
        ("timeseries", names.REC_TTFT_P95),
        ("timeseries", names.REC_ITL_P95),
        ("gauge", names.REC_GPU_UTILIZATION),
        ("heatmap", names.REC_GPU_UTILIZATION),
        ("timeseries", names.REC_RUNNING),
        ("timeseries", names.REC_WAITING),
        ("timeseries", names.METRIC_REQUESTS),
        ("stat", names.METRIC_REQUESTS),
        ("timeseries", names.REC_FAILED_RATE),
        ("timeseries", names.REC_GENERATION_RATE),
        ("stat", names.METRIC_SPEND_RATE),
        ("stat", names.METRIC_BILL_MONTH),
        ("timeseries", names.METRIC_COST),
        ("table", names.METRIC_TENANT_COST),
        ("gauge", names.REC_KV),
        ("stat", "up"),
        ("stat", "ALERTS"),
        ("table", "ALERTS"),
        ("stat", names.METRIC_CHECK),
    ],
)
def test_the_fleet_overview_shows_at_first_sight(kind, subject):
    """Health, speed, load, cost and trust, each in the form that is read fastest."""
    asked = re.compile(rf"(?<![\w:]){re.escape(subject)}(?![\w:])")
    assert any(shown == kind and asked.search(expr) for shown, expr in asked_by(FLEET))


def test_running_and_waiting_requests_are_one_area():
    """Queue depth on top of batch size: what is asked of the fleet at once."""
    panel = panel_titled(FLEET, "Requests running and waiting")
    assert panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    assert [names.REC_RUNNING in target["expr"] for target in panel["targets"]] == [True, False]
    assert [names.REC_WAITING in target["expr"] for target in panel["targets"]] == [False, True]


def test_alerts_are_0_only_while_a_rule_is_seen_to_fire():
    """The watchdog always fires and is taken away again; without it nobody knows."""
    (target,) = panel_titled(FLEET, "Alerts firing")["targets"]
    every, watchdog = target["expr"].split(" - ")
    assert 'severity="none"' in watchdog
    assert "severity" not in every


def test_the_fleet_overview_leads_to_every_dashboard_that_there_is():
    """One click away, with the reader's choices and time range."""
    urls = [link["url"] for panel in panels_of(FLEET) for link in panel.get("links", [])]
    for uid, _ in DASHBOARDS:
        if uid != names.DASHBOARD_FLEET:
            assert any(url.startswith(f"/d/{uid}?${{__url_time_range}}&${{__all_variables}}") for url in urls), uid
    assert any(link.get("includeVars") and link.get("keepTime") for link in dashboards()[FLEET]["links"])


def test_an_alert_leads_to_its_runbook_and_a_tenant_to_its_dashboard():
    """From a cell of the table."""
    links = {
        panel["title"]: {
            override["matcher"]["options"]: part["value"][0]["url"]
            for override in panel["fieldConfig"]["overrides"]
            for part in override["properties"]
            if part["id"] == "links"
        }
        for panel in panels_of(FLEET)
        if panel["type"] == "table"
    }
    assert links["Which alerts fire?"]["Alert"] == f"{names.RUNBOOK_BASE}${{__value.raw}}.md"
    assert links["Cost by tenant"]["Tenant"].endswith("&var-tenant=${__value.raw}")


@pytest.mark.parametrize(
    "subject",
    [
        *(names.METRIC_SPEND_RATE, names.METRIC_BILL_TODAY, names.METRIC_BILL_MONTH, names.METRIC_SPEND_FORECAST),
        *(names.METRIC_UNPRICED, names.METRIC_COST, names.METRIC_TOKENS, names.METRIC_RECENT_UNIT_COST),
        *(names.METRIC_SATURATED_UNIT_COST, names.METRIC_FIT_ERROR, names.LABEL_METHOD, names.METRIC_UNATTRIBUTED),
        *(names.IDLE, names.STARTING, names.ASLEEP, names.DOWN, names.ABORTED, names.METRIC_CAPACITY),
        *(names.METRIC_BILL, names.METRIC_LATE, names.METRIC_WIP, names.METRIC_RESIDUAL, names.METRIC_BUDGET_RATIO),
        *(names.METRIC_BUDGET_EVENT, names.METRIC_KPI_SHARE, names.METRIC_KPI_UNIT_COST, names.METRIC_ENERGY_COST),
    ],
)
def test_token_economics_shows(subject):
    """Spend, unit costs and how they are known, what serves nobody, the identity, budgets, savings."""
    assert any(subject in expr for _, expr in asked_by(ECONOMICS))


def test_a_forecast_is_shown_with_both_bounds():
    """A number alone would be believed."""
    panel = panel_titled(ECONOMICS, "This month will come to")
    assert [target["legendFormat"] for target in panel["targets"]] == ["low", "expected", "high"]


def test_a_unit_cost_stands_between_its_bounds_beside_its_method_and_error():
    """How dear, and how far that is known."""
    exprs = [target["expr"] for target in panel_titled(ECONOMICS, "Cost per million tokens, by engine")["targets"]]
    for part in ('bound="low"', 'bound="high"', names.METRIC_FIT_ERROR, names.METRIC_SATURATED_UNIT_COST):
        assert any(part in expr for expr in exprs)
    title = "Cost per million tokens in range, and how it is known"
    exprs = [target["expr"] for target in panel_titled(ECONOMICS, title)["targets"]]
    for part in ('bound="low"', 'bound="high"', f'method="{names.MODELLED}"'):
        assert sum(part in expr for expr in exprs) == 1, part


def test_the_month_is_red_from_the_limit_of_the_settings_on():
    """As the alert is."""
    settings = Settings(alerts=AlertSettings(monthly_spend_usd="1234"))
    for title in ("This month will come to", "This month's bill and its forecast"):
        steps = panel_titled(ECONOMICS, title, settings)["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[-1] == {"color": "red", "value": 1234.0}


@pytest.mark.parametrize(
    "subject",
    [
        *(names.METRIC_TENANT_COST, names.METRIC_TENANT_REQUESTS, names.METRIC_TENANT_TOKENS),
        *(names.METRIC_TENANT_ENERGY, names.METRIC_ANOMALY, names.METRIC_BUDGET_RATIO, names.METRIC_SLO_REQUESTS),
        *(names.METRIC_TTFT, names.METRIC_E2E, names.METRIC_SPEND_MONTH),
        *(f'{names.LABEL_PHASE}="{phase}"' for phase in (*names.PHASES, names.ABORTED)),
    ],
)
def test_the_tenants_dashboard_shows(subject):
    """Showback, movers, anomalies, budgets, waste, and what each tenant gets."""
    assert any(subject in expr for _, expr in asked_by(TENANTS))


def test_growth_is_against_a_period_as_long_before():
    """A day against the day before, a week against the week before."""
    movers = panel_titled(TENANTS, "Who grew")
    assert all("[$__range] offset $__range" in target["expr"] for target in movers["targets"] if target["refId"] != "C")


@pytest.mark.parametrize("title", ["Time to first token, by tier", "Request duration, by tier"])
def test_latency_by_tier_says_that_it_knows_no_tenant(title):
    """Histograms have no such label; nobody shall read one tenant's latency out of it."""
    panel = panel_titled(TENANTS, title)
    assert "Histograms have no tenant" in panel["description"]
    assert all(names.LABEL_TENANT not in target["expr"] for target in panel["targets"])
