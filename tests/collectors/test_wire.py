"""The wire: what the probe builds is what costing reads, and everything else is refused by name."""

import gzip
import json
from dataclasses import fields
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from tests.collectors.wire_records import Pair, pairs

from farthing.collectors import schema
from farthing.collectors.schema import MAX_LINE_BYTES, MAX_MARKS, MAX_STRING
from farthing.collectors.wire import decode_line, decode_raw, is_plain
from farthing.domain.conventions import WIRE_VERSION
from farthing.domain.errors import RecordError
from farthing.domain.records import Counters, GpuSamples, RecordKey, StepBatch, StepMarks, Usage, event_ns
from farthing.ledger import tables
from farthing_probe import wire


def line_of(record: dict[str, Any]) -> bytes:
    return gzip.decompress(wire.encode([record])).rstrip(b"\n")


def usage(**changes: Any) -> dict[str, Any]:
    record = wire.usage(
        "boot-1", 0, 7, request_id="r1", engine_index=0, model="m", outcome="finished", status=200,
        arrived_ns=100, ended_ns=200, first_ns=120, last_ns=190, tenant="acme", prompt_tokens=10, cached_tokens=4,
        sequences=[
            wire.sequence(
                scheduled_ns=101, first_ns=120, last_ns=190, prompt_tokens=10, cached_tokens=4, output_tokens=3
            )
        ],
    )  # fmt: skip
    return {**record, **changes}


def steps(**changes: Any) -> dict[str, Any]:
    columns = {name: [0, 0, 0] for name in wire.MARK_COLUMNS} | {"at_ns": [10, 20, 35], "prefill_tokens": [0, 5, 6]}
    record = wire.steps("boot-1", 0, 8, engine_index=0, until_ns=40, open_ns=30, columns=columns)
    return {**record, **changes}


def marks(**changes: Any) -> dict[str, Any]:
    record = steps()
    return {**record, "marks": {**record["marks"], **changes}}


def gpu(**changes: Any) -> dict[str, Any]:
    columns = {name: [1, 2] for name in wire.GPU_COLUMNS}
    return {**wire.gpu_samples("boot-1", 0, 9, gpu_index=0, columns=columns), **changes}


def started(**changes: Any) -> dict[str, Any]:
    record = wire.started(
        "boot-1", 0, 0, at_ns=1, wall_ns=2, engine="e", engine_kind="vllm", version="1", model="m", gpu="g", gpu_count=1
    )
    return {**record, **changes}


def counters(**changes: Any) -> dict[str, Any]:
    return {**wire.counters("boot-1", 0, 3, at_ns=1, values={"prompt_tokens": 2}, gauges={}), **changes}


def refusal_of(line: bytes) -> RecordError | None:
    """None for a line that decodes, and decodes again from what would be stored of it."""
    try:
        assert decode_line(decode_raw(line).line) == decode_line(line)
    except RecordError as refusal:
        return refusal
    return None


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


@given(pair=pairs())
def test_every_record_the_probe_can_build_decodes_to_the_domain_record(pair: Pair):
    """Builder, encoder and decoder agree on every field of every kind."""
    assert decode_line(line_of(pair.wire)) == pair.record


@given(pair=pairs())
def test_what_is_stored_decodes_to_the_same_record(pair: Pair):
    """A durable line is as good as the line that came in, under the same key, kind and time."""
    raw = decode_raw(line_of(pair.wire))
    assert decode_line(raw.line) == pair.record
    assert (raw.key, raw.kind, raw.event_ns) == (pair.record.key, pair.wire["kind"], event_ns(pair.record))


def test_the_two_ends_name_the_same_version_columns_and_kinds():
    """The probe cannot import the core, so a test holds them together."""
    assert wire.VERSION == WIRE_VERSION
    assert tuple(field.name for field in fields(StepMarks)) == wire.MARK_COLUMNS
    assert ("key", "gpu_index", *wire.GPU_COLUMNS) == tuple(field.name for field in fields(GpuSamples))


def test_no_string_is_longer_than_its_column_in_the_ledger():
    """PostgreSQL refuses what SQLite lets pass, and a refused insert would fail its batch at every retry."""
    columns: dict[str, int] = {}
    for table in (tables.records, tables.boots, tables.journal, tables.requests):
        for column in table.columns:
            if isinstance(column.type, sa.String) and column.type.length:
                name = "engine_kind" if table is tables.boots and column.name == "kind" else column.name
                columns[name] = min(column.type.length, columns.get(name, column.type.length))
    compared = set()
    for struct in (schema.WireStarted, schema.WireUsage):
        described = msgspec.inspect.type_info(struct)
        assert isinstance(described, msgspec.inspect.StructType)
        for field in described.fields:
            if isinstance(field.type, msgspec.inspect.StrType) and field.name in columns:
                # Outcomes and the like come from short closed lists.
                closed = field.name in {"outcome", "seen_by"}
                assert closed or (field.type.max_length or 0) <= columns[field.name], field.name
                compared.add(field.name)
    assert {"boot", "engine", "engine_kind", "model", "gpu", "tenant", "tier", "trace_id", "request_id"} <= compared


@pytest.mark.parametrize(("tenant", "project", "accepted"), [(256, 512, True), (256, 255, True), (256, 256, False)])
def test_names_that_are_too_long_together_for_a_key_are_refused(tenant, project, accepted):
    """One such record would fail every posting of its engine in PostgreSQL; names of ASCII are never too long."""
    letter = "t" if project == 512 else "\u732b"
    line = line_of(usage(tenant=letter * tenant, project=letter * project, model="m", tier="tt"))
    if accepted:
        assert decode_line(decode_raw(line).line) == decode_line(line)
        return
    with pytest.raises(RecordError, match="over 1536 bytes with tenant, model and tier"):
        decode_raw(line)
    with pytest.raises(RecordError):
        decode_line(line)


def test_mark_columns_that_were_left_out_are_zeros():
    """A text model sends no encoder columns."""
    batch = decode_line(line_of(steps()))
    assert isinstance(batch, StepBatch)
    assert batch.marks.at_ns == (10, 20, 35)
    assert batch.marks.prefill_tokens == (0, 5, 6)
    assert batch.marks.encoder_tokens == (0, 0, 0)


def test_a_batch_without_marks_still_says_until_when():
    """An idle engine's heartbeat moves the watermark."""
    empty = wire.steps("b", 0, 1, engine_index=0, until_ns=9, open_ns=9, columns={n: [] for n in wire.MARK_COLUMNS})
    batch = decode_line(line_of(empty))
    assert isinstance(batch, StepBatch)
    assert (len(batch.marks), batch.until_ns) == (0, 9)


def test_a_request_without_attribution_is_the_unknown_tenants():
    """Missing is ``unknown``, a tenant with dollars; and unknown tokens are None, not 0."""
    record = wire.usage(
        "b", 0, 1, request_id="", engine_index=0, model="", outcome="aborted", status=499, arrived_ns=1, ended_ns=2
    )
    decoded = decode_line(line_of(record))
    assert isinstance(decoded, Usage)
    assert (decoded.tenant, decoded.tier, decoded.model) == ("unknown", "unknown", "unknown")
    assert (decoded.prompt_tokens, decoded.output_tokens, decoded.sequences) == (None, None, ())


def test_fields_of_a_later_probe_are_ignored_and_not_stored():
    """Forward compatibility, without a way in for prompts."""
    raw = decode_raw(line_of(usage(prompt="secret words", energy_mj=3)))
    assert raw.key == RecordKey("boot-1", 0, 7)
    assert b"secret" not in raw.line


def test_a_gauge_that_is_not_a_number_is_left_out():
    """JSON has no NaN, and unknown is not 0."""
    record = wire.counters("b", 0, 1, at_ns=1, values={}, gauges={"kv": float("nan"), "running": 2.0})
    decoded = decode_line(line_of(record))
    assert isinstance(decoded, Counters)
    assert decoded.gauges == {"running": 2.0}


@pytest.mark.parametrize(
    ("record", "field", "problem"),
    [
        (usage(v=2), "v", "newer than the 1 that this Farthing reads; upgrade Farthing first"),
        ({"v": 2, "kind": "thoughts"}, "v", "is 2, newer"),
        (usage(v=0), "v", "at least 1"),
        (usage(v="1"), "v", "must be an integer"),
        (usage(v=True), "v", "must be an integer"),
        (without(usage(), "v"), "v", "is missing"),
        (usage(kind="thoughts"), "kind", "must be one of started, lifecycle, steps, usage, gpu, counters"),
        (usage(kind=["usage"]), "kind", "must be one of"),
        (without(usage(), "kind"), "kind", "is missing"),
        (without(usage(), "boot"), "boot", "is missing"),
        (without(usage(), "proc"), "proc", "is missing"),
        (without(usage(), "seq"), "seq", "is missing"),
        (without(usage(), "ended_ns"), "ended_ns", "is missing"),
        (usage(boot=""), "boot", "length >= 1"),
        (usage(seq=-1), "seq", ">= 0"),
        (usage(seq=1.5), "seq", "got float"),
        (usage(seq=2**70), "seq", "<="),
        (usage(user="x" * (MAX_STRING + 1)), "user", "length <= 512"),
        (usage(tenant="x" * 257), "tenant", "length <= 256"),
        (usage(tenant="a\0b"), "tenant", "holds a control character"),
        (usage(tenant="a\n"), "tenant", "holds a control character"),
        (usage(boot="a\x1f"), "boot", "holds a control character"),
        (usage(finish_reason="\x7f"), "finish_reason", "holds a control character"),
        (started(gpu_uuids=["GPU-1", "GPU\t2"]), "gpu_uuids", "holds a control character (entry 1, counted from 0)"),
        (counters(gauges={"a\r": 1.0}), "gauges", "holds a control character"),
        (usage(tenant=7), "tenant", "expected str"),
        (usage(prompt_tokens=-5), "prompt_tokens", ">= 0"),
        (usage(prompt_tokens=2**31), "prompt_tokens", "<="),
        (usage(prompt_tokens=True), "prompt_tokens", "expected int"),
        (usage(cached_tokens=11), "cached_tokens", "is more than prompt_tokens"),
        (usage(image_tokens=11), "image_tokens", "is more than prompt_tokens"),
        (usage(outcome="lost"), "outcome", "must be one of finished, aborted, failed, rejected"),
        (usage(seen_by="nobody"), "seen_by", "must be one of both, client, engine"),
        (usage(span_id="0" * 16), "span_id", "matching regex"),
        (usage(span_id="B7AD6B7169203331"), "span_id", "matching regex"),
        (usage(span_id="b7ad6b7169203331\n"), "span_id", "matching regex"),
        (usage(span_id="b7ad6b7169203331"), "trace_id", "must be 32 hexadecimal digits"),
        (usage(span_id="b7ad6b7169203331", trace_id="0" * 32), "trace_id", "must be 32 hexadecimal digits"),
        (usage(parent_span_id="parent"), "parent_span_id", "matching regex"),
        (usage(key_pseudonym="sk-an-api-key-itself"), "key_pseudonym", "matching regex"),
        (usage(key_pseudonym="5d0b91c3a44e7f2"), "key_pseudonym", "matching regex"),
        (usage(sampled=1), "sampled", "expected bool"),
        (usage(estimate_nano=-1), "estimate_nano", ">= 0"),
        (usage(estimate_nano=0.5), "estimate_nano", "got float"),
        (usage(ended_ns=99), "ended_ns", "lies before last_ns"),
        (usage(first_ns=99), "first_ns", "lies before arrived_ns"),
        (usage(last_ns=119), "last_ns", "lies before first_ns"),
        (usage(sequences={}), "sequences", "expected array"),
        (usage(sequences=[{"scheduled_ns": 1}]), "sequences.last_ns", "is missing (entry 0"),
        (usage(sequences=[{**usage()["sequences"][0], "last_ns": 1}]), "sequences.last_ns", "lies before"),
        (usage(sequences=[{**usage()["sequences"][0], "cached_tokens": 11}]), "sequences.cached_tokens", "is more"),
        (marks(prefill_tokens=[0, 5]), "marks.prefill_tokens", "has 2 entries where marks.at_ns has 3"),
        (marks(prefill_tokens=[]), "marks.prefill_tokens", "has 0 entries"),
        (marks(prefill_tokens=[0, -1, 0]), "marks.prefill_tokens", "expected int >= 0 (entry 1"),
        (marks(at_ns=[0, 10, -1]), "marks.at_ns", "time goes backwards (entry 2"),
        (marks(at_ns=[0] * (MAX_MARKS + 1)), "marks.at_ns", "length <="),
        (steps(until_ns=34), "until_ns", "lies before the batch's last mark"),
        (steps(open_ns=41), "open_ns", "lies after until_ns"),
        (steps(marks=None), "marks", "expected object"),
        (without(steps(), "base_ns"), "base_ns", "is missing"),
        (gpu(at_ns=[2, 1]), "at_ns", "time goes backwards (entry 1"),
        (gpu(at_ns=[]), "at_ns", "length >= 1"),
        (gpu(power_mw=[1]), "power_mw", "has 1 entries where at_ns has 2"),
        (without(gpu(), "energy_mj"), "energy_mj", "is missing"),
        (started(gpu_count=0), "gpu_count", ">= 1"),
        (started(engine=""), "engine", "length >= 1"),
        (counters(values={"prompt_tokens": -1}), "values", ">= 0"),
        (counters(values={"": 1}), "values", "length >= 1"),
        (wire.lifecycle("b", 0, 1, at_ns=1, event="yawning"), "event", "must be one of ready, asleep, awake"),
        ([1, 2], "line", "is not a JSON object"),
        (None, "line", "is not a JSON object"),
    ],
)
def test_a_wrong_record_is_refused_by_the_name_of_its_field(record, field, problem):
    """Somebody has to find it: the field, and what is wrong with it."""
    with pytest.raises(RecordError) as caught:
        decode_line(json.dumps(record).encode())
    assert caught.value.field == field
    assert problem in caught.value.problem


NAMES = st.text("ab /", max_size=6) | st.text(
    st.characters(max_codepoint=0x2FF) | st.sampled_from('\x7f\\"/'), max_size=6
)


def _outcome(line: bytes, plain: bool) -> object:
    try:
        return decode_raw(line, plain=plain)
    except RecordError as error:
        return error.field, error.problem


@given(text=NAMES, escaped=st.booleans(), times=st.sampled_from([1, 60]))
def test_plain_lines_are_judged_as_all_others_are(text, escaped, times):
    """Knowing that a line is plain saves looks at it, which would have found nothing."""
    names = dict.fromkeys(("tenant", "project", "model"), text * times)
    line = json.dumps(usage(**names), ensure_ascii=escaped).encode()
    if is_plain(line):
        assert _outcome(line, plain=True) == _outcome(line, plain=False)


@pytest.mark.parametrize("text", ["\x7f", "\n", "\x00", "\\", "\u00e9", "\u732b"])
def test_a_line_with_an_escape_or_another_alphabet_is_not_plain(text):
    """It has to be looked at."""
    assert is_plain(json.dumps(usage(workload="plain")).encode())
    for escaped in (True, False):
        assert not is_plain(json.dumps(usage(workload=text), ensure_ascii=escaped).encode())


@given(text=st.text(st.characters(max_codepoint=0x2FF) | st.sampled_from('\x7f\\"/'), max_size=60))
def test_a_name_is_refused_for_a_control_character_and_for_nothing_else(text):
    """However it is escaped; and whatever a field of the sender's own holds is nobody's business."""
    forbidden = any(character < " " or character == "\x7f" for character in text)
    record = usage(workload=text, note=text + "\n\x7f")
    for line in (json.dumps(record).encode(), json.dumps(record, ensure_ascii=False).encode()):
        if forbidden:
            with pytest.raises(RecordError, match="workload: holds a control character"):
                decode_raw(line)
        else:
            decoded = decode_line(decode_raw(line).line)
            assert isinstance(decoded, Usage)
            assert decoded.workload == text


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b'{"v":1,',
        b"\xff\xfe",
        b'{"v":1,"kind":"usage","boot":"\xff"}',
        b'{"v":1,"kind":"usage","boot":"\\ud800"}',
        b'{"v":1,"kind":"counters","boot":"b","proc":0,"seq":0,"at_ns":1,"gauges":{"a":NaN}}',
        b'{"v":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b" " * (MAX_LINE_BYTES + 1),
    ],
)
def test_a_line_that_is_no_json_is_refused_as_a_line(line):
    """No field to name, and nothing else than a refusal may come of it."""
    with pytest.raises(RecordError) as caught:
        decode_line(line)
    assert caught.value.field == "line"


@given(line=st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_a_refusal(line: bytes):
    """The decoder faces the network."""
    with pytest.raises(RecordError):
        decode_line(line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(pair=pairs(), data=st.data())
def test_a_record_with_one_field_changed_decodes_or_is_refused(pair: Pair, data: st.DataObject):
    """Any JSON value in any field, nested ones included."""
    target = pair.wire
    nested = [value for value in (target.get("marks"), *target.get("sequences", ())) if isinstance(value, dict)]
    place = data.draw(st.sampled_from([target, *nested]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    refusal = refusal_of(json.dumps(pair.wire).encode())
    assert refusal is None or (refusal.field and "\n" not in refusal.problem)


@given(pair=pairs(), data=st.data())
def test_a_line_with_bytes_changed_decodes_or_is_refused(pair: Pair, data: st.DataObject):
    """Bit rot, truncation and splicing."""
    line = bytearray(line_of(pair.wire))
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, min(len(line), start + 8)))
    line[start:end] = data.draw(st.binary(max_size=8))
    refusal = refusal_of(bytes(line))
    assert refusal is None or refusal.field


@given(pair=pairs(), secret=st.sampled_from(["ZEBRACROSSING", "\u00e9ZEBRACROSSING\u0007"]), data=st.data())
def test_a_refusal_never_quotes_what_it_refuses(pair: Pair, secret: str, data: st.DataObject):
    """Refusals are logged, records are not."""
    pair.wire[data.draw(st.sampled_from(sorted(pair.wire)))] = secret
    assert "ZEBRA" not in str(refusal_of(json.dumps(pair.wire).encode()))
