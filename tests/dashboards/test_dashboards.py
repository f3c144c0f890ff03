"""Dashboards are sound JSON, say what to do, and ask honest questions."""

import ast
import re
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from tests.dashboards.panels import dashboards, expressions, notes, panels

from farthing.alerts.render import render_rules
from farthing.dashboards import theme
from farthing.dashboards.parts import Query, Section
from farthing.dashboards.render import DASHBOARDS, render_dashboards
from farthing.domain import conventions as names
from farthing.domain.metric_reference import METRICS
from farthing.settings import AlertSettings, Settings

ROOM = Path(theme.__file__).parent
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
PANELS = list(panels())
TITLES = [panel["title"] for panel in PANELS]


def test_rendering_is_deterministic():
    """Committed files must not change by themselves."""
    assert render_dashboards(Settings()) == render_dashboards(Settings())


def test_every_dashboard_is_found_by_its_uid():
    """Alerts link to it, and file and registry agree."""
    for uid, _ in DASHBOARDS:
        assert dashboards()[f"{uid}.json"]["uid"] == uid
    assert names.DASHBOARD_FLEET in dict(DASHBOARDS)


def test_panel_ids_are_unique():
    """Links and alert states go by them."""
    for dashboard in dashboards().values():
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)


def test_panels_lie_inside_the_grid_and_apart():
    """Grafana would move overlapping ones, differently on every load."""
    for dashboard in dashboards().values():
        places = [panel["gridPos"] for panel in dashboard["panels"]]
        for place in places:
            assert 0 <= place["x"] < place["x"] + place["w"] <= 24
            assert place["h"] > 0
        for one, other in combinations(places, 2):
            apart_across = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            apart_down = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert apart_across or apart_down, (one, other)


def test_a_row_wider_than_the_grid_is_refused():
    """It could not be shown as written."""
    panel = theme.number("n", "d", "s", [Query("x")])
    section = Section("wide", ((4, ((13, panel), (12, panel))),))
    with pytest.raises(ValueError, match="wide: a row is 25 columns wide"):
        theme.dashboard_json(uid="u", title="t", description="d", variables=(), sections=(section,))


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_a_panel_is_of_a_current_type_and_says_what_to_do(panel):
    """A number without advice is decoration."""
    assert panel["type"] in {
        *("timeseries", "stat", "gauge", "table", "bargauge", "heatmap", "status-history", "state-timeline"),
    }
    assert len(panel["description"]) > 60
    assert panel["description"].endswith(".")


@pytest.mark.parametrize("panel", list(notes()), ids=lambda panel: panel["title"])
def test_a_text_says_something_and_asks_nothing(panel):
    """Grafana shows Markdown; a query of a text panel would be asked for nothing."""
    assert panel["options"]["mode"] == "markdown"
    assert len(panel["options"]["content"]) > 60
    assert len(panel["description"]) > 60
    assert not {"targets", "datasource", "fieldConfig"} & set(panel)


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_a_panel_has_a_unit(panel):
    """In a table, every value column has."""
    assert panel["fieldConfig"]["defaults"]["unit"]
    if panel["type"] == "table":
        renamed = panel["transformations"][1]["options"]["renameByName"]
        with_unit = {
            override["matcher"]["options"]
            for override in panel["fieldConfig"]["overrides"]
            if any(part["id"] == "unit" for part in override["properties"])
        }
        assert with_unit == {title for name, title in renamed.items() if name.startswith("Value")}


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_every_query_asks_the_chosen_data_source(panel):
    """No dashboard knows the name of someone's Prometheus."""
    assert panel["datasource"] == DATASOURCE
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == DATASOURCE
        assert target["expr"]
    letters = [target["refId"] for target in panel["targets"]]
    assert len(set(letters)) == len(letters)


def test_the_variables_are_a_data_source_and_choices_with_all():
    """All includes series that a choice does not list, such as those of a down engine."""
    for dashboard in dashboards().values():
        source, *choices = dashboard["templating"]["list"]
        assert (source["type"], source["query"], source["name"]) == ("datasource", "prometheus", "datasource")
        assert choices[0]["name"] == "cluster"
        for choice in choices:
            assert choice["includeAll"]
            assert choice["multi"]
            assert choice["allValue"] == ".*"
            assert choice["datasource"] == DATASOURCE


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_every_series_with_a_legend_of_its_own_can_be_told_apart(panel):
    """Several queries of a panel never share a legend."""
    if panel["type"] != "table":
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(legends)) == len(legends)


@pytest.mark.parametrize(("title", "expr"), expressions())
def test_nothing_unknown_is_shown_as_zero(title, expr):
    """A missing series stays missing; only finished requests beside failed ones count as none (``engine_share``)."""
    assert "vector(0)" not in expr
    told = re.sub(r"\(sum[^()]*\(avg_over_time\([^()]*\)[^()]*(\([^()]*(\([^()]*\))?[^()]*\))*[^()]*\) or ", "(", expr)
    assert " or " not in told or names.REC_REQUEST_RATE in expr


@pytest.mark.parametrize(("title", "expr"), expressions())
def test_windows_follow_the_dashboard(title, expr):
    """A rate asks over $__rate_interval, a growth over $__range or that; fixed windows lie at other zooms."""
    assert set(re.findall(r"\brate\([^[]*\[([^\]]*)\]", expr)) <= {"$__rate_interval"}
    assert set(re.findall(r"\[([^\]]*)\]", expr)) <= {"$__rate_interval", "$__range"}


@pytest.mark.parametrize("panel", PANELS, ids=TITLES)
def test_counters_are_shown_raw_only_where_the_title_says_so(panel):
    """No lifetime averages, no raw cumulative buckets: only the ledger's own sums, and they say since when."""
    counters = {metric.name for metric in METRICS if metric.type == "counter"}
    titles = {target["refId"]: panel["title"] for target in panel["targets"]}
    if panel["type"] == "table":
        renamed = panel["transformations"][1]["options"]["renameByName"]
        titles = {letter: renamed.get(f"Value #{letter}") or renamed["Value"] for letter in titles}
    for target in panel["targets"]:
        # The join only asks which model an engine serves, and shows no value of it.
        shown = re.sub(r" unless on \(engine\) [\w:]+\{[^}]*\}", "", target["expr"])
        raw = re.sub(r"\b(?:rate|increase|changes|resets)\([^[]*\[[^\]]*\](?: offset \$__range)?\)", "", shown)
        named = counters & set(re.findall(r"\w+", raw))
        assert not named or "since the ledger began" in titles[target["refId"]], (panel["title"], named)
        assert not re.search(r"_(bucket|sum|count)\b(?!:)", raw)


def test_the_promise_comes_from_the_settings():
    """The line in the panel is the threshold of the alert."""
    settings = Settings(alerts=AlertSettings(ttft_p95_seconds=1.25))
    (panel,) = (panel for panel in panels(settings) if panel["title"] == "Time to first token")
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1] == {"color": "red", "value": 1.25}
    assert panel["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"] == {"mode": "dashed"}


@pytest.mark.parametrize(
    "subject",
    [
        *(names.METRIC_SPEND_RATE, names.METRIC_COST, names.METRIC_TENANT_COST, names.METRIC_CHECK, "up"),
        *(names.REC_GENERATION_RATE, names.REC_REQUEST_RATE, names.REC_TTFT_P50, names.REC_TTFT_P95),
        *(names.REC_ITL_P50, names.REC_ITL_P95, names.REC_RUNNING, names.REC_WAITING, names.REC_KV),
    ],
)
def test_the_fleet_overview_shows(subject):
    """What the overview promises."""
    assert any(subject in expr for _, expr in expressions())


def shown_on(uid: str) -> list[str]:
    """The PromQL of every panel of a dashboard."""
    board = dashboards()[f"{uid}.json"]
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


@pytest.mark.parametrize(
    "subject",
    [
        *(names.METRIC_GPU_INFO, names.METRIC_GPU_ENGINE, names.METRIC_GPU_UNALLOCATED, names.METRIC_GPU_SOURCE_UP),
        *(names.REC_GPU_UTILIZATION, names.REC_GPU_MEMORY_USED, names.REC_GPU_MEMORY_TOTAL, names.REC_GPU_POWER),
        *(names.REC_GPU_POWER_LIMIT, names.REC_GPU_SM_CLOCK, names.REC_GPU_MEMORY_CLOCK, names.REC_GPU_TEMPERATURE),
        *(names.REC_GPU_THROTTLED, names.REC_GPU_ECC_UNCORRECTED, names.REC_GPU_ECC_CORRECTED, names.REC_GPU_LAST_XID),
        *(names.REC_GPU_XID_ERRORS, names.REC_GPU_PCIE, names.REC_GPU_NVLINK, names.METRIC_GPU_FAULT),
        *(names.METRIC_ENERGY, names.METRIC_PHASE_ENERGY, names.METRIC_CARBON, names.METRIC_ENERGY_COST),
    ],
)
def test_the_dashboard_of_gpus_shows(subject):
    """What it promises."""
    assert any(subject in expr for expr in shown_on(names.DASHBOARD_GPUS))


@pytest.mark.parametrize(
    "subject",
    [
        *(
            names.REC_RUNNING,
            names.REC_WAITING,
            names.REC_WAITING_REASON,
            names.REC_STEP_RATE,
            names.REC_STEP_TOKEN_RATE,
        ),
        *(
            names.REC_KV,
            names.REC_KV_INFO,
            names.REC_KV_STORED_RATE,
            names.REC_KV_LOADED_RATE,
            names.REC_PREEMPTION_RATE,
        ),
        *(names.REC_PREFIX_HIT_RATE, names.REC_EXTERNAL_HIT_RATE, names.REC_MM_HIT_RATE, names.REC_ACCEPTED_RATE),
        *(names.REC_DRAFTS_RATE, names.REC_MFU, names.REC_MBU, names.REC_ADAPTERS, names.REC_PROMPT_LENGTH_BUCKET),
        *(names.REC_OUTPUT_LENGTH_BUCKET, names.REC_ENDED_RATE, names.REC_REJECTED_RATE, names.REC_GENERATION_RATE),
        *(names.REC_KV_TRANSFERRED_RATE, names.REC_STATE, names.REC_RESETS, names.METRIC_SPEND_RATE),
        *(names.METRIC_RECENT_UNIT_COST, names.METRIC_SATURATED_UNIT_COST, names.METRIC_ENERGY_PER_TOKEN),
    ],
)
def test_the_dashboard_of_engines_shows(subject):
    """What it promises."""
    assert any(subject in expr for expr in shown_on(names.DASHBOARD_ENGINE))


@pytest.mark.parametrize(
    "subject",
    [
        *(names.METRIC_QUEUE, names.METRIC_E2E, names.METRIC_REQUESTS, names.METRIC_TTFT, names.METRIC_TENANT_COST),
        *(names.METRIC_TENANT_TOKENS, names.METRIC_TENANT_REQUESTS, names.METRIC_TENANT_ENERGY, names.METRIC_COST),
        *(names.REC_SLO_BUDGET_LEFT, names.REC_SLO_ERROR_1H, names.REC_RUNNING, names.REC_WAITING, names.REC_KV),
    ],
)
def test_the_dashboard_of_batch_jobs_shows(subject):
    """What it promises."""
    assert any(subject in expr for expr in shown_on(names.DASHBOARD_BATCH))


def test_the_dashboard_of_batch_jobs_opens_with_their_tier():
    """Every other choice begins with All."""
    chosen = {
        (uid, variable["name"]): variable["current"]["value"]
        for uid, board in dashboards().items()
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    }
    assert chosen.pop((f"{names.DASHBOARD_BATCH}.json", "tier")) == ["batch"]
    assert all(value == ["$__all"] for value in chosen.values())


def test_the_runbook_of_every_link_exists():
    """A link that leads nowhere costs time when there is none."""
    runbooks = ROOM.parents[2] / "alerts" / "runbooks"
    linked = {
        link["url"].removeprefix(names.RUNBOOK_BASE)
        for panel in PANELS
        for link in panel.get("links", ())
        if link["url"].startswith(names.RUNBOOK_BASE)
    }
    assert linked
    assert {name for name in linked if not (runbooks / name).is_file()} == set()


@pytest.mark.parametrize(
    "subject",
    [
        *(names.REC_SLO_OBJECTIVE, names.REC_SLO_BUDGET_LEFT, names.REC_SLO_WINDOW, names.REC_SLO_ERROR_5M),
        *(names.REC_SLO_BURN_5M, names.REC_SLO_BURN_1H, names.REC_SLO_BURN_6H, names.REC_SLO_BURN_1D),
        *(names.REC_SLO_BURN_3D, names.REC_SLO_THRESHOLD_1H, names.REC_SLO_THRESHOLD_6H, names.REC_SLO_THRESHOLD_1D),
        *(names.REC_SLO_THRESHOLD_3D, names.REC_SLO_GOOD, names.REC_SLO_BAD, names.REC_SLO_EVENTS, "ALERTS"),
    ],
)
def test_the_dashboard_of_promises_shows(subject):
    """What it promises."""
    assert any(subject in expr for expr in shown_on(names.DASHBOARD_SLO))


@pytest.mark.parametrize(
    "subject",
    [
        *(names.REC_QUEUE_P50, names.REC_QUEUE_P95, names.REC_QUEUE_BUCKET, names.REC_QUEUE_TIME),
        *(names.REC_PREFILL_P50, names.REC_PREFILL_P95, names.REC_PREFILL_BUCKET, names.REC_PREFILL_TIME),
        *(names.REC_TTFT_P50, names.REC_TTFT_P95, names.REC_ITL_P50, names.REC_ITL_P95, names.REC_ITL_BUCKET),
        *(names.REC_DECODE_P50, names.REC_DECODE_P95, names.REC_DECODE_BUCKET, names.REC_DECODE_TIME),
        *(names.REC_E2E_P50, names.REC_E2E_P95, names.REC_E2E_TIME, names.REC_PREEMPTION_RATE),
        *(f"{names.METRIC_TTFT}_bucket", f"{names.METRIC_E2E}_bucket"),
    ],
)
def test_the_dashboard_of_latency_shows(subject):
    """What it promises."""
    assert any(subject in expr for expr in shown_on(names.DASHBOARD_LATENCY))


def test_exemplars_are_asked_for_of_farthings_own_histograms_alone():
    """Recorded series have none, and engines tell none."""
    asked = [(panel["title"], target) for panel in PANELS for target in panel["targets"] if target["exemplar"]]
    spreads = {"First token, spread with traces", "Whole answer, spread with traces"}
    assert {title for title, _ in asked} >= spreads | {"First token by tier", "Whole answer by tier"}
    for title, target in asked:
        assert re.search(r"rate\(farthing_\w+_seconds_bucket\{", target["expr"]), title


def test_the_network_is_said_not_to_be_measured():
    """No series tells it: a number would be made up."""
    (panel,) = [panel for panel in notes() if panel["title"] == "Network"]
    assert panel["options"]["content"].startswith("**Not measured.**")


def test_where_no_alert_fires_a_table_says_none():
    """That is known."""
    tables = [panel for panel in PANELS if panel["type"] == "table" and "ALERTS" in panel["targets"][0]["expr"]]
    said = {panel["title"]: panel["fieldConfig"]["defaults"]["noValue"] for panel in tables}
    assert said["Which alerts fire?"] == said["Which alerts about Farthing fire?"] == "none"


@pytest.mark.parametrize(
    "subject",
    [
        *("up", names.METRIC_BUILD, names.METRIC_WATERMARK_LAG, names.METRIC_INTAKE, names.METRIC_SCRAPE_UP),
        *(names.METRIC_SCRAPE_FAILURES, names.METRIC_CHECK, names.METRIC_RESIDUAL, names.METRIC_FIT_ERROR),
        *(names.METRIC_UNATTRIBUTED, names.METRIC_LATE, names.METRIC_GPU_SOURCE_UP, names.METRIC_GPU_WAITING),
        *(names.METRIC_GPU_DROPPED, names.PROBE_ON, names.PROBE_SPOOLED, names.PROBE_DROPPED, names.PROBE_ERRORS),
    ],
)
def test_the_dashboard_of_farthing_itself_shows(subject):
    """What it promises."""
    assert any(subject in expr for expr in shown_on(names.DASHBOARD_FARTHING))


def test_only_the_theme_touches_grafanalib():
    """It is old, camel-cased and untyped, and must stay replaceable."""
    importing = set()
    for path in ROOM.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(module and module.split(".")[0] == "grafanalib" for module in modules):
                importing.add(path.name)
    assert importing == {"theme.py"}


def test_every_alert_leads_to_a_dashboard_that_there_is():
    """And sets no choice that it does not offer."""
    offered = {
        document["uid"]: {f"var-{variable['name']}" for variable in document["templating"]["list"]}
        for document in dashboards().values()
    }
    for name, text in render_rules(Settings()).items():
        for rule in (rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if "alert" in rule):
            found = re.search(r"/d/([\w-]+)(?:\?(.*))?$", rule["annotations"]["dashboard_url"])
            assert found, (name, rule["alert"])
            assert found[1] in offered, (name, rule["alert"])
            assert set(re.findall(r"(var-\w+)=", found[2] or "")) <= offered[found[1]], (name, rule["alert"])
