"""A running service with recorded work of several tenants: what each token is answered, byte for byte."""

import json
import time
from datetime import UTC, datetime

import httpx
import msgspec
import pytest
from starlette.routing import Route
from tests.service.books import raw_records
from tests.service.closings import tenants_by_workload
from tests.service.running import served, wait_until

from farthing.domain.access import Scope
from farthing.exporters.report import render
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.access import Access
from farthing.service.access_sessions import Sessions
from farthing.service.access_tokens import TokenFile, add_token
from farthing.service.reports import report
from farthing.service.server import Service
from farthing.settings import Settings

SECRET = "zzsecret"
"""In the name of the engine and of every tenant but two."""
HOLDERS = {
    "auditor": ([Scope.READ_ALL], []),
    "a-dashboard": ([Scope.READ_TENANT], ["tenant-a"]),
    "both": ([Scope.READ_TENANT], ["tenant-a", "tenant-b"]),
    "newcomer": ([Scope.READ_TENANT], ["newcomer"]),
    "probe": ([Scope.INGEST], []),
}
QUERIES = {
    "/api/v1/history": ("since=0", "since=x"),
    "/api/v1/report": (
        *(f"by={by}&since=all&output=csv" for by in ("tenant", "model", "day", "account", "phase")),
        "since=all",
        "output=table",
        "by=engine",
        f"tenant={SECRET}",
        "colour=red",
    ),
    "/api/v1/statements": (f"tenant={SECRET}", "period=2026-05"),
}  # fmt: skip


def records_of(recording):
    """Its work: the first two phases of the load are two tenants', the others those of tenants with a secret name."""
    records = tenants_by_workload(raw_records(recording, boot=f"{SECRET}-boot", engine=f"{SECRET}-engine"))
    workloads = sorted({json.loads(record.line)["tenant"] for record in records if record.kind == "usage"})
    assert len(workloads) > 3
    names = dict(zip(workloads, ("tenant-a", "tenant-b"), strict=False))
    renamed = []
    for record in records:
        row = json.loads(record.line)
        if record.kind == "usage":
            row["tenant"] = names.get(row["tenant"], f"{SECRET}-{row['tenant']}")
            row["project"] = row["workload"] = f"of-{row['tenant']}"
        renamed.append(msgspec.structs.replace(record, line=json.dumps(row, separators=(",", ":")).encode()))
    return renamed


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """(URL, service, ledger, name -> token), and what was recent for each as soon as everything was settled."""
    folder = tmp_path_factory.mktemp("sees")
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    tokens = {
        name: add_token(folder / "tokens.yaml", name, *opens, datetime.now(UTC)) for name, opens in HOLDERS.items()
    }
    access = Access(TokenFile(folder / "tokens.yaml"), None, Sessions(lambda: b"k" * 32, 1.0, time.time))
    service = Service(Settings(), ledger, access)
    with served(service.app) as url:
        asked, own = asking(url, tokens["auditor"]), asking(url, tokens["both"])
        wait_until(lambda: own("/api/v1/history").json()["at_ms"], 60, "a point before there was any work")
        ledger.add(records_of(load_recording("h100-qwen2vl7b-vllm0.26")))
        wait_until(lambda: len(asked("/api/v1/snapshot").json()["tenants"]) > 3, 60, "the tenants' costs")
        wait_until(lambda: asked("/api/v1/snapshot").json()["spend"] is not None, 60, "spend")
        wait_until(lambda: own("/api/v1/history").json()["recent"]["ttft_seconds"]["count"], 60, "a point after it")
        holders = ("a-dashboard", "both", "newcomer")
        recent = {one: asking(url, tokens[one])("/api/v1/history").json()["recent"] for one in holders}
        yield url, service, ledger, tokens, recent
    ledger.close()


def asking(url, token):
    """Gets paths with a token."""
    client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=20)
    return client.get


def paths_of(service):
    """Every path that answers GET, with the queries that are asked of it."""
    for route in service.app.routes:
        assert isinstance(route, Route)
        if "GET" in (route.methods or ()):
            path = (
                route.path.replace("{path:path}", "app.js")
                .replace("{number}", "2026-05-0001")
                .replace("{form}", "csv")
                .replace("{id:path}", "v000003")
            )
            yield path
            yield from (f"{path}?{query}" for query in QUERIES.get(path, ()))


@pytest.mark.parametrize("holder", ["a-dashboard", "both", "newcomer", "probe"])
def test_no_route_answers_a_tenant_with_a_name_that_is_not_its_own(running, holder):
    """Every route of the service, with good and bad parameters: headers and body, errors too."""
    url, service, _, tokens, _ = running
    asked = asking(url, tokens[holder])
    foreign = {SECRET, *({"tenant-a", "tenant-b"} - set(HOLDERS[holder][1]))}
    paths = list(paths_of(service))
    assert {"/metrics", "/api/v1/gpus", "/api/v1/snapshot", "/api/v1/history", "/api/v1/report"} < set(paths)
    for path in (*paths, "/nothing", f"/{'x' * 500}"):
        answer = asked(path)
        assert answer.status_code < 500, path
        shown = answer.text + str(answer.headers)
        assert not [name for name in foreign if name in shown], path


def test_the_names_are_there_for_who_may_see_them(running):
    """What the test above looks for is in the same answers to a token that sees everything."""
    url, _, _, tokens, _ = running
    asked = asking(url, tokens["auditor"])
    for path in ("/api/v1/snapshot", "/metrics", "/api/v1/report?since=all"):
        assert SECRET in asked(path).text
        assert "tenant-b" in asked(path).text


def test_a_tenants_figures_are_the_ledgers_to_the_nano_dollar(running):
    """On the page's data and in the report: what the row of the whole report has."""
    url, _, ledger, tokens, _ = running
    asked = asking(url, tokens["a-dashboard"])
    (row,) = asked("/api/v1/snapshot").json()["tenants"]
    whole = json.loads(render(report(ledger, datetime(1970, 1, 1, tzinfo=UTC), "tenant", "USD"), "json"))
    mine = next(one for one in whole["rows"] if one["tenant"] == "tenant-a")
    assert row["cost_nano"] == mine["cost"]["nano_usd"] > 0
    assert sum(part["cost_nano"] for part in row["parts"]) == row["cost_nano"]
    assert row["tokens"]["output"] == mine["output"]
    own = asked("/api/v1/report?since=all").json()
    assert own["total"]["cost"] == mine["cost"]
    assert [one["tenant"] for one in own["rows"]] == ["tenant-a"]
    assert own["rows"][0] == {**mine, "share": 1.0}


def test_a_tenants_past_is_of_its_own_requests(running):
    """A tenant's requests of late are fewer than two tenants' together, and one that has none has none."""
    *_, recent = running
    counts = {holder: one["ttft_seconds"]["count"] for holder, one in recent.items()}
    assert 0 == counts["newcomer"] < counts["a-dashboard"] < counts["both"]
    assert [one["ttft_seconds"]["p95"] is None for one in recent.values()] == [False, False, True]


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/gpus"])
def test_what_is_the_fleets_is_refused_to_a_tenant(running, path):
    """403, with the scope that would open it."""
    url, _, _, tokens, _ = running
    answer = asking(url, tokens["both"])(path)
    assert answer.status_code == 403
    assert "read-all" in answer.json()["error"]
