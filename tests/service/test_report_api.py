"""Reports and statements over HTTP: the command's own, limited to whoever asks, and never an error of ours."""

import asyncio
import csv
import io
import json
import threading
from collections import Counter
from datetime import UTC, timedelta

import httpx
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tests.exporters.readers import READER, Reader, tenants_token
from tests.service.books import accountant
from tests.service.closings import SETTINGS, close, moved, tenants_by_workload
from tests.service.hours import NOW_NS, book

from farthing.domain import conventions as c
from farthing.domain.clock import HOUR, utc
from farthing.exporters.report import render
from farthing.exporters.statement import render_statement
from farthing.ledger.engine_notes import Unpriced, note_unpriced
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service import report_api
from farthing.service.issued import issued_statement, issued_statements
from farthing.service.report_api import AT_ONCE, MOST_OPEN, report_routes
from farthing.service.reports import GROUPS, report

NOW = utc(NOW_NS)
HOUR_NOW = NOW_NS // HOUR
SECRET = "zzsecret"
"""In every name that is not acme's."""
ACME = tenants_token("acme")
BY_FOR_TENANTS = tuple(group for group in GROUPS if group != "engine")
PARAMETERS = ("since", "until", "by", "tenant", "project", "model", "engine", "output", "period", "q")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """Work of acme and of others on an engine of others, something in every account, and an engine without a price."""
    opened = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('report')}/ledger.db")
    engine = f"{SECRET}-engine"
    for hour in (HOUR_NOW - 3, HOUR_NOW - 2):
        book(opened, hour, tenant="acme", project="search", nano=5_000_000_001, engine=engine, requests=2)
        book(opened, hour, tenant="acme", nano=7, account=c.ABORTED, engine=engine)
    # what failed for acme is the platform's, and it says whose request it was
    book(opened, HOUR_NOW - 2, tenant="acme", nano=300, account=c.UNATTRIBUTED, engine=engine)
    for number, account in enumerate(c.BOOK_ACCOUNTS):
        tenant = f"{SECRET}-b" if account in {c.CHARGED, c.ABORTED} else ""
        hour, model = HOUR_NOW - 400 + number, f"{SECRET}-model"
        book(opened, hour, tenant=tenant, project=tenant, nano=10**number, account=account, model=model)
    book(opened, HOUR_NOW - 2, tenant=f"{SECRET}-b", nano=11, model=f"{SECRET}-model", requests=1)
    note_unpriced(opened, Unpriced(f"{SECRET}-lab", f"{SECRET}-qwen", SECRET, 1, NOW_NS - 5 * HOUR, f"no {SECRET}"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    """A ledger with a closed month, in which each phase of a recorded load is a tenant whose name is no other word."""
    opened = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('issued')}/ledger.db")
    records = tenants_by_workload(moved(load_recording("h100-llama8b-vllm0.26"), "2026-05", 3_600))
    renamed = [record.line.replace(b'"tenant":"', b'"tenant":"zz-') for record in records]
    opened.add([msgspec.structs.replace(record, line=line) for record, line in zip(records, renamed, strict=True)])
    accountant(opened, SETTINGS).advance()
    close(opened, "2026-05")
    yield opened
    opened.close()


def reader(ledger, principal=None):
    return Reader(report_routes(ledger, "USD", lambda: NOW), principal)


@pytest.mark.parametrize("by", GROUPS)
@pytest.mark.parametrize("output", ["json", "csv", "table"])
def test_a_report_over_http_is_the_commands(ledger, by, output):
    """To who sees everything, byte for byte, in each form."""
    answer = reader(ledger, READER).get("/api/v1/report", {"since": "30d", "by": by, "output": output})
    assert answer.status_code == 200
    assert answer.text == render(report(ledger, NOW - timedelta(days=30), by, "USD"), output)


def test_the_type_of_an_answer_is_that_of_its_form(ledger):
    """JSON by default; the CSV has a name to be saved under; nothing is stored on the way."""
    asked = reader(ledger, READER)
    kinds = {
        output: asked.get("/api/v1/report", {"output": output}).headers["content-type"]
        for output in ("json", "csv", "table")
    }
    assert kinds == {
        "json": "application/json",
        "csv": "text/csv; charset=utf-8",
        "table": "text/plain; charset=utf-8",
    }
    headers = asked.get("/api/v1/report", {"output": "csv"}).headers
    assert headers["content-disposition"] == 'inline; filename="cost-by-tenant.csv"'
    assert headers["cache-control"] == "no-store"
    assert json.loads(asked.get("/api/v1/report").text)["title"].startswith("Cost by tenant")


@pytest.mark.parametrize("by", BY_FOR_TENANTS)
@pytest.mark.parametrize("output", ["json", "csv", "table"])
def test_a_tenants_report_has_its_rows_and_nobody_elses(ledger, by, output):
    """It foots to what the tenant bore; no other name, no idle time and no failure of the platform is in it."""
    answer = reader(ledger, ACME).get("/api/v1/report", {"since": "30d", "by": by, "output": output})
    assert answer.status_code == 200
    assert SECRET not in answer.text + str(answer.headers)
    for account in set(c.BOOK_ACCOUNTS) - {c.CHARGED, c.ABORTED}:
        assert account not in answer.text.lower()
    assert c.UNPRICED in answer.text
    if output == "json":
        data = answer.json()
        amount = next(column["key"] for column in reversed(data["columns"]) if column["kind"] == "money")
        assert data["total"][amount]["nano_usd"] == 2 * 5_000_000_008
        assert next(iter(data["total"].values())) == "Total"


def test_a_tenants_report_says_whose_it_is_and_when_it_worked(ledger):
    """The notes name the tenant, and the period is that of its own lines, not of the books'."""
    data = reader(ledger, ACME).get("/api/v1/report", {"since": "all"}).json()
    assert "Only tenant acme: the total is theirs, not the whole bill." in data["notes"]
    assert data["title"] == "Cost by tenant, 2026-11-26 07:00 to 2026-11-26 09:00 UTC"
    share = data["rows"][0]["share"]
    assert share == 1.0


def test_shares_are_of_what_the_token_sees(ledger):
    """Two tenants' shares add up to one; with them nothing is known of the whole."""
    token = tenants_token("acme", f"{SECRET}-b")
    rows = reader(ledger, token).get("/api/v1/report", {"since": "24h"}).json()["rows"]
    shares = [row["share"] for row in rows if row["share"] is not None]
    assert (len(shares), sum(shares)) == (2, 1.0)
    assert "acme, zzsecret-b" in str(reader(ledger, token).get("/api/v1/report").json()["notes"])
    one = reader(ledger, token).get("/api/v1/report", {"tenant": "acme"}).json()
    assert [row["tenant"] for row in one["rows"]] == ["acme", "(unpriced)"]


@pytest.mark.parametrize("asked", [f"{SECRET}-b", "nobody", ""], ids=["somebody else", "nobody", "the empty name"])
def test_another_tenant_is_refused_in_the_same_words_whether_there_is_one_or_not(ledger, issued, asked):
    """403, naming whom the token sees; a name says nothing about who is there."""
    for path in ("/api/v1/report", "/api/v1/statements"):
        answer = reader(ledger, ACME).get(path, {"tenant": asked})
        assert answer.status_code == 403
        assert answer.json() == {"error": "this token sees the rows of acme alone; read-all opens those of others"}


@pytest.mark.parametrize("parameters", [{"by": "engine"}, {"engine": f"{SECRET}-engine"}, {"engine": "nothing"}])
def test_engines_are_no_tenants_rows(ledger, parameters):
    """They are shared: a tenant's token is refused, whether there is such an engine or not."""
    answer = reader(ledger, ACME).get("/api/v1/report", parameters)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("engines are shared")
    assert reader(ledger, READER).get("/api/v1/report", parameters).status_code == 200


def test_a_model_tells_nothing_of_engines_that_serve_it(ledger):
    """With whatever model is asked for, the note on unpriced engines is the same."""
    answers = [
        reader(ledger, ACME).get("/api/v1/report", {"model": model, "since": "30d"}).json()
        for model in (f"{SECRET}-qwen", f"{SECRET}-model", "none")
    ]
    assert len({json.dumps(answer["rows"]) for answer in answers}) == 1
    assert all(any("some engine had no price" in note for note in answer["notes"]) for answer in answers)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("since=yesterday", "since 'yesterday'"),
        ("until=never", "until 'never'"),
        ("since=today&until=2026-01-01", "until '2026-01-01' is not after since 'today'"),
        ("by=colour", "by 'colour' is not one of tenant"),
        ("output=xml", "output 'xml' is not one of table, json, csv"),
        ("colour=red", "no parameter 'colour'; give since"),
        ("by=day&by=month", "by is given twice"),
        ("tenant=a%00b", "holds a NUL"),
        (f"model={'m' * 513}", "too long"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_line_that_names_it(ledger, query, word):
    """400, with the parameter, what was given, and what to give."""
    answer = reader(ledger, READER).get(f"/api/v1/report?{query}")
    assert answer.status_code == 400
    assert word in answer.json()["error"]
    assert len(answer.json()["error"].splitlines()) == 1


ANYTHING = st.one_of(
    st.text(max_size=40),
    st.sampled_from(["24h", "7d", "0s", "all", "month", "9" * 300 + "w", "json", "csv", "table", "acme", *GROUPS]),
    st.datetimes(timezones=st.sampled_from([UTC, None])).map(lambda moment: moment.isoformat()),
    st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-26T10:30:00.000000001Z"]),
)


@settings(deadline=None)
@given(
    st.sampled_from(["/api/v1/report", "/api/v1/statements", "/api/v1/statements/2026-05-0001.csv"]),
    st.dictionaries(st.one_of(st.sampled_from(PARAMETERS), st.text(max_size=5)), ANYTHING, max_size=5),
    st.sampled_from([ACME, READER, tenants_token(), None]),
)
@example("/api/v1/report", {"since": "9999-12-31T23:59:59-23:59"}, READER)
@example("/api/v1/report", {"since": "all", "until": "9999-12-31T23:59:59-23:59"}, READER)
@example("/api/v1/report", {"since": "9" * 500 + "d"}, READER)
def test_no_parameters_are_an_error_of_ours(ledger, path, parameters, principal):
    """Whatever is asked: an answer, or 4xx with one line."""
    answer = reader(ledger, principal).get(path, parameters)
    assert answer.status_code < 500
    if answer.status_code >= 400:
        (problem,) = answer.json().values()
        assert len(problem.splitlines()) == 1
    if principal is ACME and SECRET not in str(parameters):
        assert SECRET not in answer.text


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=10), st.binary(max_size=20))
def test_no_statements_number_is_an_error_of_ours(ledger, number, form, query):
    """Nor any bytes in the place of parameters."""
    asked = reader(ledger, ACME)
    quoted = "".join(f"%{byte:02x}" for byte in f"{number}.{form}".encode())
    # a path with a slash too many is sent on to the one without, which is not there either
    assert asked.get(f"/api/v1/statements/{quoted}").status_code in {404, 307}
    raw = "".join(f"%{byte:02x}" for byte in query)
    assert asked.get(f"/api/v1/report?since={raw}&{raw}").status_code in {200, 400}


def test_a_tenant_is_given_its_own_statements(issued):
    """The list has its own alone, and each is there as its lines; the rest of the books is not there at all."""
    every = issued_statements(issued, None, None)
    assert len({one.tenant for one in every}) > 3
    mine = next(one for one in every if one.tenant)
    asked = reader(issued, tenants_token(mine.tenant))
    listed = asked.get("/api/v1/statements").json()
    assert [row["number"] for row in listed["statements"]] == [mine.number]
    assert listed["statements"][0].pop("sha256") == mine.sha256
    assert listed["statements"][0]["total_nano"] == mine.total_nano
    assert listed["statements"][0]["forms"] == ["csv"]
    answer = asked.get(f"/api/v1/statements/{mine.number}.csv")
    assert answer.content == render_statement(issued_statement(issued, mine.number), "csv")
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert sum(int(line["billed_cost_nano"]) for line in lines) == mine.total_nano
    for other in every:
        if other != mine:
            missing = asked.get(f"/api/v1/statements/{other.number}.csv")
            absent = asked.get(f"/api/v1/statements/{'9' * len(other.number)}.csv")
            assert missing.status_code == absent.status_code == 404
            assert missing.text.replace(other.number, "") == absent.text.replace("9" * len(other.number), "")
            assert not other.tenant or other.tenant not in answer.text + missing.text + str(listed)


def test_somebody_elses_statement_is_not_even_read(issued, monkeypatch):
    """Reading a document takes as long as it is: by the time a refusal took, a tenant could count the others."""
    read = []

    def noted(ledger, number):
        read.append(number)
        return issued_statement(ledger, number)

    monkeypatch.setattr(report_api, "issued_statement", noted)
    every = issued_statements(issued, None, None)
    mine = next(one for one in every if one.tenant)
    asked = reader(issued, tenants_token(mine.tenant))
    codes = [asked.get(f"/api/v1/statements/{one.number}.csv").status_code for one in every]
    assert codes == [200 if one == mine else 404 for one in every]
    assert read == [mine.number]


def test_statements_as_issued_are_for_who_sees_everything(issued):
    """All of them, in every form; a tenant's token gets the lines alone, as the others name engines and pools."""
    every = issued_statements(issued, None, None)
    asked = reader(issued, READER)
    rows = asked.get("/api/v1/statements", {"period": "2026-05"}).json()["statements"]
    assert [row["number"] for row in rows] == [one.number for one in every]
    assert rows[0]["tenant"] is None
    assert asked.get("/api/v1/statements", {"period": "2026-04"}).json()["statements"] == []
    for form in ("html", "json", "parquet", "csv"):
        answer = asked.get(f"/api/v1/statements/{every[1].number}.{form}")
        assert answer.content == render_statement(issued_statement(issued, every[1].number), form)
        assert "sandbox" in answer.headers["content-security-policy"]
        if form != "csv":
            mine = reader(issued, tenants_token(every[1].tenant)).get(f"/api/v1/statements/{every[1].number}.{form}")
            assert mine.status_code == 404
            assert mine.json()["error"].endswith("ask for csv")
    assert asked.get("/api/v1/statements/2026-05-9999.html").status_code == 404


def test_a_ledger_that_does_not_answer_is_said_so_without_its_address(tmp_path):
    """503 is for what a later request may get; the ledger's own words stay in the log."""
    broken = Ledger.open(f"sqlite:///{tmp_path}/{SECRET}.db")
    broken.close()
    (tmp_path / f"{SECRET}.db").write_bytes(b"not a database" * 1_000)
    for path in ("/api/v1/report", "/api/v1/statements"):
        answer = reader(broken, READER).get(path)
        assert (answer.status_code, SECRET in answer.text) == (503, False)


def test_however_many_reports_are_asked_for_a_few_are_made_and_the_rest_is_told_to_come_back(ledger):
    """Two at a time, thirty more wait, the others get 429; what needs the shared threads goes on meanwhile."""
    go_on, making, most = threading.Event(), [], []

    def clock():
        making.append(1)
        most.append(len(making))
        assert go_on.wait(20)
        making.pop()
        return NOW

    def other(request):
        return PlainTextResponse("answered")

    app = Starlette(routes=[*report_routes(ledger, "USD", clock), Route("/other", other)])

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://farthing") as client:
            asked = [asyncio.create_task(client.get("/api/v1/report")) for _ in range(MOST_OPEN + 3)]
            while len(making) < AT_ONCE:
                await asyncio.sleep(0.01)
            meanwhile = await client.get("/other")
            go_on.set()
            return meanwhile, await asyncio.gather(*asked)

    meanwhile, answers = asyncio.run(ask())
    assert meanwhile.text == "answered"
    assert max(most) == AT_ONCE
    assert Counter(answer.status_code for answer in answers) == {200: MOST_OPEN, 429: 3}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "5"
    assert "try again" in refused.json()["error"]
