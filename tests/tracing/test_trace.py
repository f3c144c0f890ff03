"""A trace from the ledger: what its requests did and cost, as the books have it, and what each asker sees of it."""

import csv
import io
import json
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice

import msgspec
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.middleware import Middleware
from tests.cli.commands import farthing, one_line
from tests.exporters.readers import READER, Reader, tenants_token
from tests.service.books import accountant, raw_of, total
from tests.service.running import served
from tests.tracing.traced import ids_of, traced_wire

from farthing.cli.trace import trace_table, waterfall
from farthing.collectors.wire import decode_line
from farthing.domain import conventions as c
from farthing.domain.access import Scope
from farthing.domain.clock import MILLISECOND, SECOND, utc
from farthing.domain.errors import TraceError
from farthing.domain.records import Usage
from farthing.exporters.report import render
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.access import Access, Guard
from farthing.service.access_sessions import Sessions
from farthing.service.access_tokens import TokenFile, add_token
from farthing.service.report_api import TRACE_PATH, report_routes
from farthing.service.trace_view import MOST_REQUESTS, Step, TraceView, trace_document, trace_view
from farthing.service.trace_windows import settled_until, windows_of

RECORDING = "h100-llama8b-vllm0.26"
REQUESTS = 2464
TOGETHER = 400
"""Requests of one trace: few traces show every request of the recording."""
PHASES = {"queue", "prefill", "decode", "stream", "wait"}


@pytest.fixture(scope="module")
def records():
    """A recorded H100 whose requests are of seven traces."""
    return traced_wire(load_recording(RECORDING), together=TOGETHER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, records):
    """A folder with its books, and a token of acme's."""
    folder = tmp_path_factory.mktemp("traced")
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger:
        ledger.add(raw_of(records))
        accountant(ledger).advance()
    (folder / "farthing.yaml").write_text("ledger: sqlite:///ledger.db\n")
    token = add_token(folder / "tokens.yaml", "ada", [Scope.READ_TENANT], ["acme"], datetime.now(UTC))
    (folder / "token").write_text(f"{token}\n")
    return folder


@pytest.fixture(scope="module")
def ledger(folder):
    """The books."""
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def views(ledger):
    """Every trace."""
    names = [ids_of(number, TOGETHER)["trace_id"] for number in range(0, REQUESTS, TOGETHER)]
    return [trace_view(ledger, name, "USD") for name in names]


@pytest.fixture(scope="module")
def one(views):
    """A request that finished, with tokens and a cost in both phases."""
    return next(one for view in views for one in view.requests if one.outcome == c.FINISHED and len(one.phases) == 2)


def usages(records):
    return [record for record in records if record["kind"] == "usage"]


# ---- what the books say -------------------------------------------------------------------------------


def test_what_all_traces_cost_is_what_the_journal_says_by_tenant_and_phase(ledger, views):
    """To the nano-dollar: settled costs of requests are the books', charged, aborted and failed."""
    shown: Counter[tuple[str, str]] = Counter()
    for view in views:
        for request in view.requests:
            shown.update({(request.tenant, phase.phase): phase.nano for phase in request.phases})
    j = t.journal.c
    ours = j.debit.in_((c.CHARGED, c.ABORTED)) | (j.reason == c.REASON_FAILED)
    query = sa.select(j.tenant, j.phase, sa.func.sum(j.nano)).where(ours).group_by(j.tenant, j.phase)
    booked = {(tenant, phase): int(nano) for tenant, phase, nano in ledger.select(query) if nano}
    assert +shown == booked
    assert sum(view.cost_nano for view in views) == sum(booked.values()) > 0


def test_each_request_is_in_its_trace_once(records, views):
    """With the ids, the estimate and the end of its record."""
    found = [request for view in views for request in view.requests]
    assert len(found) == REQUESTS
    told = {record["request_id"]: record for record in usages(records)}
    assert {request.request_id for request in found} == told.keys()
    for request in found:
        record = told[request.request_id]
        for name in ("trace_id", "span_id", "parent_span_id", "estimate_nano", "outcome"):
            assert getattr(request, name) == record[name]


def test_times_lie_within_the_request_and_phases_follow_one_another(views):
    """Queue, prefill and decode of a sequence, as the engine timed them; what its client saw is within the request."""
    names: set[str] = set()
    for view in views:
        for request in view.requests:
            assert view.start_ns <= request.arrived_ns <= request.ended_ns <= view.end_ns
            parts = {step.name: step for step in request.steps}
            names |= parts.keys()
            assert all(step.start_ns <= step.end_ns for step in request.steps)
            if "decode" in parts:
                assert parts["queue"].end_ns == parts["prefill"].start_ns
                assert parts["prefill"].end_ns == parts["decode"].start_ns
    assert names == PHASES


def test_methods_and_the_fits_error_are_those_of_its_windows(ledger, views):
    """How a request's cost was split is what its tenant's lines say of the windows that it reaches into."""
    j = t.journal.c
    known = {row[0] for row in ledger.select(sa.select(j.method).where(j.phase != "").distinct())}
    methods = {method for view in views for one in view.requests for phase in one.phases for method in phase.methods}
    assert methods <= known
    costed = [one for view in views for one in view.requests if one.cost_nano and one.arrived_ns is not None]
    assert all(phase.methods for one in costed for phase in one.phases)
    errors = [one.fit_error for one in costed if one.fit_error is not None]
    assert errors
    assert all(0 <= error < 1 for error in errors)


def test_of_requests_that_are_far_apart_nothing_between_them_is_read(ledger, records):
    """A trace id, or a request's own id, may come again after a week: what others did meanwhile is not looked at."""
    w = t.windows.c
    every = len(ledger.select(sa.select(w.start_ns)))
    decoded = (decode_line(raw.line) for raw in raw_of(records))
    ended = sorted((one for one in decoded if isinstance(one, Usage) and one.sequences), key=lambda one: one.arrived_ns)
    first, second, last = ended[0], ended[1], ended[-1]
    (far,) = windows_of(ledger, [last, first, second]).values()
    assert 0 < len(far.starts) < every / 2
    assert list(far.starts) == sorted(set(far.starts))
    for usage in (first, second, last):
        (alone,) = windows_of(ledger, [usage]).values()
        who = (usage.tenant, usage.project, usage.model, usage.tier)
        assert far.methods_of(usage, who) == alone.methods_of(usage, who) != {}
        assert far.error_of(usage) == alone.error_of(usage)
        assert far.settle(usage)


def test_a_request_leads_to_its_whole_trace(ledger, views, one):
    """By its own id as by the trace's."""
    (view,) = [view for view in views if view.trace_id == one.trace_id]
    assert trace_view(ledger, one.request_id, "USD") == view
    assert len(view.requests) == TOGETHER


def test_the_difference_is_settled_minus_estimated(views, one):
    """Of a request, and of the trace."""
    assert one.difference_nano == one.cost_nano - one.estimate_nano
    view = views[0]
    assert view.estimate_nano == sum(request.estimate_nano for request in view.requests)
    assert replace(one, estimate_nano=None).difference_nano is None


def test_a_trace_of_which_one_request_has_no_estimate_has_none(views):
    """A part of it would look like all."""
    first, *others = views[0].requests
    assert replace(views[0], requests=(replace(first, estimate_nano=None), *others)).estimate_nano is None


def costed_to_a_quarter(ledger, raw):
    """The accountant that has read so much of them."""
    keeper = accountant(ledger)
    ledger.add(raw[: len(raw) // 4])
    keeper.advance()
    return keeper


def latest(ledger):
    """The request that ended last of all in the ledger."""
    q = t.requests.c
    (row,) = ledger.select(sa.select(q.request_id, q.trace_id).order_by(q.ended_wall_ns.desc()).limit(1))
    return row


def test_books_that_are_behind_say_so(records, ledger_url):
    """What is settled of a request is shown, and that there is more to come; later it is settled."""
    raw = raw_of(records)
    with Ledger.open(ledger_url) as ledger:
        keeper = costed_to_a_quarter(ledger, raw)
        last = latest(ledger).request_id
        view = trace_view(ledger, last, "USD")
        states = {one.request_id: one.state for one in view.requests}
        assert states[last] == view.state == "in progress"
        assert "settled" in states.values() or len(view.requests) < TOGETHER
        assert next(one for one in view.requests if one.request_id == last).difference_nano is None
        assert "work in progress" in waterfall(view)
        assert "settled so far (in progress)" in waterfall(view).splitlines()[1]
        ledger.add(raw[len(raw) // 4 :])
        keeper.advance()
        assert trace_view(ledger, last, "USD").state == "settled"


def test_what_settles_while_it_is_read_is_not_settled_without_its_cost(records, ledger_url, monkeypatch):
    """Whoever waits for a cost takes the first answer that calls it settled."""
    raw = raw_of(records)
    with Ledger.open(ledger_url) as ledger:
        keeper = costed_to_a_quarter(ledger, raw)
        last = latest(ledger).request_id

        def meanwhile(*arguments):
            ledger.add(raw[len(raw) // 4 :])
            keeper.advance()
            return windows_of(*arguments)

        monkeypatch.setattr("farthing.service.trace_view.windows_of", meanwhile)
        first = next(one for one in trace_view(ledger, last, "USD").requests if one.request_id == last)
        again = next(one for one in trace_view(ledger, last, "USD").requests if one.request_id == last)
        assert (first.state, first.cost_nano) == (again.state, again.cost_nano)
        assert again.cost_nano > 0


def test_an_idle_engines_request_says_by_when_it_settles_and_does(records, tmp_path):
    """Few requests make no fit: their windows wait ten minutes for one. By then at the latest they are settled."""
    first = next(place for place, record in enumerate(records) if record["kind"] == "steps")
    marks = records[first]["marks"]
    # its last step is the last of all
    steps = {**records[first], "marks": {**marks, "running": [*marks["running"][:-1], 0]}}
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        keeper = accountant(ledger)
        told: list[int] = []

        def shown(seconds):
            """The first request, once nothing but that the engine is idle was reported for so long."""
            for number in range(len(told) + 1, seconds // 5 + 1):
                told.append(number)
                seq, until_ns = steps["seq"] + number, steps["until_ns"] + number * 5 * SECOND
                until = {"until_ns": until_ns, "open_ns": until_ns, "base_ns": until_ns}
                ledger.add(raw_of([{**steps, "seq": seq, **until, "marks": dict.fromkeys(marks, ())}]))
            keeper.advance()
            return trace_view(ledger, records[2]["request_id"], "USD").requests[0]

        ledger.add(raw_of([*records[:first], steps]))
        waiting = shown(60)
        assert waiting.settles_ns is not None
        wait = waiting.settles_ns - waiting.ended_ns
        assert (waiting.state, wait) == ("in progress", 725 * SECOND)
        view = trace_view(ledger, waiting.request_id, "USD")
        assert f"by {utc(waiting.settles_ns + 60 * SECOND - 1):%H:%M} UTC at the latest" in waterfall(view)
        assert shown(580).state == "in progress"
        done = shown(wait // SECOND)
        assert (done.state, done.settles_ns) == ("settled", None)


def test_without_its_record_a_request_has_its_cost_and_no_times(records, tmp_path):
    """As after the inbox was pruned, which is only once a boot is closed."""
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        ledger.add(raw_of(records))
        accountant(ledger).advance()
        with ledger.engine.begin() as connection:
            connection.execute(sa.delete(t.records))
        view = trace_view(ledger, ids_of(0, TOGETHER)["trace_id"], "USD")
        nano = total(ledger, t.requests.c.decode_nano)
    assert {one.arrived_ns for one in view.requests} == {None}
    assert all(one.steps == () for one in view.requests)
    assert 0 < view.cost_nano < 10 * nano
    assert "pruned" in waterfall(view)


@pytest.mark.parametrize("name", ["", "r99999999", "f" * 32, "r000001\n", "%"])
def test_an_unknown_id_is_told(ledger, name):
    """In one line."""
    with pytest.raises(TraceError, match="no request or trace"):
        trace_view(ledger, name, "USD")


def test_requests_without_a_trace_are_not_taken_for_one(tmp_path, records):
    """An empty trace id is none, however many requests have it."""
    ids = {"trace_id", "span_id", "parent_span_id", "sampled"}
    plain = [{key: record[key] for key in record.keys() - ids} for record in islice(records, 200)]
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        ledger.add(raw_of(plain))
        accountant(ledger).advance()
        view = trace_view(ledger, usages(plain)[0]["request_id"], "USD")
    assert (view.trace_id, len(view.requests)) == ("", 1)
    assert waterfall(view).startswith("No trace: 1 request in ")


def test_of_a_very_large_trace_the_first_requests_are_shown_and_its_amounts_are_of_all(ledger, views, monkeypatch):
    """An answer stays an answer, and what a trace cost does not depend on how much of it is shown."""
    assert MOST_REQUESTS >= TOGETHER
    monkeypatch.setattr("farthing.service.trace_view.MOST_REQUESTS", 10)
    whole = views[0]
    view = trace_view(ledger, whole.trace_id, "USD")
    assert (len(view.requests), view.more) == (10, TOGETHER - 10)
    for told in ("cost_nano", "estimate_nano", "state", "start_ns", "end_ns"):
        assert getattr(view, told) == getattr(whole, told) == trace_document(view)[told]
    shown = {one.request_id for one in view.requests}
    others = [one for one in whole.requests if one.request_id not in shown]
    phases = Counter({phase.phase: 0 for one in others for phase in one.phases})
    for one in others:
        phases.update({phase.phase: phase.nano for phase in one.phases})
    assert view.rest is not None
    assert {phase.phase: phase.nano for phase in view.rest.phases} == phases
    assert f"{TOGETHER - 10} more requests" in waterfall(view)
    assert waterfall(view).splitlines()[1] == waterfall(whole).splitlines()[1]
    latest = max(whole.requests, key=lambda request: request.ended_ns).request_id
    asked = trace_view(ledger, latest, "USD")
    assert latest in [request.request_id for request in asked.requests]
    assert (len(asked.requests), asked.more, asked.cost_nano) == (10, TOGETHER - 10, whole.cost_nano)
    rows = list(csv.DictReader(io.StringIO(render(trace_table(view), "csv"))))
    assert len(rows) == 11
    assert rows[-1]["request_id"] == f"({TOGETHER - 10} more requests)"
    assert sum(round(float(row["cost_usd"]) * 1e9) for row in rows) == whole.cost_nano


def test_what_is_not_shown_is_told_apart_by_its_books_and_its_estimates(records, ledger_url, monkeypatch):
    """Part of it is to come, and one without an estimate leaves the trace without; estimates may be as large as any."""
    monkeypatch.setattr("farthing.service.trace_view.MOST_REQUESTS", 10)
    with Ledger.open(ledger_url) as ledger:
        costed_to_a_quarter(ledger, raw_of(records))
        last = latest(ledger)
        trace_id = last.trace_id
        view = trace_view(ledger, trace_id, "USD")
        assert (view.rest and view.rest.state) == view.state == "in progress"
        with ledger.engine.begin() as connection:
            connection.execute(sa.update(t.requests).values(estimate_nano=2**62))
        assert trace_view(ledger, trace_id, "USD").estimate_nano == (len(view.requests) + view.more) * 2**62
        with ledger.engine.begin() as connection:
            is_last = t.requests.c.request_id == last.request_id
            connection.execute(sa.update(t.requests).where(is_last).values(estimate_nano=None))
        assert trace_view(ledger, trace_id, "USD").estimate_nano is None


def test_what_is_not_shown_is_settled_when_each_of_it_is(records, ledger_url, monkeypatch):
    """Windows reach further than they are settled: the rest's state is that of its requests, one by one."""
    raw = raw_of(records)
    told: Counter[str] = Counter()
    with Ledger.open(ledger_url) as ledger:
        keeper = accountant(ledger)
        for begin in range(0, 900, 45):
            ledger.add(raw[begin : begin + 45])
            keeper.advance()
            ended = [row.trace_id for row in ledger.select(sa.select(t.requests.c.trace_id).distinct())]
            for trace_id in ended:
                whole = trace_view(ledger, trace_id, "USD")
                with monkeypatch.context() as patch:
                    patch.setattr("farthing.service.trace_view.MOST_REQUESTS", 10)
                    part = trace_view(ledger, trace_id, "USD")
                assert (part.state, part.cost_nano) == (whole.state, whole.cost_nano)
                if part.rest is None:
                    continue
                shown = {one.request_id for one in part.requests}
                states = {one.state for one in whole.requests if one.request_id not in shown}
                assert part.rest.state == ("settled" if states == {"settled"} else "in progress")
                told[part.rest.state] += 1
    assert min(told["settled"], told["in progress"]) > 0


def test_an_engine_of_two_ranks_is_settled_as_far_as_both_are(records, tmp_path):
    """Whose windows a request of the rest reaches into is not looked at: the rank that is behind decides."""
    b, w = t.boots.c, t.windows.c
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        ledger.add(raw_of(records[:900]))
        accountant(ledger).advance()
        *_, behind, last = [row.wall_end_ns for row in ledger.select(sa.select(w.wall_end_ns).order_by(w.start_ns))]
        assert settled_until(ledger) == {"b": last}
        with ledger.engine.begin() as connection:
            connection.execute(sa.update(t.boots).values(ranks=2))
        assert settled_until(ledger) == {}
        with ledger.engine.begin() as connection:
            connection.execute(sa.update(t.windows).where(w.wall_end_ns <= behind).values(engine_index=1))
        assert settled_until(ledger) == {"b": behind}
        with ledger.engine.begin() as connection:
            connection.execute(sa.update(t.boots).values(closed_ns=b.started_ns))
        assert settled_until(ledger) == {}


def test_of_an_engine_that_has_ended_the_last_windows_may_still_be_waited_for(records, tmp_path):
    """Until its books are closed, which they are once its devices' samples have come or are given up."""
    b = t.boots.c
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        ledger.add(raw_of(records[:900]))
        accountant(ledger).advance()
        last = latest(ledger).request_id
        for column, state in ((None, "in progress"), ("ended_ns", "in progress"), ("closed_ns", "settled")):
            if column is not None:
                with ledger.engine.begin() as connection:
                    connection.execute(sa.update(t.boots).values({column: b.started_ns}))
            (one,) = (each for each in trace_view(ledger, last, "USD").requests if each.request_id == last)
            assert one.state == state


def test_a_request_of_a_thousand_sequences_has_as_many_steps_as_one_of_one(records, tmp_path):
    """An answer's size goes by its requests: each step is there once, from the first sequence's to the last one's."""
    told = next(record for record in records if record.get("sequences"))
    (one,) = told["sequences"]
    wide = {**told, "sequences": [{**one, "last_ns": one["last_ns"] - number} for number in range(1_000)]}
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        ledger.add(raw_of(wide if record is told else record for record in records[:300]))
        accountant(ledger).advance()
        view = trace_view(ledger, told["trace_id"], "USD")
    found = next(request for request in view.requests if request.request_id == told["request_id"])
    parts = {step.name: step for step in found.steps}
    assert len(parts) == len(found.steps) <= len(PHASES)
    assert {parts[name].count for name in ("queue", "prefill", "decode")} == {1_000}
    assert parts["decode"].end_ns - parts["decode"].start_ns == one["last_ns"] - one["first_ns"]
    assert "decode ×1000" in waterfall(view)


def test_the_largest_answer_is_bounded(one):
    """By the requests that are shown, the lengths of their fields, and a few steps for each."""
    text = "\x01" * 512
    words = {
        "request_id": text, "tenant": text, "project": text, "tier": text, "model": text, "engine": text[:128],
        "steps": tuple(Step(name, 2**62, 2**62, 1_024) for name in PHASES), "fit_error": 1 / 3,
    }  # fmt: skip
    document = msgspec.json.encode(trace_document(TraceView(one.trace_id, "USD", (replace(one, **words),))))
    assert len(document) * MOST_REQUESTS < 12_000_000


def test_a_trace_is_looked_up_by_an_index(ledger):
    """A ledger may have a hundred million requests."""
    query = "EXPLAIN QUERY PLAN SELECT * FROM requests WHERE trace_id IN (?) AND trace_id != ''"
    with ledger.engine.connect() as connection:
        plan = [row[-1] for row in connection.exec_driver_sql(query, ("a",))]
    assert any("ix_requests_trace_id" in step for step in plan)


# ---- who sees what --------------------------------------------------------------------------------------


def test_a_tenant_sees_its_own_requests_of_a_trace_alone(ledger, views):
    """Without the others' and without the engine's name; who sees all sees all."""
    name = views[0].trace_id
    everything = Reader(report_routes(ledger, "USD", lambda: utc(0)), READER).get(f"{TRACE_PATH}/{name}")
    assert (everything.status_code, everything.json()) == (200, json.loads(json.dumps(trace_document(views[0]))))
    own = Reader(report_routes(ledger, "USD", lambda: utc(0)), tenants_token("acme")).get(f"{TRACE_PATH}/{name}")
    assert own.status_code == 200
    requests = own.json()["requests"]
    assert {(one["tenant"], one["engine"], one["fit_error"]) for one in requests} == {("acme", "", None)}
    assert len(requests) == sum(one.tenant == "acme" for one in views[0].requests) > 0
    assert own.json()["cost_nano"] == sum(one.cost_nano for one in views[0].requests if one.tenant == "acme")


def test_another_tenants_request_is_answered_like_one_that_is_not_there(ledger, views):
    """Not even that it exists."""
    (first, *_) = [one for one in views[0].requests if one.tenant != "acme"]
    acme = Reader(report_routes(ledger, "USD", lambda: utc(0)), tenants_token("acme"))
    others, none = acme.get(f"{TRACE_PATH}/{first.request_id}"), acme.get(f"{TRACE_PATH}/r99999999")
    assert (others.status_code, none.status_code) == (404, 404)
    assert others.json()["error"].replace(first.request_id, "r99999999") == none.json()["error"]


@pytest.mark.parametrize("name", ["%00", "x" * 600, "a/b", "..%2F..", "%FF"])
def test_odd_ids_are_not_found(ledger, name):
    """And are no error of ours."""
    answer = Reader(report_routes(ledger, "USD", lambda: utc(0)), READER).get(f"{TRACE_PATH}/{name}")
    assert answer.status_code == 404


# ---- the command ----------------------------------------------------------------------------------------


def test_the_command_draws_a_bar_for_every_request_and_part(folder, one):
    """Times and exact amounts are those of the books."""
    ran = farthing("trace", one.request_id, cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith(f"Trace {one.trace_id}: {TOGETHER} requests in ")
    place = next(number for number, line in enumerate(lines) if line.strip().startswith(f"{one.request_id} "))
    assert "█" in lines[place]
    assert f"{(one.ended_ns - one.arrived_ns) / MILLISECOND:,.1f} ms" in lines[place]
    assert [line.split()[0] for line in lines[place + 1 : place + 4]] == ["queue", "prefill", "decode"]
    amounts = [f"{phase.phase} {phase.nano / 1e9:.9f}" for phase in one.phases]
    text = " ".join(ran.out.split())
    assert all(amount in text for amount in amounts)
    assert f"total {one.cost_nano / 1e9:.9f} settled" in text
    assert f"estimate {one.estimate_nano / 1e9:.9f}" in text


def test_json_and_csv_are_exact(folder, views, one):
    """The same amounts, for programs."""
    data = json.loads(farthing("trace", one.trace_id, "--output", "json", cwd=folder).out)
    (view,) = [view for view in views if view.trace_id == one.trace_id]
    assert data == json.loads(json.dumps(trace_document(view)))
    rows = list(csv.DictReader(io.StringIO(farthing("trace", one.trace_id, "-o", "csv", cwd=folder).out)))
    assert sum(round(float(row["cost_usd"]) * 1e9) for row in rows) == view.cost_nano
    assert len(rows) == TOGETHER


def test_an_unknown_request_is_one_line_and_its_own_exit_status(folder):
    """As the neighbours have it."""
    line = one_line(farthing("trace", "r99999999", cwd=folder), TraceError.exit_code)
    assert line.startswith("no request or trace 'r99999999' in the ledger")


def test_a_service_elsewhere_answers_with_what_a_token_opens(folder, ledger, views):
    """The same picture, of the tenant's own requests."""
    access = Access(TokenFile(folder / "tokens.yaml"), None, Sessions(lambda: b"k", 1.0, time.time))
    routes = report_routes(ledger, "USD", lambda: utc(0))
    name = views[0].trace_id
    with served(Starlette(routes=routes, middleware=[Middleware(Guard, access=access)])) as url:
        ran = farthing("trace", name, "--url", url, "--token-file", "token", cwd=folder)
        unknown = farthing("trace", "a/b?c", "--url", url, "--token-file", "token", cwd=folder)
        nobody = farthing("trace", name, "--url", url, cwd=folder)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.rstrip("\n") == waterfall(trace_view(ledger, name, "USD", frozenset({"acme"}))).rstrip("\n")
    assert "globex" not in ran.out
    assert "answers 404: no request or trace 'a/b?c'" in one_line(unknown, 18)
    assert "answers 401" in one_line(nobody, 18)


def test_what_a_request_calls_itself_moves_no_cursor(views):
    """Its id and its tenant are its sender's own words."""
    (first, *_) = views[0].requests
    odd = replace(first, request_id="a\x1b[31m\nb", tenant="x\ry", project="\x07")
    text = waterfall(replace(views[0], requests=(odd,)))
    assert not {character for character in text if not character.isprintable()} - {"\n"}
