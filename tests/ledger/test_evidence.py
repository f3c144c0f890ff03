"""What a record proves stays the same when its user is erased, and changes with anything else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.service.books import raw_records

from farthing.domain.records import RawRecord, RecordKey
from farthing.ledger.evidence import boot_evidence, evidence_hash, user_span, without_user
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording

TEXT = st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["user", "a", '"user"']), inner),
    max_leaves=6,
)
RECORDS = st.dictionaries(st.sampled_from(["boot", "tenant", "marks", "zz", '"user":"x"', "users"]), VALUES, max_size=5)


@given(record=RECORDS, user=TEXT, place=st.integers(0, 5), spaced=st.booleans(), ascii_only=st.booleans())
def test_the_user_of_any_line_is_found_and_nothing_else_is_touched(record, user, place, spaced, ascii_only):
    """Whatever else is called user, inside values or as text, stays as it was; so does every other byte."""
    separators = (", ", ": ") if spaced else (",", ":")
    items = list(record.items())
    items.insert(min(place, len(items)), ("user", user))

    def line(value):
        pairs = dict(items) | {"user": value}
        return json.dumps(pairs, separators=separators, ensure_ascii=ascii_only).encode()

    span = user_span(line(user))
    assert span is not None
    assert json.loads(line(user)[slice(*span)]) == user
    assert without_user(line(user)) == line("")
    assert evidence_hash(line(user)) == evidence_hash(line(""))


@given(record=RECORDS)
def test_a_line_without_a_user_stays_as_it_is(record):
    """A field of that name deeper inside is somebody else's."""
    line = json.dumps(record).encode()
    assert user_span(line) is None
    assert without_user(line) == line


@given(st.binary(max_size=60))
def test_any_bytes_have_evidence(line):
    """The inbox also keeps what is no record."""
    assert len(evidence_hash(line)) == 32


@pytest.fixture
def ledger(ledger_url):
    """An empty ledger."""
    ledger = Ledger.open(ledger_url)
    yield ledger
    ledger.close()


def test_a_boots_evidence_does_not_depend_on_the_order_of_arrival(ledger):
    """It is taken in the order of the records' keys, and one byte of one record changes it."""
    raw = raw_records(load_recording("h100-llama8b-vllm0.26"))
    ledger.add(raw)
    again = [RawRecord(RecordKey("c", *_rest(record.key)), *_content(record)) for record in reversed(raw)]
    ledger.add(again)
    assert boot_evidence(ledger, "b") == boot_evidence(ledger, "c")
    changed = [RawRecord(RecordKey("d", *_rest(record.key)), *_content(record)) for record in raw]
    changed[7] = RawRecord(changed[7].key, changed[7].kind, changed[7].event_ns, changed[7].line + b" ")
    ledger.add(changed)
    assert boot_evidence(ledger, "d") != boot_evidence(ledger, "b")


def _rest(key):
    return key.process, key.sequence


def _content(record):
    return record.kind, record.event_ns, record.line
