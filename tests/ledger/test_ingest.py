"""Taking records: exactly once, in order of arrival, whole or not at all, whoever else writes."""

import threading
from itertools import count

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.service.books import raw_records

from farthing.domain.errors import LedgerError
from farthing.domain.records import RawRecord, RecordKey, mirrored
from farthing.ledger import tables as t
from farthing.ledger.ingest import add_batches
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording

_boots = count()

KEYS = st.builds(RecordKey, st.sampled_from(["a", "\u00e9\U0001f680"]), st.integers(-1, 2), st.integers(-3, 3))
RECORDS = st.builds(
    RawRecord, KEYS, st.sampled_from(["usage", "steps"]), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=40)
)


@pytest.fixture
def ledger(ledger_url):
    """An empty ledger."""
    ledger = Ledger.open(ledger_url)
    yield ledger
    ledger.close()


def _record(boot, sequence, process=0):
    return RawRecord(RecordKey(boot, process, sequence), "usage", sequence, b'{"seq":%d}' % sequence)


def test_a_recorded_run_comes_back_as_it_was_sent(ledger):
    """Every byte of every line, in the order of arrival."""
    raw = raw_records(load_recording("h100-llama8b-vllm0.26"))
    assert ledger.add(raw) == len(raw) > 2_464
    assert [record for _, record in ledger.records_after(0, limit=len(raw) + 1)] == raw
    assert ledger.add(raw) == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(transactions=st.lists(st.lists(st.lists(RECORDS, max_size=8), max_size=4), max_size=4))
def test_whatever_is_repeated_in_whatever_batches_is_stored_once(ledger, transactions):
    """The first of a key stays, each batch says how many of its records were new, and none overtakes another."""
    trial = str(next(_boots))
    known: dict[RecordKey, RawRecord] = {}
    last = ledger.last_id()
    for batches in transactions:
        mine, new = [], []
        for batch in batches:
            mine.append(
                [
                    RawRecord(RecordKey(trial + raw.key.boot, raw.key.process, raw.key.sequence), *_rest(raw))
                    for raw in batch
                ]
            )
            before = len(known)
            for record in mine[-1]:
                known.setdefault(record.key, record)
            new.append(len(known) - before)
        assert ledger.add_each(mine) == new
    assert [record for _, record in ledger.records_after(last)] == list(known.values())


def _rest(record):
    return record.kind, record.event_ns, record.line


def test_bytes_that_mean_something_to_a_database_are_stored_as_they_are(ledger):
    """A line may hold any byte, and a name any character."""
    line = bytes(range(256)) + b"\\x41\\.\n\t\\N"
    record = RawRecord(RecordKey("tab\t back\\ 'quote' \"\u732b\U0001f9ea", 0, 0), "usage", 0, line)
    assert ledger.add([record]) == 1
    assert ledger.add([record, _record("b", 1)]) == 1
    assert [raw for _, raw in ledger.records_after(0)] == [record, _record("b", 1)]


@pytest.mark.parametrize("known", [False, True], ids=["all new", "one known"])
@pytest.mark.parametrize(
    "bad",
    [
        RawRecord(RecordKey("b", 0, 2**70), "usage", 0, b"{}"),
        RawRecord(RecordKey("b", 0, 2), "usage", 2**70, b"{}"),
        RawRecord(mirrored(RecordKey("b", 0, 2**70)), "refused", 0, b"{}"),
    ],
    ids=["sequence", "time", "refusal"],
)
def test_a_number_that_no_column_takes_fails_the_batch_as_a_whole(ledger, bad, known):
    """Nothing of it is stored, and the next batch is."""
    if known:
        ledger.add([_record("b", 0)])
    with pytest.raises(LedgerError):
        ledger.add([_record("b", 0), _record("b", 1), bad])
    assert len(ledger.records_after(0)) == known
    assert ledger.add([_record("b", 0), _record("b", 1)]) == 2 - known


def test_an_error_says_nothing_of_the_records(ledger):
    """It may end in a log."""
    bad = RawRecord(RecordKey("secret-boot", 0, 0), "k" * 17, 2**70, b"secret line")
    with pytest.raises(LedgerError) as caught:
        ledger.add([bad])
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batches_of_one_transaction_are_stored_together_or_not_at_all(ledger):
    """A number that no column takes in the last of them leaves nothing of the first."""
    bad = RawRecord(RecordKey("b", 0, 2**70), "usage", 0, b"{}")
    with pytest.raises(LedgerError):
        ledger.add_each([[_record("b", 0)], [_record("b", 1)], [bad]])
    assert ledger.records_after(0) == []
    assert ledger.add_each([[], [_record("b", 0)], []]) == [0, 1, 0]
    assert ledger.add_each([[], []]) == [0, 0]


def test_a_reader_misses_nothing_of_several_writers(ledger, ledger_url):
    """Numbers are drawn before they are committed, so a reader that goes by numbers could pass over a slow writer's."""
    writers, batches, size = 4, 40, 5
    others = [Ledger.open(ledger_url) for _ in range(writers)]

    def write(writer):
        for batch in range(batches):
            # what the others send too is all that makes PostgreSQL take its detour
            shared = [_record("shared", batch * size + i) for i in range(size)]
            others[writer].add([_record("own", batch * size + i, process=writer) for i in range(size)])
            others[writer].add(shared)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    seen, last, alive = [], 0, True
    while alive:
        alive = any(thread.is_alive() for thread in threads)
        while rows := ledger.records_after(last):
            last = rows[-1][0]
            seen += [record.key for _, record in rows]
    for other in others:
        other.close()
    assert len(seen) == len(set(seen)) == (writers + 1) * batches * size
    assert ledger.select(sa.select(sa.func.count()).select_from(t.records)) == [(len(seen),)]


def test_records_that_were_never_committed_are_not_there(ledger):
    """Whole or not at all: what a writer had stored when it died goes with its transaction."""
    with ledger.engine.connect() as connection:
        transaction = connection.begin()
        assert add_batches(connection, [[_record("b", 0), _record("b", 1)]]) == [2]
        transaction.rollback()
    assert ledger.records_after(0) == []
    assert ledger.add([_record("b", 0)]) == 1
