"""The running service: what /metrics, the snapshot and the ledger say is one and the same."""

import asyncio
import subprocess
import time
from collections import Counter
from dataclasses import replace
from unittest.mock import Mock

import httpx
import pytest
import sqlalchemy as sa
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tests.alerts.real_parts import program
from tests.exporters.snapshots import snapshot
from tests.service.books import accountant, journal_sums, raw_records, total
from tests.service.running import served, wait_until

from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.errors import LedgerError
from farthing.exporters.prometheus import DEFAULT_TOP_TENANTS, TOP_TIERS, exposition
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.ledger.seats import keep_seats
from farthing.replay.recording import load_recording
from farthing.replay.sender import Sender
from farthing.replay.wire_records import wire_records
from farthing.service.server import Service
from farthing.settings import Settings

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
OPEN_RECORDS = 1_000
"""Records of the first engine that are delivered; it is still running then."""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """(URL, ledger) of a service to which one whole engine and one that is still running have been replayed."""
    ledger = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('server')}/ledger.db")
    service = Service(Settings(), ledger)
    with served(service.app) as url:
        for name, engine, end in (
            ("h100-llama8b-vllm0.26", "llama", OPEN_RECORDS),
            ("h100-qwen2vl7b-vllm0.26", "qwen", None),
        ):
            timed = wire_records(load_recording(name), boot=f"boot-of-{engine}", engine=engine)
            deliver(url, [item.record for item in timed][:end])
        wait_until(lambda: len(get(url, "/api/v1/snapshot").json()["engines"]) == 2, 20, "two engines")
        wait_until(lambda: engine_of(url, "qwen")["state"] == "down", 20, "the end of the vision replay")
        yield url, ledger
    ledger.close()


def deliver(url, records):
    async def run():
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
            assert await Sender(url, None, client).send(records) == len(records)

    asyncio.run(run())


def get(url, path, **headers):
    return httpx.get(f"{url}{path}", headers=headers, timeout=10, trust_env=False)


def engine_of(url, name):
    return next(engine for engine in get(url, "/api/v1/snapshot").json()["engines"] if engine["name"] == name)


def samples(url):
    """metric -> {labels: value in nano where it is money}."""
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in parse_text(get(url, "/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def nano(rows):
    """{labels: dollars} as {labels: nano-dollars}; below 2**51 a double holds every nano-dollar."""
    return {labels: round(value * 1e9) for labels, value in rows.items()}


def labels(**values):
    return frozenset(values.items())


def test_it_says_that_it_lives_and_that_it_is_ready(running):
    """/healthz for the process, /readyz once what lay in the inbox is costed."""
    url, _ = running
    assert get(url, "/healthz").status_code == 200
    assert get(url, "/readyz").text == "ready\n"


def test_a_path_or_a_method_that_is_not_there_is_refused_as_everything_else_is(running):
    """In JSON, as the API's page says of every error."""
    url, _ = running
    assert get(url, "/api/v1/nothing").json() == {"error": "Not Found"}
    answer = httpx.post(f"{url}/metrics", timeout=10, trust_env=False)
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})
    assert "GET" in answer.headers["allow"]


def test_it_is_not_ready_before_the_inbox_is_costed(tmp_path):
    """A scraper or a load balancer must not take half-read books for whole ones."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")

    async def ask():
        # without its lifespan the application has not costed anything yet
        transport = httpx.ASGITransport(Service(Settings(), ledger).app)
        async with httpx.AsyncClient(transport=transport, base_url="http://farthing") as client:
            return [
                await client.get("/healthz"),
                await client.get("/readyz"),
                await client.post("/v1/usage"),
            ]

    alive, ready, answer = asyncio.run(ask())
    ledger.close()
    assert answer.json()["send_every_seconds"] is None, "nobody knows how many probes there are"
    assert alive.status_code == 200
    assert ready.status_code == 503
    assert "costing what arrived" in ready.text


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (RuntimeError("a mistake of ours"), "costing failed; it is tried again"),
        (LedgerError("ledger x: the disk is full"), "costing waits for the ledger: ledger x: the disk is full"),
    ],
)
def test_a_failure_of_costing_is_logged_and_tried_again(tmp_path, monkeypatch, caplog, failure, said):
    """The records are safe in the inbox; the service goes on taking more of them. A full ledger is said in one line."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    service = Service(Settings(), ledger)
    failures = [failure, failure]
    advance = service._accountant.advance

    def first_failing():
        if failures:
            raise failures.pop()
        return advance()

    monkeypatch.setattr(service._accountant, "advance", first_failing)
    with served(service.app) as url:
        wait_until(lambda: get(url, "/readyz").status_code == 200, 10, "the third try")
    ours = isinstance(failure, LedgerError)
    assert caplog.text.count(said) == (1 if ours else 2)
    assert ("Traceback" in caplog.text) != ours
    ledger.close()


def test_metrics_say_that_the_books_are_behind_while_costing_does_not_get_on(tmp_path):
    """The lag in /metrics counts until the scrape: a picture that nobody renews does not look fresh."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    service = Service(Settings(), ledger)
    service._snapshot = replace(snapshot(), taken_ns=time.time_ns() - 104 * SECOND)
    service._seat()
    text = exposition(service._registry, "")[0].decode()
    (lag,) = [line for line in text.splitlines() if line.startswith(c.METRIC_WATERMARK_LAG + "{")]
    assert 111 <= float(lag.rpartition(" ")[2]) < 171
    ledger.close()


@pytest.mark.real
def test_promtool_finds_nothing_wrong_with_the_live_metrics(running):
    """Names, types, help texts and labels as Prometheus wants them."""
    url, _ = running
    tool = program("promtool")
    text = get(url, "/metrics").text
    found = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_text_is_the_default_and_openmetrics_brings_exemplars(running):
    """A scraper that asks for OpenMetrics gets exemplars that lead to a request; others get plain text."""
    url, _ = running
    plain = get(url, "/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# {" not in plain.text
    rich = get(url, "/metrics", accept=OPENMETRICS)
    assert rich.headers["content-type"].startswith("application/openmetrics-text")
    assert rich.text.endswith("# EOF\n")
    families = {family.name: family for family in parse_openmetrics(rich.text)}
    exemplars = [s.exemplar for s in families[c.METRIC_TTFT].samples if s.exemplar is not None]
    assert exemplars
    assert all(set(exemplar.labels) in ({"trace_id"}, {"request_id"}) for exemplar in exemplars)
    recorded = {
        row["id"] for name in ("llama8b", "qwen2vl7b") for row in load_recording(f"h100-{name}-vllm0.26").requests
    }
    assert {exemplar.labels["request_id"] for exemplar in exemplars} <= recorded


@pytest.mark.parametrize("engine", ["llama", "qwen"])
def test_bill_and_lines_are_the_same_on_the_page_in_metrics_and_in_the_ledger(running, engine):
    """Three ways to the same nano-dollars, by account and phase."""
    url, ledger = running
    shown, metrics = engine_of(url, engine), samples(url)
    bill = nano(metrics[c.METRIC_BILL])[labels(engine=engine)]
    ((booked,),) = ledger.select(sa.select(t.boots.c.bill_nano).where(t.boots.c.engine == engine))
    assert bill == shown["bill_nano"] == booked > 0
    cost = {key: value for key, value in nano(metrics[c.METRIC_COST]).items() if ("engine", engine) in key}
    lines = journal_sums(ledger, "engine", "debit", "phase", "method")
    assert cost == {
        labels(engine=engine, account=debit, phase=phase, method=method): value
        for (name, debit, phase, method), value in lines.items()
        if name == engine
    }
    wip = {key: value for key, value in nano(metrics.get(c.METRIC_WIP, {})).items() if ("engine", engine) in key}
    assert sum(wip.values()) == sum(shown["wip_nano"].values())
    assert sum(cost.values()) + sum(wip.values()) == bill
    assert nano(metrics[c.METRIC_RESIDUAL])[labels(engine=engine)] == shown["residual_nano"] == 0
    assert sum(line["nano"] for line in shown["lines"]) == bill
    checks = {dict(key)["check"]: value for key, value in metrics[c.METRIC_CHECK].items() if ("engine", engine) in key}
    assert checks == {check["name"]: 1.0 for check in shown["checks"]}


def test_an_engine_that_still_runs_has_work_in_progress(running):
    """Its last requests have not ended: their cost is shown, but not settled."""
    url, _ = running
    assert sum(engine_of(url, "llama")["wip_nano"].values()) > 0
    assert sum(engine_of(url, "qwen")["wip_nano"].values()) == 0


def test_tenants_are_the_same_on_the_page_in_metrics_and_in_the_ledger(running):
    """Dollars by phase, aborted ones, requests by outcome, tokens by kind."""
    url, ledger = running
    shown = {tenant["tenant"]: tenant for tenant in get(url, "/api/v1/snapshot").json()["tenants"]}
    metrics = samples(url)
    cost: Counter[tuple[str, str]] = Counter()
    for key, value in nano(metrics[c.METRIC_TENANT_COST]).items():
        cost[dict(key)["tenant"], dict(key)["phase"]] += value
    booked: Counter[tuple[str, str]] = Counter()
    for (debit, phase, tenant), value in journal_sums(ledger, "debit", "phase", "tenant").items():
        if debit in (c.CHARGED, c.ABORTED):
            booked[tenant, c.ABORTED if debit == c.ABORTED else phase] += value
    assert +cost == +booked
    assert {tenant: entry["cost_nano"] for tenant, entry in shown.items()} == {
        tenant: sum(value for (name, _), value in booked.items() if name == tenant) for tenant in shown
    }
    q = t.requests.c
    counted = ledger.select(sa.select(q.tenant, q.outcome, sa.func.count()).group_by(q.tenant, q.outcome))
    requests: Counter[tuple[str, str]] = Counter()
    for key, value in metrics[c.METRIC_TENANT_REQUESTS].items():
        requests[dict(key)["tenant"], dict(key)["outcome"]] += int(value)
    assert +requests == {(tenant, outcome): count for tenant, outcome, count in counted}
    tokens: Counter[str] = Counter()
    for key, value in metrics[c.METRIC_TENANT_TOKENS].items():
        tokens[dict(key)["kind"]] += int(value)
    assert tokens[c.TOKEN_PROMPT_COMPUTED] == total(ledger, q.prompt_computed)
    assert tokens[c.TOKEN_PROMPT_CACHED] == total(ledger, q.prompt_cached)
    assert tokens[c.TOKEN_OUTPUT] == total(ledger, q.output_tokens)
    assert tokens[c.TOKEN_IMAGE] == total(ledger, q.image_tokens)


def test_a_restart_leaves_every_tenant_and_tier_its_series(tmp_path):
    """Whoever overtook them since: a counter that falls is counted once more by Prometheus."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger.open(url)
    ledger.add(raw_records(load_recording("h100-llama8b-vllm0.26")))
    accountant(ledger).advance()
    keep_seats(ledger, c.LABEL_TENANT, {f"old-{number}" for number in range(DEFAULT_TOP_TENANTS)})
    keep_seats(ledger, c.LABEL_TIER, {f"old-{number}" for number in range(TOP_TIERS)})
    settings = Settings()
    promised = {slo.tier for slo in settings.objectives}
    recorded = {(row.tenant, row.tier) for row in ledger.select(sa.select(t.requests.c.tenant, t.requests.c.tier))}
    shown = _tenants_and_tiers(Service(settings, ledger))
    expected = {
        (tenant if tenant == c.UNKNOWN else c.OTHER, tier if tier in {*promised, c.UNKNOWN} else c.OTHER)
        for tenant, tier in recorded
    }
    assert shown == expected
    budget = {"tenant": next(tenant for tenant, _ in recorded if tenant != c.UNKNOWN), "monthly_usd": 5}
    named = _tenants_and_tiers(Service(Settings.model_validate({"budgets": [budget]}), ledger))
    assert budget["tenant"] in {tenant for tenant, _ in named}
    assert named == _tenants_and_tiers(Service(settings, ledger)), "it keeps its seat without the budget"
    ledger.close()


def test_a_ledger_that_cannot_keep_new_series_holds_up_metrics_alone(tmp_path, monkeypatch, caplog):
    """The page and the API go on; metrics stay as they were until it can, as no counter may fall."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    failed = Mock(side_effect=LedgerError("ledger sqlite: database or disk is full"))
    monkeypatch.setattr("farthing.service.server.keep_seats", failed)
    service = Service(Settings(), ledger)
    ledger.add(raw_records(load_recording("h100-llama8b-vllm0.26")))
    for _ in range(2):
        service._accountant.advance()
        service._look()
    assert failed.call_count > 1
    assert len({view.tenant for view in service.snapshot().tenants}) > 3
    assert _tenants_and_tiers(service) == set()
    assert [record.levelname for record in caplog.records if "new series of /metrics" in record.message] == ["WARNING"]
    failed.side_effect = None
    service._look()
    assert len(_tenants_and_tiers(service)) > 3
    ledger.close()


def _tenants_and_tiers(service):
    body, _ = exposition(service._registry, "")
    families = [one for one in parse_text(body.decode()) if one.name == c.METRIC_TENANT_COST.removesuffix("_total")]
    samples_of = (sample.labels for family in families for sample in family.samples)
    return {(labels[c.LABEL_TENANT], labels[c.LABEL_TIER]) for labels in samples_of}


def test_intake_is_counted_by_kind(running):
    """As many records as were sent, none refused, none twice."""
    url, ledger = running
    counted = {dict(key)["kind"]: value for key, value in samples(url)[c.METRIC_INTAKE].items()}
    r = t.records.c
    stored = ledger.select(sa.select(r.kind, sa.func.count()).group_by(r.kind))
    assert counted == {kind: float(count) for kind, count in stored}
    assert {dict(key)["result"] for key in samples(url)[c.METRIC_INTAKE]} == {"accepted"}


def test_the_page_and_its_history_are_served(running):
    """The built-in page, its assets and the points of its plots."""
    url, _ = running
    assert get(url, "/").headers["content-type"].startswith("text/html")
    assert get(url, "/static/app.js").status_code == 200
    assert get(url, "/api/v1/history").json()["at_ms"]


def test_an_unpriced_engine_is_never_shown_with_zero_dollars(tmp_path):
    """Unknown is never shown as 0: neither a bill, nor a spend rate, nor a unit cost."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    records = [item.record for item in wire_records(load_recording("h100-llama8b-vllm0.26"), boot="b", engine="llama")]
    records[0]["gpu"] = "NVIDIA GeForce RTX 4090"
    with served(Service(Settings(), ledger).app) as url:
        deliver(url, records[:300])
        wait_until(lambda: c.METRIC_CHECK in samples(url), 10, "the check")
        metrics = samples(url)
        assert metrics[c.METRIC_CHECK][labels(engine="llama", check=c.CHECK_PRICED)] == 0.0
        dollars = {name: rows for name, rows in metrics.items() if "usd" in name}
        assert dollars == {}
        shown = engine_of(url, "llama")
        assert shown["bill_nano"] is None
        assert shown["price_nano_per_hour"] is None
        assert get(url, "/api/v1/snapshot").json()["fleet"]["unpriced"] == ["llama"]
    ledger.close()
