"""What a tenant's token is answered: its own rows, and not a byte of anybody else's."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exporters.readers import READER, Reader, tenants_token
from tests.exporters.snapshots import CHARGES, engine_view, snapshot, spend_view, tenant_views

from farthing.domain.access import EVERYBODY, Principal, Scope
from farthing.domain.devices import DevicesView
from farthing.domain.model import Snapshot
from farthing.domain.spend import BudgetView, SpendView, TenantSpend, UnpricedView
from farthing.exporters.web.gpus import gpu_routes
from farthing.exporters.web.history import History
from farthing.exporters.web.routes import web_routes
from farthing.exporters.web.tenant_history import TenantHistory

SECRET = "zzsecret"
"""In every name that a tenant must not see; no word of ours has it."""
ENDPOINTS = (
    "/api/v1/snapshot",
    "/api/v1/history",
    "/api/v1/history?since=x",
    "/api/v1/gpus",
    "/",
    "/login",
    "/nothing",
)
FLEET_KEYS = {"fleet", "engines", "intake"}


def reader(pictured: Snapshot, principal: Principal | None, history: TenantHistory | None = None) -> Reader:
    past = History(10)
    past.observe(pictured)
    own = history or TenantHistory(lambda _: (0.1, 0.5), lambda _: {})
    routes = [*web_routes(lambda: pictured, past, own), *gpu_routes(lambda: DevicesView(taken_ns=0), lambda: pictured)]
    return Reader(routes, principal)


def spend_of(base: SpendView, tenants: dict[str, int]) -> SpendView:
    """Spend in which every tenant has a row, a budget and an anomaly, and there are budgets of several at once."""
    budgets = [
        BudgetView(f"tenant={name}", name, None, None, 10**12, nano, None, (("0.5", 1),))
        for name, nano in tenants.items()
    ]
    budgets.append(BudgetView(f"{SECRET}-budget", None, f"{SECRET}-project", None, 10**9, 7, None))
    anomalies = tuple(replace(base.anomalies[0], tenant=name) for name in (None, *tenants))
    unpriced = (UnpricedView(f"{SECRET}-engine", f"{SECRET}-model", f"{SECRET}-gpu", f"{SECRET}-reason"),)
    rows = tuple(TenantSpend(name, nano // 2, nano) for name, nano in tenants.items())
    return replace(base, tenants=rows, budgets=tuple(budgets), anomalies=anomalies, unpriced=unpriced)


def company(tenants: dict[str, int]) -> Snapshot:
    """A fleet whose engine is somebody else's by name, with such tenants: name -> what each cost."""
    views = tuple(
        replace(tenant_views()[0], tenant=name, model=f"{name}-model", cost_nano={"decode": nano}, aborted_nano=nano)
        for name, nano in tenants.items()
    )
    engine = replace(engine_view(), engine=replace(engine_view().engine, name=f"{SECRET}-engine"))
    return replace(snapshot(), engines=(engine,), tenants=views, spend=spend_of(spend_view(), tenants))


def test_a_tenant_reads_its_own_rows_exactly_as_the_whole_picture_has_them():
    """Cost, phases, tokens and requests are those of its row; what the fleet has is absent and not 0."""
    whole = reader(snapshot(), READER).get("/api/v1/snapshot").json()
    own = reader(snapshot(), tenants_token("globex")).get("/api/v1/snapshot").json()
    assert whole["viewer"] == {"name": "auditor", "sees_all": True, "tenants": []}
    assert own["viewer"] == {"name": "dashboard", "sees_all": False, "tenants": ["globex"]}
    (row,) = own["tenants"]
    parts = row.pop("parts")
    assert row == next(entry for entry in whole["tenants"] if entry["tenant"] == "globex")
    assert [(part["tier"], part["cost_nano"]) for part in parts] == [("documents", row["cost_nano"])]
    assert not FLEET_KEYS & own.keys()
    assert "unit_cost" not in json.dumps(own)


def test_a_tenants_spend_is_its_own():
    """Today and the month of its own, its budget, its anomaly; none of the fleet's, nor of a budget of several."""
    spend = reader(snapshot(), tenants_token("acme-search")).get("/api/v1/snapshot").json()["spend"]
    mine = next(one for one in spend_view().tenants if one.tenant == "acme-search")
    assert (spend["today_nano"], spend["month_nano"]) == (mine.today_nano, mine.month_nano)
    assert [budget["name"] for budget in spend["budgets"]] == ["tenant=acme-search"]
    assert spend["anomalies"] == []
    assert spend["incomplete"] is True
    assert not {"forecast", "yesterday_nano", "last_month_nano", "capacity", "unpriced"} & spend.keys()
    both = reader(snapshot(), tenants_token("acme-search", "globex")).get("/api/v1/snapshot").json()["spend"]
    assert both["month_nano"] == sum(one.month_nano for one in spend_view().tenants[:2])
    assert [anomaly["tenant"] for anomaly in both["anomalies"]] == ["globex"]


def test_before_spend_is_known_and_for_a_tenant_without_work_nothing_is_made_up():
    """Null for what is not computed yet; no row for a tenant that has none."""
    data = reader(replace(snapshot(), spend=None), tenants_token("newcomer")).get("/api/v1/snapshot").json()
    assert (data["tenants"], data["spend"]) == ([], None)
    spend = reader(snapshot(), tenants_token("newcomer")).get("/api/v1/snapshot").json()["spend"]
    assert (spend["today_nano"], spend["month_nano"], spend["budgets"]) == (None, None, [])


def test_who_is_not_asked_for_a_token_is_nobody_in_particular():
    """Without a middleware, and on an open service, the page has nobody to name."""
    for principal in (None, EVERYBODY):
        data = reader(snapshot(), principal).get("/api/v1/snapshot").json()
        assert data["viewer"] is None
        assert data.keys() >= FLEET_KEYS


@pytest.mark.parametrize(
    "principal",
    [
        Principal("probe", frozenset({Scope.INGEST})),
        Principal("odd", frozenset({Scope.INGEST}), frozenset(CHARGES)),
        tenants_token(""),
        tenants_token(),
    ],
    ids=["ingest", "tenants without the scope", "the empty name", "no tenant"],
)
def test_a_principal_that_sees_no_tenant_gets_no_row(principal):
    """Whatever let it pass: no row, no point, no device."""
    asked = reader(snapshot(), principal)
    data = asked.get("/api/v1/snapshot").json()
    assert data["tenants"] == []
    assert not FLEET_KEYS & data.keys()
    assert asked.get("/api/v1/history").json()["at_ms"] == []
    assert asked.get("/api/v1/gpus").status_code == 403


def test_a_tenants_past_has_columns_of_its_own():
    """The same columns as the fleet's where it has them, of equal length, and only what is new since the last."""
    history = TenantHistory(lambda _: (0.1, 0.5), lambda _: {})
    history.watch(["globex"])
    for step in (1, 2, 3):
        history.observe(snapshot(step))
    asked = reader(snapshot(3), tenants_token("globex"), history)
    data = asked.get("/api/v1/history").json()
    columns = ("spend_nano_per_hour", "generation_tokens_per_second", "prompt_tokens_per_second", "requests_per_second")
    assert {len(data[name]) for name in columns} == {len(data["at_ms"])} == {3}
    assert data["newest_ms"] == data["at_ms"][-1]
    assert not {"kv_usage", "running", "waiting", "unit_cost_nano_per_million"} & data.keys()
    news = asked.get(f"/api/v1/history?since={data['at_ms'][1]}").json()
    assert (news["at_ms"], news["newest_ms"]) == (data["at_ms"][2:], data["newest_ms"])
    assert asked.get(f"/api/v1/history?since={data['at_ms'][2]}").json()["at_ms"] == []


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.sets(NAMES, max_size=4), st.sets(NAMES, max_size=4), st.integers(0, 10**15))
def test_nothing_of_other_tenants_is_in_any_byte(own, others, nano):
    """Random tenants see and are seen: no other's name is in any answer, nor any of the fleet's."""
    foreign = {f"{SECRET}-{name}" for name in others}
    mine = dict.fromkeys(own, nano + 1)
    pictured = company({**mine, **dict.fromkeys(foreign, nano)})
    asked = reader(pictured, tenants_token(*own))
    for path in ENDPOINTS:
        answer = asked.get(path)
        assert SECRET not in answer.text + str(answer.headers)
    rows = asked.get("/api/v1/snapshot").json()["tenants"]
    assert {row["tenant"]: row["cost_nano"] for row in rows} == dict.fromkeys(own, 2 * nano + 2)


@settings(deadline=None)
@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_what_others_cost_changes_no_byte_of_an_answer(before, after):
    """The same answer whatever the others cost: there is nothing to subtract from."""
    answers = [
        reader(company({"acme": 5, f"{SECRET}-b": nano}), tenants_token("acme")).get("/api/v1/snapshot").content
        for nano in (before, after)
    ]
    assert answers[0] == answers[1]


def test_the_whole_picture_does_name_everybody():
    """The names that the tests look for are there for who may see them."""
    pictured = company({"acme": 5, f"{SECRET}-b": 7})
    shown = reader(pictured, READER).get("/api/v1/snapshot").text
    for name in (f"{SECRET}-b", f"{SECRET}-engine", f"{SECRET}-budget"):
        assert name in shown
