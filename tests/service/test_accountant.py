"""The accountant: the same records give the same books, however they are read and whatever was restarted when."""

import contextlib
import random
from collections import Counter
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from tests.ledger.databases import seeds
from tests.service.books import ENGINE, accountant, content, journal_sums, raw_of, raw_records

from farthing.costing.stream import CostStream
from farthing.domain import conventions as c
from farthing.domain.errors import LedgerError
from farthing.domain.records import RecordKey
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.replay.wire_records import wire_records
from farthing.service.boot_account import BootAccount
from farthing.settings import Settings

RECORDING = "h100-llama8b-vllm0.26"
BOOT_END = 253_180_838_800
"""Nanoseconds from the first record of the recording to the last."""
BOOKS_METERED = list(t.windows.columns.keys()).index("prefill_ns")
"""The first columns of a window are metered: its span, bill, busy time and energy."""


@pytest.fixture(scope="module")
def recording():
    """The 8B recording."""
    return load_recording(RECORDING)


@pytest.fixture(scope="module")
def raw(recording):
    """Its records as intake stores them."""
    return raw_records(recording)


@pytest.fixture
def open_ledger(new_ledger_url):
    """Opens ledgers by name, again and again."""
    opened = []

    def of(name="ledger"):
        ledger = Ledger.open(new_ledger_url(name))
        opened.append(ledger)
        return ledger

    yield of
    for ledger in opened:
        ledger.close()


@pytest.fixture(scope="module")
def undisturbed(raw, tmp_path_factory):
    """The books of records that came all at once and were read once."""
    ledger = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('whole')}/ledger.db")
    ledger.add(raw)
    accountant(ledger).advance()
    found = content(ledger)
    ledger.close()
    return found


def red(view):
    return {check.name for check in view.checks if not check.ok}


@seeds(sqlite=10, postgresql=2)
def test_random_chunks_and_restarts_give_the_same_books(raw, open_ledger, undisturbed, seed):
    """Killed between any two reads, an accountant goes on to exactly the books of one that never was."""
    draw = random.Random(seed)  # noqa: S311 - a seeded trial, not a secret
    ledger = open_ledger()
    keeper = accountant(ledger)
    begin = 0
    while begin < len(raw):
        end = begin + round(10 ** draw.uniform(0, 3))
        ledger.add(raw[begin:end])
        # what a sender repeats because it saw no answer
        ledger.add(raw[max(0, end - 5) : end])
        begin = end
        if draw.random() < 0.3:
            keeper = accountant(ledger)
        if draw.random() < 0.8:
            keeper.advance()
            assert keeper.snapshot().engines[0].residual_nano == 0
    keeper.advance()
    assert content(ledger) == undisturbed


@seeds(sqlite=4, postgresql=1)
def test_records_that_overtake_each_other_give_the_same_books(raw, open_ledger, undisturbed, seed):
    """Arrival within the grace period does not matter, only what happened when."""
    draw = random.Random(seed)  # noqa: S311 - a seeded trial, not a secret
    places = [(number + draw.uniform(0, 40), record) for number, record in enumerate(raw)]
    shuffled = [record for _, record in sorted(places, key=lambda place: place[0])]
    ledger = open_ledger()
    keeper = accountant(ledger)
    for begin in range(0, len(shuffled), 500):
        ledger.add(shuffled[begin : begin + 500])
        keeper.advance()
    assert content(ledger) == undisturbed


def test_two_processes_give_the_money_of_one(recording, open_ledger, undisturbed):
    """An engine's API servers share its steps; who reported which changes nobody's bill."""
    records = [timed.record for timed in wire_records(recording, boot="b", engine=ENGINE)]
    ledger = open_ledger()
    first, second = _dealt(records)
    # the second process reports late, in other batches than the first
    keeper = accountant(ledger)
    for number in range(10):
        ledger.add(raw_of(first[300 * number : 300 * (number + 1)]))
        ledger.add(raw_of(second[100 * number : 100 * (number + 1)]))
        keeper.advance()
    ledger.add(raw_of(second[1_000:]))
    keeper.advance()
    found = content(ledger)
    assert found["boots"] == undisturbed["boots"]
    metered = slice(0, BOOKS_METERED)
    assert [row[metered] for row in found["windows"]] == [row[metered] for row in undisturbed["windows"]]
    assert len(found["requests"]) == len(undisturbed["requests"])
    # whom a step's prompt tokens are poured to first depends on the key where two requests are otherwise equal
    ours, theirs = _by_line(found), _by_line(undisturbed)
    assert ours.keys() == theirs.keys()
    assert sum(ours.values()) == sum(theirs.values())
    assert all(abs(nano - theirs[line]) <= 1e-3 * theirs[line] for line, nano in ours.items())


def _by_line(found):
    names = [column.name for column in t.journal.columns if column.name != "id"]
    sums: Counter[tuple[str, ...]] = Counter()
    for row in found["journal"]:
        line = dict(zip(names, row, strict=True))
        sums[line["debit"], line["phase"], line["tenant"], line["reason"]] += line["nano"]
    return sums


def _dealt(records):
    """One process's records dealt to two: every other usage record, and every other mark of each batch."""
    streams: tuple[list[dict[str, Any]], ...] = ([], [])
    for number, record in enumerate(records):
        if record["kind"] == "started":
            streams[0].append({**record, "processes": 2})
        elif record["kind"] == "steps":
            for process, stream in enumerate(streams):
                stream.append(_every_other(record, process))
        elif record["kind"] == "lifecycle" and record["event"] == "stop":
            for stream in streams:
                stream.append(dict(record))
        else:
            streams[number % 2 if record["kind"] == "usage" else 0].append(dict(record))
    for process, stream in enumerate(streams):
        for sequence, record in enumerate(stream):
            record.update(proc=process, seq=sequence)
    return streams


def _every_other(record, process):
    at, moments = record.get("base_ns", 0), []
    for difference in record["marks"]["at_ns"]:
        at += difference
        moments.append(at)
    mine = range(process, len(moments), 2)
    kept = [moments[i] for i in mine]
    base = kept[0] if kept else record["until_ns"]
    marks = {name: [values[i] for i in mine] for name, values in record["marks"].items() if name != "at_ns"}
    marks["at_ns"] = [now - before for now, before in zip(kept, [base, *kept][: len(kept)], strict=True)]
    return {**record, "base_ns": base, "marks": marks}


@seeds(sqlite=30, postgresql=2)
def test_losing_one_percent_of_the_records_turns_a_check_red(raw, open_ledger, seed):
    """Whatever kinds they are of; the lines still add up to the bill, and none is negative."""
    draw = random.Random(seed)  # noqa: S311 - a seeded trial, not a secret
    lost = set(draw.sample(range(len(raw)), round(len(raw) / 100)))
    ledger = open_ledger()
    ledger.add([record for number, record in enumerate(raw) if number not in lost])
    keeper = accountant(ledger)
    keeper.advance()
    (view,) = keeper.snapshot().engines
    assert c.CHECK_ARRIVED in red(view)
    assert view.residual_nano == 0
    assert all(nano >= 0 for nano in journal_sums(ledger, "debit", "phase", "tenant").values())


def test_a_boot_whose_start_was_lost_is_shown_and_not_passed_over(raw, open_ledger):
    """Nobody can say what it runs on, so it has no bill; that must not look like nothing."""
    ledger = open_ledger()
    ledger.add(raw[1:])
    keeper = accountant(ledger)
    keeper.advance()
    (view,) = keeper.snapshot().engines
    assert view.engine.name == "b"
    assert view.price_nano_per_hour is None
    assert red(view) == {c.CHECK_ARRIVED}
    assert "without its start" in view.checks[0].detail


def test_a_new_boot_settles_what_the_last_one_left_open(recording, open_ledger):
    """An engine that was killed said no farewell; its successor's start is one."""
    cut = 1_500
    first, second = raw_records(recording, boot="first"), raw_records(recording, boot="second")
    ledger = open_ledger()
    ledger.add(first[: cut - 1])
    # a hole right before the end: what lies behind it must be settled too
    ledger.add(first[cut : cut + 200])
    keeper = accountant(ledger)
    keeper.advance()
    behind = [record.event_ns for record in first[cut : cut + 200] if record.kind == "steps"]
    account = keeper.account("first")
    assert isinstance(account, BootAccount)
    assert account.stream.watermark_ns < behind[0]
    ledger.add(second)
    keeper.advance()
    (view,) = keeper.snapshot().engines
    assert view.residual_nano == 0
    assert sum(view.wip_nano.values()) == 0
    ((closed,),) = ledger.select(sa.select(t.boots.c.closed_ns).where(t.boots.c.boot == "first"))
    assert closed is not None
    settled = {key[0] for key in journal_sums(ledger, "boot")}
    assert settled == {"first", "second"}
    ended = sa.select(sa.func.max(t.windows.c.end_ns)).where(t.windows.c.boot == "first")
    assert ledger.select(ended) == [(behind[-1],)]
    assert red(view) == {c.CHECK_ARRIVED}


def test_records_that_come_after_their_boot_was_closed_are_counted_and_change_nothing(recording, open_ledger):
    """Closed books stay as they are, and the loss is shown."""
    first, second = raw_records(recording, boot="first"), raw_records(recording, boot="second")
    ledger = open_ledger()
    ledger.add(first[:1_500])
    ledger.add(second[:100])
    keeper = accountant(ledger)
    keeper.advance()
    closed = content(ledger)["journal"]
    ledger.add(first[1_500:])
    keeper.advance()
    assert content(ledger)["journal"] == closed
    checks = {check.name: check for check in keeper.check("first")}
    assert not checks[c.CHECK_ARRIVED].ok
    assert checks[c.CHECK_ARRIVED].detail.startswith(f"{len(first) - 1_500} records")
    again = accountant(ledger)
    again.advance()
    ledger.add(raw_records(recording, boot="first")[:1])
    assert red(again.snapshot().engines[0]) == {c.CHECK_ARRIVED}


def test_an_unpriced_gpu_is_red_and_never_free(recording, open_ledger):
    """Its records are kept, and a price that is entered later bills them all."""
    records = [timed.record for timed in wire_records(recording, boot="b", engine=ENGINE)]
    records[0]["gpu"] = "NVIDIA GeForce RTX 4090"
    ledger = open_ledger()
    ledger.add(raw_of(records))
    keeper = accountant(ledger)
    keeper.advance()
    keeper.advance()
    (view,) = keeper.snapshot().engines
    assert view.engine.name == ENGINE
    assert red(view) == {c.CHECK_PRICED}
    assert view.price_nano_per_hour is None
    assert "RTX 4090" in view.checks[0].detail
    assert journal_sums(ledger, "debit") == {}
    priced = Settings.model_validate(
        {"prices": [{"gpu": "NVIDIA GeForce RTX 4090", "usd_per_hour": "0.69", "from": "2026-01-01"}]}
    )
    later = accountant(ledger, priced)
    later.advance()
    (view,) = later.snapshot().engines
    assert red(view) == set()
    # cut at whole nano-dollars since the price began, so one more or less for the span alone
    assert abs(view.bill_nano - 690_000_000 * BOOT_END // (3_600 * 10**9)) <= 1
    assert view.residual_nano == 0


@pytest.mark.parametrize("closed", [True, False])
def test_a_tampered_sum_of_lines_turns_the_residual_red(raw, open_ledger, closed):
    """The bill is not computed from the lines, so a changed sum shows, whether its boot is closed or open.

    A changed line of the journal itself is found by ``farthing ledger verify``, which compares it with the sums.
    """
    ledger = open_ledger()
    ledger.add(raw if closed else raw[:1_500])
    accountant(ledger).advance()
    with ledger.engine.begin() as connection:
        changed = connection.execute(
            sa.text(
                "UPDATE cost_hours SET nano = nano + 1 WHERE account = 'idle' "
                "AND hour = (SELECT min(hour) FROM cost_hours WHERE account = 'idle')"
            )
        )
    assert changed.rowcount == 1
    keeper = accountant(ledger)
    for _ in range(2):
        (view,) = keeper.snapshot().engines
        assert red(view) == {c.CHECK_RESIDUAL}
        assert view.residual_nano == -1
        keeper.advance()


def test_a_restarted_accountant_shows_at_once_what_the_last_one_showed(raw, open_ledger):
    """No counter falls, no engine loses its price or its checks, and nothing looks unbalanced before it is read."""
    ledger = open_ledger()
    for end in (1_000, len(raw)):
        ledger.add(raw[:end])
        keeper = accountant(ledger)
        keeper.advance()
        (before,) = keeper.snapshot().engines
        (after,) = accountant(ledger).snapshot().engines
        assert after.bill_nano == before.bill_nano > 0
        assert after.accounts_nano == before.accounts_nano
        assert sum(after.wip_nano.values()) == sum(before.wip_nano.values())
        assert (sum(before.wip_nano.values()) > 0) == (end < len(raw))
        assert after.residual_nano == before.residual_nano == 0
        assert after.price_nano_per_hour == before.price_nano_per_hour == 3_348_000_000
        assert red(after) == red(before) == set()
        assert after.checks
    assert (before.state, after.state) == ("down", "down")


def test_requests_carry_what_their_tenants_are_charged(raw, open_ledger):
    """Two ways to the same money: by journal line, and by request."""
    ledger = open_ledger()
    ledger.add(raw)
    accountant(ledger).advance()
    lines = journal_sums(ledger, "debit", "tenant")
    q = t.requests.c
    cost = sa.func.sum(q.prefill_nano + q.decode_nano + q.vision_nano)
    rows = ledger.select(sa.select(q.outcome, q.tenant, cost).group_by(q.outcome, q.tenant))
    account = {c.FINISHED: c.CHARGED, c.ABORTED: c.ABORTED, c.FAILED: c.UNATTRIBUTED}
    assert {(account[o], tenant): int(nano) for o, tenant, nano in rows if o != c.FAILED} == {
        key: nano for key, nano in lines.items() if key[0] in (c.CHARGED, c.ABORTED)
    }


def test_the_check_of_a_boot_can_be_held_against_its_engines_counters(raw, open_ledger):
    """The engine counted for itself; its totals are of another source than the records."""
    ledger = open_ledger()
    ledger.add(raw)
    keeper = accountant(ledger)
    keeper.advance()
    counters = {"first_tokens": 2_462, "prompt_computed": 3_479_885, "engine_output": 432_109}
    assert all(check.ok for check in keeper.check("b", counters))
    names = {check.name for check in keeper.check("b", {**counters, "first_tokens": 2_463}) if not check.ok}
    assert names == {c.CHECK_REQUESTS}
    assert keeper.account("b") is not None
    assert keeper.account(RecordKey("nobody", 0, 0).boot) is None


@seeds(sqlite=3, postgresql=1)
def test_a_ledger_that_fails_for_a_while_misses_nothing_afterwards(raw, open_ledger, undisturbed, monkeypatch, seed):
    """A full disk may refuse any posting; what was settled by then must not wait for a restart."""
    draw = random.Random(seed)  # noqa: S311 - a seeded trial, not a secret
    ledger = open_ledger()
    keeper = accountant(ledger)
    post = ledger.post_each
    failures = 0

    def failing(*args):
        nonlocal failures
        if draw.random() < 0.6:
            failures += 1
            raise LedgerError("disk full")
        return post(*args)

    monkeypatch.setattr(ledger, "post_each", failing)
    for begin in range(0, len(raw), 300):
        ledger.add(raw[begin : begin + 300])
        with contextlib.suppress(LedgerError):
            keeper.advance()
    assert failures > 2
    monkeypatch.setattr(ledger, "post_each", post)
    keeper.advance()
    assert content(ledger) == undisturbed
    (view,) = keeper.snapshot().engines
    assert (view.residual_nano, red(view)) == (0, set())


def read_side_by_side(keeper, ledger, bad, good):
    """Both boots' records come in; the broken one is red, and the other's books are as ever."""
    for begin in range(0, len(good), 500):
        ledger.add(bad[begin : begin + 500])
        ledger.add(good[begin : begin + 500])
        keeper.advance()
        views = {view.engine.name: view for view in keeper.snapshot().engines}
        assert [view.residual_nano for view in views.values()] == [0, 0]
    assert red(views[ENGINE]) == set()
    assert red(views["broken"]) == {c.CHECK_ARRIVED}
    assert views["broken"].bill_nano > 0


def costed_alike_by_another(ledger):
    """The next start costs both boots, whose records are equal, from their records."""
    again = accountant(ledger)
    again.advance()
    assert [red(view) for view in again.snapshot().engines] == [set(), set()]
    bills = ledger.select(sa.select(t.boots.c.bill_nano))
    assert bills[0] == bills[1]


def test_a_boot_that_cannot_be_costed_stops_no_other(recording, open_ledger, undisturbed, monkeypatch, caplog):
    """A mistake of the cost model about one engine is red for that engine, and no dollar of the others waits."""
    ledger = open_ledger()
    keeper = accountant(ledger)
    bad, good = raw_records(recording, boot="bad", engine="broken"), raw_records(recording)
    feed = CostStream.feed

    def failing(stream, record):
        if record.key == bad[700].key:
            raise ZeroDivisionError("canary")
        return feed(stream, record)

    monkeypatch.setattr(CostStream, "feed", failing)
    read_side_by_side(keeper, ledger, bad, good)
    assert caplog.text.count("cannot be costed") == 1
    mine = {name: [row for row in rows if "b" in row] for name, rows in content(ledger).items()}
    assert mine == undisturbed
    # mended, the next start costs it from its records
    monkeypatch.setattr(CostStream, "feed", feed)
    costed_alike_by_another(ledger)


def test_a_boot_whose_cost_does_not_fit_the_database_stops_no_other(
    recording, open_ledger, undisturbed, monkeypatch, caplog
):
    """What the database refuses of one boot is red for its engine, and no dollar of the others waits."""
    ledger = open_ledger()
    keeper = accountant(ledger)
    bad, good = raw_records(recording, boot="bad", engine="broken"), raw_records(recording)
    post = ledger.post_each

    def beyond(entries):
        return post([too_much(entry) if entry.boot.boot == "bad" else entry for entry in entries])

    def too_much(entry):
        billed = entry.boot.bill_nano
        return replace(entry, boot=replace(entry.boot, bill_nano=2**63 if billed > 10**8 else billed))

    monkeypatch.setattr(ledger, "post_each", beyond)
    read_side_by_side(keeper, ledger, bad, good)
    assert caplog.text.count("engine broken: what boot bad cost cannot be posted") == 1
    mine = {name: [row for row in rows if "b" in row] for name, rows in content(ledger).items()}
    assert mine == undisturbed
    # mended, the next start costs it from its records
    monkeypatch.setattr(ledger, "post_each", post)
    costed_alike_by_another(ledger)


def test_a_start_that_the_ledger_failed_at_is_taken_again(raw, open_ledger, undisturbed, monkeypatch):
    """Before anything else is read: without it nothing of the boot is costed, and no check would say so."""
    ledger = open_ledger()
    keeper = accountant(ledger)
    ledger.add(raw)
    with monkeypatch.context() as patch:
        patch.setattr("farthing.service.opening.note_probed", Mock(side_effect=LedgerError("disk full")))
        for _ in range(2):
            with pytest.raises(LedgerError):
                keeper.advance()
    keeper.advance()
    (view,) = keeper.snapshot().engines
    assert red(view) == set()
    assert content(ledger) == undisturbed


def test_a_boot_that_cannot_be_settled_to_its_end_takes_no_other_with_it(
    raw, recording, open_ledger, monkeypatch, caplog
):
    """Its books stand still; the one that takes its place has books all the same."""
    ledger = open_ledger()
    keeper = accountant(ledger)
    ledger.add(raw[: len(raw) // 2])
    keeper.advance()
    monkeypatch.setattr(BootAccount, "end", Mock(side_effect=ZeroDivisionError))
    ledger.add(raw_records(recording, boot="next")[:50])
    keeper.advance()
    assert "boot b cannot be settled to its end" in caplog.text
    assert keeper.account("next") is not None
    (view,) = keeper.snapshot().engines
    assert red(view) == {c.CHECK_ARRIVED}


def test_a_ledger_that_fails_takes_no_boot_for_broken(raw, open_ledger, monkeypatch):
    """A disk that is full is every boot's trouble: none is given up for it."""
    ledger = open_ledger()
    keeper = accountant(ledger)
    ledger.add(raw)
    post = ledger.post_each

    def failing(*_):
        raise LedgerError("disk full")

    monkeypatch.setattr(ledger, "post_each", failing)
    with pytest.raises(LedgerError):
        keeper.advance()
    monkeypatch.setattr(ledger, "post_each", post)
    keeper.advance()
    (view,) = keeper.snapshot().engines
    assert red(view) == set()
