"""A record that intake refused: the rest is costed at once, and the loss is shown and not waited for."""

import asyncio
import itertools
import json

import httpx
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette
from tests.service.books import ENGINE, accountant, content, journal_sums, raw_records

from farthing.collectors.intake import IntakeCounts, IntakeLimits, intake_routes
from farthing.domain import conventions as c
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.replay.wire_records import wire_records
from farthing.service.boot_account import BootAccount
from farthing_probe import wire

CUT = 1_500
"""Records that are delivered while the engine still runs."""


@pytest.fixture(scope="module")
def records():
    """The 8B recording's records as a probe would send them."""
    timed = wire_records(load_recording("h100-llama8b-vllm0.26"), boot="b", engine=ENGINE)
    return [item.record for item in timed]


@pytest.fixture
def open_ledger(tmp_path):
    """Opens ledgers by name."""
    opened = []

    def of(name):
        opened.append(Ledger.open(f"sqlite:///{tmp_path}/{name}.db"))
        return opened[-1]

    yield of
    for ledger in opened:
        ledger.close()


def deliver(ledger, records):
    """Post records to an intake over a ledger as a probe does, some seconds at a time; returns how many it refused."""
    routes = intake_routes(ledger, IntakeLimits(1 << 26), IntakeCounts(), lambda: None)
    refused = 0

    async def send():
        nonlocal refused
        transport = httpx.ASGITransport(Starlette(routes=routes))
        async with httpx.AsyncClient(transport=transport, base_url="http://farthing") as client:
            for begin, path in itertools.product(range(0, len(records), 50), (wire.USAGE_PATH, wire.WINDOWS_PATH)):
                body = wire.encode(record for record in records[begin : begin + 50] if wire.path_of(record) == path)
                answer = await client.post(path, content=body, headers={"content-encoding": "gzip"})
                refused += len(answer.json()["refused"])

    asyncio.run(send())
    return refused


def arrived(view):
    return next(check for check in view.checks if check.name == c.CHECK_ARRIVED)


def watermark(keeper):
    account = keeper.account("b")
    assert isinstance(account, BootAccount)
    return account.stream.watermark_ns


def test_one_bad_record_among_good_ones_leaves_all_else_costed_at_once(records, open_ledger):
    """No grace period goes by: the books stand where they would stand without it."""
    bad = next(i for i in range(CUT - 100, CUT) if records[i]["kind"] == "usage" and records[i].get("output_tokens"))
    damaged = [{**r, "output_tokens": -1} if i == bad else r for i, r in enumerate(records)]
    whole, spoilt = open_ledger("whole"), open_ledger("spoilt")
    assert deliver(whole, records[:CUT]) == 0
    assert deliver(spoilt, damaged[:CUT]) == 1
    expected, keeper = accountant(whole), accountant(spoilt)
    expected.advance()
    keeper.advance()
    assert watermark(keeper) == watermark(expected)
    (view,), (other,) = keeper.snapshot().engines, expected.snapshot().engines
    assert (view.bill_nano, view.residual_nano) == (other.bill_nano, 0)
    assert arrived(view).detail == (
        "0 records never arrived, or too late to be costed; 1 were refused by intake, whose log names the field"
    )
    assert not arrived(view).ok
    assert arrived(other).ok
    assert deliver(spoilt, damaged[CUT:]) == 0
    keeper.advance()
    requests = spoilt.select(sa.select(t.requests.c.sequence))
    usage = {record["seq"] for record in records if record["kind"] == "usage"}
    assert {sequence for (sequence,) in requests} == usage - {records[bad]["seq"]}


def test_what_was_refused_is_shown_after_a_restart_too(records, open_ledger):
    """Of open boots and of closed ones; and a restart moves nothing."""
    ledger = open_ledger("ledger")
    damaged = [{**r, "status": "ok"} if r["seq"] in {700, 900} and r["kind"] == "usage" else r for r in records]
    count = sum(one is not other for one, other in zip(damaged, records, strict=True))
    for part in (damaged[:CUT], damaged[CUT:]):
        deliver(ledger, part)
        accountant(ledger).advance()
        books = content(ledger)
        (view,) = accountant(ledger).snapshot().engines
        assert f"; {count} were refused" in arrived(view).detail
        again = accountant(ledger)
        again.advance()
        assert content(ledger) == books
        assert f"; {count} were refused" in arrived(again.snapshot().engines[0]).detail
    assert ledger.select(sa.select(t.boots.c.lost, t.boots.c.refused)) == [(0, count)]


def test_a_mended_record_gets_its_money_back(records, open_ledger):
    """A sender that sends the right thing under the same key is not told that it came before."""
    ledger = open_ledger("ledger")
    bad = next(i for i in range(400, CUT) if records[i]["kind"] == "usage" and records[i].get("output_tokens", 0) > 50)
    deliver(ledger, [{**r, "ended_ns": 0} if i == bad else r for i, r in enumerate(records[:CUT])])
    keeper = accountant(ledger)
    keeper.advance()
    lost = journal_sums(ledger, "debit")[c.UNATTRIBUTED,]
    assert deliver(ledger, [records[bad]]) == 0
    keeper.advance()
    assert journal_sums(ledger, "debit")[c.UNATTRIBUTED,] < lost
    (view,) = keeper.snapshot().engines
    assert view.residual_nano == 0
    assert arrived(view).ok


def test_a_newer_probe_is_costed_for_all_that_this_farthing_knows(records, open_ledger):
    """Fields, kinds and a version that came later: the money is that of a probe of today."""
    future, sequence = [], 0
    for record in records:
        future.append({**record, "seq": sequence, "measured": {"by": "nvml"}})
        sequence += 1
        if record["kind"] == "steps":
            future.append({**wire.lifecycle("b", 0, sequence, at_ns=record["until_ns"], event="rank_joined")})
            speculation = {"v": 1, "kind": "speculation", "boot": "b", "proc": 0, "accepted": 7}
            future.append({**speculation, "seq": sequence + 1})
            future.append({**speculation, "seq": sequence + 2, "v": 2, "kind": "counters"})
            sequence += 3
    today, tomorrow = open_ledger("today"), open_ledger("tomorrow")
    today.add(raw_records(load_recording("h100-llama8b-vllm0.26")))
    accountant(today).advance()
    keeper, refused = accountant(tomorrow), 0
    for begin in range(0, len(future), 400):
        part = future[begin : begin + 400]
        deliver(tomorrow, part)
        refused += sum(1 for record in part if "measured" not in record)
        keeper.advance()
    by = ("start_ns", "debit", "phase", "tenant", "reason", "method")
    assert journal_sums(tomorrow, *by) == journal_sums(today, *by)
    assert tomorrow.select(sa.select(t.boots.c.lost, t.boots.c.refused)) == [(0, refused)]
    kept = [json.loads(row.line) for row in tomorrow.select(sa.select(t.records.c.line))]
    assert not any("measured" in line or "accepted" in line for line in kept)
