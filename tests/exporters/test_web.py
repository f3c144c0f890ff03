"""The page's routes: exact money in JSON, assets from the package, headers that forbid everything else."""

import asyncio
import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from tests.exporters.snapshots import START_NS, UNIT_COST, empty_snapshot, engine_view, snapshot, tenant_views

from farthing.domain.model import EngineGauges, EngineView, Fit, Snapshot
from farthing.exporters.web import routes
from farthing.exporters.web.history import History
from farthing.exporters.web.routes import web_routes
from farthing.exporters.web.tenant_history import TenantHistory
from farthing.settings import parse_settings

STATIC = Path(routes.__file__).parent / "static"
OWN_ASSETS = sorted(path for path in STATIC.iterdir() if path.is_file())


class Client:
    """Gets paths of an application in this process, over httpx's ASGI transport."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://farthing") as client:
                return await client.get(path, headers=headers)

        return asyncio.run(answer())


def client_of(pictured: Snapshot, history: History | None = None) -> Client:
    return Client(Starlette(routes=web_routes(lambda: pictured, history or History(10), no_history())))


def no_history() -> TenantHistory:
    """Of tenants nobody watches."""
    return TenantHistory(lambda _: (0.1,), lambda _: {})


def data_of(pictured: Snapshot) -> dict[str, Any]:
    data: dict[str, Any] = client_of(pictured).get("/api/v1/snapshot").json()
    return data


def fleet_of(pictured: Snapshot) -> dict[str, Any]:
    fleet: dict[str, Any] = data_of(pictured)["fleet"]
    return fleet


def with_engines(*views: EngineView) -> Snapshot:
    return replace(snapshot(), engines=views)


def test_the_page_and_all_it_refers_to_are_served():
    """Every script, style and image that the page names is in the package."""
    client = client_of(snapshot())
    page = client.get("/")
    assert page.status_code == client.get("/login").status_code == 200
    assert client.get("/login").content == page.content
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assets = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert len(assets) >= 5
    assert {client.get(f"/{asset}").status_code for asset in assets} == {200}


def test_modules_import_only_what_is_served():
    """The page's modules name each other, and nothing from elsewhere."""
    client = client_of(snapshot())
    for module in STATIC.glob("*.js"):
        for target in re.findall(r'from "([^"]+)"', module.read_text(encoding="utf-8")):
            assert target.startswith("./")
            answer = client.get(f"/static/{target[2:]}")
            assert answer.status_code == 200
            assert "javascript" in answer.headers["content-type"]


@pytest.mark.parametrize("asset", OWN_ASSETS, ids=lambda path: path.name)
def test_nothing_refers_to_another_host(asset):
    """No own asset names an absolute URL, but for the SVG namespace and the example of an engine's address."""
    urls = set(re.findall(r"https?://[^\s\"'<)]+", asset.read_text(encoding="utf-8")))
    assert urls <= {"http://www.w3.org/2000/svg", "http://127.0.0.1:8000"}


def test_the_page_has_no_inline_script_or_style():
    """The policy would block them, and nobody would see why."""
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", text)


def test_the_empty_page_gives_a_configuration_that_is_valid():
    """What a newcomer copies from the page is read as it stands, and the recording it names is the packaged one."""
    blocks = re.findall(r"<pre>(.*?)</pre>", (STATIC / "index.html").read_text(encoding="utf-8"), flags=re.DOTALL)
    settings = parse_settings(html.unescape(blocks[0]), "the page")
    assert [engine.gpu for engine in settings.engines] == [price.gpu for price in settings.prices] == ["H100-SXM"]
    assert blocks[1] == f"farthing replay {settings.stack.replay_recording}"


def test_the_licence_of_the_vendored_plotter_ships_with_it():
    """uPlot is MIT: its notice travels along."""
    answer = client_of(snapshot()).get("/static/vendor/uplot/LICENSE")
    assert "The MIT License" in answer.text


@pytest.mark.parametrize(
    "path", ["/", "/login", "/static/app.js", "/api/v1/snapshot", "/api/v1/history", "/api/v1/history?since=x"]
)
def test_every_answer_carries_the_security_headers(path):
    """Only the page's own origin, no guessing of types, no referrer."""
    headers = client_of(snapshot()).get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/static/../routes.py", "/static/%2e%2e/routes.py", "/static/nothing.js", "/static/"])
def test_nothing_outside_the_assets_is_served(path):
    """Paths that leave the folder, or name no file, are not found."""
    assert client_of(snapshot()).get(path).status_code == 404


def test_assets_are_revalidated_and_data_never_stored():
    """An upgrade shows at once, without sending the assets anew each time."""
    client = client_of(snapshot())
    first = client.get("/static/app.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/static/app.js", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304
    assert client.get("/api/v1/snapshot").headers["cache-control"] == "no-store"


def test_the_snapshots_lines_add_up_to_the_bill():
    """The identity in integers: every account is a line, and the residual is 0."""
    fleet = fleet_of(snapshot())
    assert [line["account"] for line in fleet["lines"]] == [
        "prefill", "decode", "vision", "aborted", "starting", "idle", "asleep", "draining", "down", "unattributed",
        "wip",
    ]  # fmt: skip
    assert sum(line["nano"] for line in fleet["lines"]) == fleet["lines_nano"] == fleet["bill_nano"]
    assert fleet["bill_nano"] == engine_view().bill_nano
    assert (fleet["residual_nano"], fleet["balanced"]) == (0, True)
    assert fleet["lines"][1]["methods_nano"] == {"modelled": 122_800_000_900}


def test_residuals_that_cancel_are_still_unbalanced():
    """One engine's surplus does not excuse another's gap, nor does a residual of 0 that the lines deny."""
    up, down = replace(engine_view(), residual_nano=5), replace(engine_view(), residual_nano=-5)
    fleet = fleet_of(with_engines(up, down))
    assert (fleet["residual_nano"], fleet["balanced"]) == (0, False)
    wrong = replace(engine_view(), bill_nano=engine_view().bill_nano + 1)
    assert fleet_of(with_engines(wrong))["balanced"] is False


def test_a_charge_without_a_phase_is_a_line_of_its_own():
    """No dollar drops out of the sum because its phase is unknown."""
    view = engine_view()
    accounts = {**view.accounts_nano, ("charged", "", "estimated"): 77}
    fleet = fleet_of(with_engines(replace(view, accounts_nano=accounts, bill_nano=view.bill_nano + 77)))
    assert {"account": "charged", "nano": 77, "methods_nano": {"estimated": 77}} in fleet["lines"]
    assert fleet["balanced"] is True


def test_tenants_come_costliest_first_with_what_they_aborted():
    """A tenant over several models and tiers is one entry; its cost is charged plus aborted."""
    batch = replace(tenant_views()[2], tier="interactive", cost_nano={"decode": 10**12}, aborted_nano=1)
    tenants = data_of(replace(snapshot(), tenants=(*tenant_views(), batch)))["tenants"]
    assert [entry["tenant"] for entry in tenants] == ["initech", "acme-search", "globex", "unknown"]
    first = tenants[0]
    assert first["cost_nano"] == first["charged_nano"] + first["aborted_nano"] == 1_016_000_000_701
    assert first["tiers"] == ["batch", "interactive"]
    assert first["requests"] == {"finished": 18_000, "aborted": 600}


def test_money_beyond_a_double_stays_exact():
    """Integers are written in full, however large the fleet."""
    huge = 2**53 + 1
    body = client_of(with_engines(replace(engine_view(), bill_nano=huge))).get("/api/v1/snapshot").text
    assert f'"bill_nano":{huge}' in body


def test_unknown_numbers_are_null():
    """No price, no gauge, no fit, NaN: null, never 0."""
    blank = replace(
        engine_view(),
        price_nano_per_hour=None,
        fit=None,
        gauges=EngineGauges(kv_usage=float("nan")),
        energy_millijoules=None,
        watermark_lag_ns=None,
        unit_cost_nano_per_million={"prefill": None},
    )
    data = data_of(with_engines(blank))
    engine = data["engines"][0]
    for key in ("price_nano_per_hour", "fit", "running", "waiting", "kv_usage", "energy_millijoules", "scrape_up"):
        assert engine[key] is None, key
    assert engine["watermark_lag_seconds"] is None
    assert data["fleet"]["spend_nano_per_hour"] is None
    assert data["fleet"]["unpriced"] == ["llama-8b"]
    assert {cost["nano_per_million"] for cost in data["fleet"]["unit_cost"].values()} == {None}


def test_infinite_intervals_of_a_fit_are_null():
    """A coefficient that is not bounded says so in a way that JSON can."""
    fit = Fit("f", "estimated", {"step": 0.1}, {"step": (0.0, float("inf"))}, None, 3)
    data = data_of(with_engines(replace(engine_view(), fit=fit)))
    assert data["engines"][0]["fit"]["intervals"] == {"step": [0.0, None]}


def test_the_fleets_unit_cost_is_weighted_by_tokens():
    """Two engines' cost per million tokens is that of their tokens together, with the weaker method in sight."""
    small = engine_view(step=1, name="small")
    small = replace(
        small,
        unit_cost_nano_per_million={"decode": 5_000_000_000},
        accounts_nano={("charged", "decode", "estimated"): 1},
        fit=None,
    )
    big = engine_view(step=3)
    cost = fleet_of(with_engines(big, small))["unit_cost"]["decode"]
    assert cost["nano_per_million"] == round((3 * UNIT_COST["decode"] + 5_000_000_000) / 4)
    assert list(cost["methods_nano"]) == ["modelled", "estimated"]
    assert cost["fit_error"] is None
    assert fleet_of(with_engines(big))["unit_cost"]["decode"]["fit_error"] == 0.043


def test_history_comes_in_columns_and_since_returns_what_is_new():
    """All columns have one length; a poll carries only new points."""
    history = History(10)
    for step in (1, 2, 3):
        history.observe(snapshot(step))
    client = client_of(snapshot(3), history)
    data = client.get("/api/v1/history").json()
    assert data["at_ms"] == [START_NS // 10**6 + step * 5000 for step in (1, 2, 3)]
    assert data["newest_ms"] == data["at_ms"][-1]
    assert data["spend_nano_per_hour"] == [2_490_000_000] * 3
    assert data["unit_cost_nano_per_million"]["prefill"] == [None, 145_000_000, 145_000_000]
    assert [data["ttft_seconds"]["p50"][0], len(data["tpot_seconds"]["p95"])] == [None, 3]
    assert data["recent"]["ttft_seconds"]["count"] == 40
    news = client.get(f"/api/v1/history?since={data['at_ms'][1]}").json()
    assert news["at_ms"] == data["at_ms"][2:]


@pytest.mark.parametrize("since", ["yesterday", "nan", "inf", ""])
def test_a_since_that_is_no_time_is_refused_by_name(since):
    """The answer says which parameter and what it should be."""
    answer = client_of(snapshot()).get(f"/api/v1/history?since={since}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("since: ")


def test_an_empty_ledger_has_an_empty_picture():
    """No engine, no line but the known zeros, nothing made up."""
    data = data_of(empty_snapshot())
    assert (data["engines"], data["tenants"], data["fleet"]["bill_nano"]) == ([], [], 0)
    assert data["fleet"]["spend_nano_per_hour"] is None
    assert client_of(empty_snapshot()).get("/api/v1/history").json()["newest_ms"] is None
