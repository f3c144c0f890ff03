"""Spans and latencies have each request once, whatever happens between its arrival and its costs."""

from itertools import islice
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from tests.service.books import accountant, raw_of
from tests.tracing.traced import traced_wire

from farthing.domain.errors import LedgerError
from farthing.ledger import tables as t
from farthing.ledger.engine_notes import unpriced_engines
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.pricing import price_book
from farthing.settings import Settings

RECORDS = 900
UNNAMED = "gpu-host:8000"


@pytest.fixture(scope="module")
def recording():
    """The 8B recording."""
    return load_recording("h100-llama8b-vllm0.26")


@pytest.fixture(scope="module")
def wire(recording):
    """Its beginning; every request is sampled."""
    return list(islice(traced_wire(recording), RECORDS))


@pytest.fixture
def started(wire):
    """The start of its boot."""
    return next(record for record in wire if record["kind"] == "started")


@pytest.fixture
def nameless(wire, started):
    """The same from a probe without a name, on a device without one."""
    return [{**one, "engine": UNNAMED, "gpu": ""} if one is started else one for one in wire]


@pytest.fixture
def second_boot(started):
    """The engine's next start."""
    return {**started, "boot": "second", "at_ns": started["at_ns"] + 10**12}


@pytest.fixture
def ledger(tmp_path):
    """An empty one."""
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


class Process:
    """A service's accountant, and what it tells of."""

    def __init__(self, ledger, settings=None):
        self.spans: list[str] = []
        self.accountant = accountant(ledger, settings, lambda usage, *_: self.spans.append(usage.span_id))
        self.advance = self.accountant.advance

    @property
    def latencies(self):
        """Requests that it counted."""
        return sum(self.accountant.snapshot().requests.values())


def spans_of(wire):
    """What is to be told of."""
    return sorted(record["span_id"] for record in wire if record["kind"] == "usage")


def priced_as(name, gpu):
    return Settings.model_validate({"engines": [{"name": name, "url": f"http://{UNNAMED}", "gpu": gpu}]})


def interrupt(process, ledger, rows, monkeypatch):
    """Let a process read so many records, and find the ledger away then."""
    reads = [ledger.records_after(0, rows)]

    def interrupted(*_, **__):
        if not reads:
            raise LedgerError("the ledger is away")
        return reads.pop()

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "records_after", interrupted)
        with pytest.raises(LedgerError):
            process.advance()


def fail_to_post(process, ledger, monkeypatch):
    """Let a process read all, and find that it cannot post."""
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "post_each", Mock(side_effect=LedgerError("the database is away")))
        with pytest.raises(LedgerError):
            process.advance()


@pytest.mark.parametrize("name", [UNNAMED, "prod"])
def test_an_unpriced_engine_that_gets_a_price_and_a_name_is_told_of_once(wire, started, nameless, ledger, name):
    """A probe without a name runs unpriced, and is then given one in farthing.yaml, as the log asks for."""
    before = Process(ledger)
    ledger.add(raw_of(nameless[:600]))
    before.advance()
    assert [one.engine for one in unpriced_engines(ledger)] == [UNNAMED]
    after = Process(ledger, priced_as(name, started["gpu"]))
    after.advance()
    assert (after.spans, after.latencies) == ([], 0)
    assert unpriced_engines(ledger) == ()
    ledger.add(raw_of(nameless[600:]))
    after.advance()
    told = sorted(before.spans + after.spans)
    assert told == sorted(set(told)) == [one for one in spans_of(wire) if one in set(told)]
    assert len(told) > len(spans_of(wire)) - 10
    assert after.latencies == len(after.spans) > 0


def test_what_was_accepted_of_it_before_a_kill_is_told_of_once_it_has_a_name(wire, started, nameless, ledger):
    """Its old name says nothing of records that arrived since it had its new one."""
    ledger.add(raw_of(nameless[:300]))
    processes = [Process(ledger)]
    processes[0].advance()
    processes.append(Process(ledger, priced_as("prod", started["gpu"])))
    processes[1].advance()
    # killed before it read these
    ledger.add(raw_of(nameless[300:]))
    processes.append(Process(ledger, priced_as("prod", started["gpu"])))
    processes[2].advance()
    told = sorted(one for process in processes for one in process.spans)
    assert told == sorted(set(told))
    assert len(told) > len(spans_of(wire)) - 10


def test_what_is_held_when_the_next_boot_begins_is_told_of_as_it_is_costed(wire, second_boot, ledger):
    """A lost record holds those behind it; an engine that begins anew brings them out, for spans and latencies too."""
    usages = [place for place, record in enumerate(wire) if record["kind"] == "usage"]
    sent = [record for place, record in enumerate(wire) if place != usages[-30]]
    first = Process(ledger)
    ledger.add(raw_of(sent))
    first.advance()
    held = set(spans_of(sent)) - set(first.spans)
    assert len(held) > 10
    ledger.add(raw_of([second_boot]))
    first.advance()
    assert sorted(first.spans) == spans_of(sent)
    assert first.latencies == len(first.spans)
    ((booked,),) = ledger.select(sa.select(sa.func.count()).select_from(t.requests))
    assert booked == len(first.spans)
    again = Process(ledger)
    again.advance()
    assert (again.spans, again.latencies) == ([], 0)


def test_what_is_held_when_its_engine_begins_anew_is_told_of_once_after_a_kill(wire, second_boot, ledger):
    """While the boot that ended still waits for its devices' energy, its records are read again."""
    usages = [place for place, record in enumerate(wire) if record["kind"] == "usage"]
    sent = [record for place, record in enumerate(wire) if place != usages[-30]]
    ledger.add(raw_of([*sent, second_boot]))
    first = Process(ledger)
    first.advance()
    with ledger.engine.begin() as connection:
        connection.execute(sa.update(t.boots).values(closed_ns=None))
    again = Process(ledger)
    again.advance()
    assert sorted(first.spans) == spans_of(sent)
    assert (again.spans, again.latencies) == ([], 0)


def test_a_start_that_was_interrupted_and_has_another_price_tells_of_nothing_again(recording, ledger, monkeypatch):
    """What it had not read by then, an earlier process has told of."""
    raw = raw_of(traced_wire(recording))[:1_500]
    ledger.add(raw)
    first = Process(ledger)
    first.advance()
    second = Process(ledger)
    interrupt(second, ledger, 500, monkeypatch)
    other = Settings.model_validate({"engines": [{"name": "h100", "url": "http://e", "gpu": "A100-80GB"}]})
    second.accountant.know(other, price_book(other))
    second.advance()
    assert (second.spans, second.latencies) == ([], 0)
    assert len(first.spans) > 500


def test_what_an_interrupted_start_had_not_read_of_closed_boots_is_not_late(
    recording, wire, second_boot, ledger, monkeypatch
):
    """It is in the books since an earlier process: another price makes no lost records of it."""
    other = list(islice(traced_wire(recording, boot="x", engine="other"), 300))
    ledger.add(raw_of([*other, *wire[:300], second_boot]))
    Process(ledger).advance()
    lost = {boot.boot: boot.lost for boot in ledger.boots()}
    assert next(boot.closed_ns for boot in ledger.boots() if boot.boot == "b") is not None
    second = Process(ledger)
    interrupt(second, ledger, 100, monkeypatch)
    dear = Settings.model_validate({"engines": [{"name": "other", "url": "http://e", "gpu": "A100-80GB"}]})
    second.accountant.know(dear, price_book(dear))
    second.advance()
    assert {boot.boot: boot.lost for boot in ledger.boots()} == lost


def test_what_cannot_be_posted_before_a_kill_is_told_of_after_it(wire, ledger, monkeypatch):
    """The next process reads it again: told of by both, it would be there twice."""
    raw = raw_of(wire)
    ledger.add(raw[:300])
    first = Process(ledger)
    first.advance()
    ledger.add(raw[300:])
    for _ in range(2):
        fail_to_post(first, ledger, monkeypatch)
    second = Process(ledger)
    second.advance()
    told = sorted(first.spans + second.spans)
    assert told == sorted(set(told))
    assert len(told) > len(spans_of(wire)) - 10
    assert first.latencies + second.latencies == len(told)


def test_what_could_not_be_posted_for_a_moment_is_told_of_once_it_is(wire, ledger, monkeypatch):
    """By the same process, whatever it learned of meanwhile."""
    first = Process(ledger)
    ledger.add(raw_of(wire))
    fail_to_post(first, ledger, monkeypatch)
    assert first.spans == []
    other = Settings.model_validate({"engines": [{"name": "h100", "url": "http://e", "gpu": "A100-80GB"}]})
    first.accountant.know(other, price_book(other))
    first.advance()
    assert first.spans == sorted(set(first.spans), key=first.spans.index)
    assert len(first.spans) > len(spans_of(wire)) - 10
