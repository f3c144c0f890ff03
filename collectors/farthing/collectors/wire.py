"""From a line of the wire to a domain record, or to a refusal that names the field.

The other half of ``farthing_probe.wire``, which documents the schema. A refusal never quotes what it refuses:
it may end in a log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NoReturn

import msgspec

from farthing.collectors.schema import (
    KINDS,
    MAX_LINE_BYTES,
    MAX_NAMES_BYTES,
    SEEN_BY,
    AnyWire,
    EngineWire,
    WireCounters,
    WireDevice,
    WireGpu,
    WireHead,
    WireKey,
    WireLifecycle,
    WireMarks,
    WireSequence,
    WireStarted,
    WireSteps,
    WireUsage,
)
from farthing.domain.clock import Anchor
from farthing.domain.conventions import DEVICE_BOOT, INBOX_REFUSED, OUTCOMES, SCRAPED_BOOT, UNKNOWN, WIRE_VERSION
from farthing.domain.errors import RecordError
from farthing.domain.gpu import DEVICE_KINDS, ENERGY_METHODS, MAX_ENERGY_MJ, NO_ENERGY, DeviceSamples
from farthing.domain.records import (
    Counters,
    EngineSequence,
    GpuSamples,
    Lifecycle,
    RawRecord,
    Record,
    RecordKey,
    Started,
    StepBatch,
    StepMarks,
    Usage,
    event_ns,
    mirrored,
)
from farthing.domain.trace_ids import is_trace_id
from farthing_probe import wire as probe_wire

__all__ = ["decode_device", "decode_line", "decode_raw", "device_line", "device_record", "is_plain", "refusal"]

_decode: Callable[[bytes], AnyWire] = msgspec.json.Decoder(AnyWire).decode
_HEAD_DECODER = msgspec.json.Decoder(WireHead)
_KEY_DECODER = msgspec.json.Decoder(WireKey)
_encode = msgspec.json.Encoder().encode


def decode_line(line: bytes) -> Record:
    """The domain record of one line of the wire that is of an engine.

    Mark columns that were left out are zeros; a tenant, tier or model left out is ``unknown``; fields that
    the schema does not name are ignored. Raises RecordError naming the first field that is wrong.
    """
    wire = _parse(line)
    if isinstance(wire, WireDevice):
        raise RecordError("kind", "is device, which no engine sends")
    return _record(wire)


def decode_device(line: bytes) -> DeviceSamples:
    """The samples of one line of kind ``device``; RecordError names the first field that is wrong."""
    wire = _parse(line)
    if not isinstance(wire, WireDevice):
        raise RecordError("kind", "must be device")
    return _device_samples(wire)


def device_line(samples: DeviceSamples) -> bytes:
    """The line of the wire of a device's samples, without its line end; it belongs at ``/v1/windows``.

    Raises RecordError as ``decode_device`` does: what is not sent cannot be refused.
    """
    key = samples.key
    wire = WireDevice(
        v=WIRE_VERSION,
        boot=key.boot,
        proc=key.process,
        seq=key.sequence,
        uuid=samples.uuid,
        name=samples.name,
        host=samples.host,
        index=samples.index,
        source=samples.source,
        method=samples.method,
        at_ns=samples.at_ns,
        energy_mj=samples.energy_mj,
        parent=samples.parent,
        profile=samples.profile,
        pod=samples.pod,
        device_kind=samples.kind,
    )
    line = _encode(wire)
    decode_device(line)
    _believed(wire)
    return line


def device_record(samples: DeviceSamples) -> RawRecord:
    """A device's samples as the inbox keeps them; RecordError as ``decode_device``."""
    return RawRecord(samples.key, "device", samples.at_ns[-1], device_line(samples))


def is_plain(text: bytes) -> bool:
    """Whether JSON text is ASCII and has no escapes: then no string in it has a control character or is long in UTF-8.

    JSON has no control character but DEL that is not escaped.
    """
    return b"\\" not in text and b"\x7f" not in text and text.isascii()


def decode_raw(line: bytes, *, plain: bool = False) -> RawRecord:
    """One line validated and reduced to the fields that the schema names, ready for durable storage.

    A sender that posts a prompt or an answer in some field of its own must not find it stored. ``plain`` says that
    ``is_plain`` holds for the line, which is known of a whole body at once. Raises RecordError as ``decode_line`` does.
    """
    wire = _parse(line, plain)
    if isinstance(wire, WireUsage):
        # nearly every record is one: it is checked, and not made into a record that nobody looks at
        _check_usage(wire, plain)
        return RawRecord(RecordKey(wire.boot, wire.proc, wire.seq), "usage", wire.ended_ns, _encode(wire))
    if isinstance(wire, WireDevice | WireGpu):
        _believed(wire)
    if isinstance(wire, WireDevice):
        return RawRecord(wire.record_key(), "device", _device_samples(wire).at_ns[-1], _encode(wire))
    if isinstance(wire, WireSteps):
        # as a usage record, and it is the largest
        _check_steps(wire)
        return RawRecord(wire.record_key(), "steps", wire.until_ns, _encode(wire))
    kind = str(wire.__struct_config__.tag)
    return RawRecord(wire.record_key(), kind, event_ns(_record(wire)), _encode(wire))


def refusal(line: bytes, error: RecordError) -> RawRecord | None:
    """What the inbox keeps of a refused line, so that its sequence is not waited for; it holds no value of the line.

    None where the line does not say whose it is, and for a start: without it nothing can be costed, so a mended one
    is worth waiting for. Nor for a device, whose samples nobody waits for.
    """
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        head = _KEY_DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if head.kind == "started" or head.boot.startswith((SCRAPED_BOOT, DEVICE_BOOT)) or _CONTROL.search(head.boot):
        return None
    reason = _encode({"kind": INBOX_REFUSED, "field": error.field, "problem": error.problem})
    return RawRecord(mirrored(head.record_key()), INBOX_REFUSED, 0, reason)


def _parse(line: bytes, plain: bool = False) -> AnyWire:
    if len(line) > MAX_LINE_BYTES:
        raise RecordError("line", f"is longer than {MAX_LINE_BYTES} bytes")
    try:
        wire = _decode(line)
    except msgspec.ValidationError as error:
        _refuse(line, error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError("line", f"is not JSON in UTF-8 ({_lower(str(error))})") from None
    except RecursionError:
        raise RecordError("line", "is nested too deeply") from None
    if not plain and (b"\\" in line or b"\x7f" in line):
        _refuse_control_characters(wire, "")
    if wire.boot.startswith(DEVICE_BOOT) and not isinstance(wire, WireDevice):
        raise RecordError("boot", f"must not begin with {DEVICE_BOOT}, which names a device's samples")
    return wire


def _refuse_control_characters(value: Any, field: str, entry: str = "") -> None:
    if isinstance(value, str):
        if _CONTROL.search(value):
            raise RecordError(field, f"holds a control character{entry}")
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _refuse_control_characters(getattr(value, name), f"{field}.{name}" if field else name, entry)
    elif isinstance(value, dict):
        for name in value:
            _refuse_control_characters(name, field, entry)
    elif isinstance(value, tuple) and value and not isinstance(value[0], int):
        for number, each in enumerate(value):
            _refuse_control_characters(each, field, f" (entry {number}, counted from 0)")


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LOCATED = re.compile(r"(?P<problem>.*?)(?: - at (?:`key` in )?`(?P<path>\$[^`]*)`)?\Z", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_ENTRY = re.compile(r"\[(\d+|\.\.\.)\]")


def _refuse(line: bytes, error: msgspec.ValidationError) -> NoReturn:
    """RecordError of a line that is JSON but no record, from the validator's message and its path."""
    _refuse_by_head(line)
    located = _LOCATED.match(str(error))
    problem, path = (located["problem"], located["path"] or "$") if located else (str(error), "$")
    entries = [index for index in _ENTRY.findall(path) if index != "..."]
    field = _ENTRY.sub("", path).removeprefix("$").removeprefix(".")
    missing = _MISSING.match(problem)
    if missing:
        field = f"{field}.{missing['name']}" if field else missing["name"]
        problem = "is missing"
    else:
        problem = _lower(problem)
    where = f" (entry {', '.join(entries)}, counted from 0)" if entries else ""
    raise RecordError(field or "line", problem + where) from None


def _refuse_by_head(line: bytes) -> None:
    """Refuse a line whose kind or version is the real problem, whatever the validator met first."""
    try:
        head = _HEAD_DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RecordError("line", "is not a JSON object") from None
    if head.v is None:
        raise RecordError("v", "is missing")
    if not isinstance(head.v, int) or isinstance(head.v, bool) or head.v < 1:
        raise RecordError("v", "must be an integer of at least 1")
    if head.v > WIRE_VERSION:
        newer = f"is {head.v}, newer than the {WIRE_VERSION} that this Farthing reads; upgrade Farthing first"
        raise RecordError("v", newer)
    if head.kind is None:
        raise RecordError("kind", "is missing")
    if head.kind not in KINDS:
        raise RecordError("kind", f"must be one of {', '.join(KINDS)}")


def _lower(message: str) -> str:
    plain = message.replace("`", "")
    return plain[:1].lower() + plain[1:]


def _record(wire: EngineWire) -> Record:
    match wire:
        case WireSteps():
            return _step_batch(wire)
        case WireUsage():
            return _usage(wire)
        case WireGpu():
            return _gpu_samples(wire)
        case WireCounters():
            return Counters(wire.record_key(), wire.at_ns, wire.values, wire.gauges)
        case WireLifecycle():
            _one_of("event", wire.event, probe_wire.EVENTS)
            return Lifecycle(wire.record_key(), wire.at_ns, wire.event)
        case WireStarted():
            return Started(
                key=wire.record_key(),
                at_ns=wire.at_ns,
                anchor=Anchor(wall_ns=wire.wall_ns, mono_ns=wire.at_ns),
                engine=wire.engine,
                kind=wire.engine_kind,
                version=wire.version,
                model=wire.model,
                gpu=wire.gpu,
                gpu_count=wire.gpu_count,
                gpu_uuids=wire.gpu_uuids,
                details=wire.details,
                processes=wire.processes,
                ranks=wire.ranks,
            )


_MARK_COLUMNS = WireMarks.__struct_fields__[1:]
"""But for the times."""


def _check_steps(wire: WireSteps) -> None:
    differences = wire.marks.at_ns
    if differences and min(differences) < 0:
        entry = next(entry for entry, difference in enumerate(differences) if difference < 0)
        raise RecordError("marks.at_ns", f"time goes backwards (entry {entry}, counted from 0)")
    if differences and wire.base_ns + sum(differences) > wire.until_ns:
        raise RecordError("until_ns", "lies before the batch's last mark")
    if wire.open_ns > wire.until_ns:
        raise RecordError("open_ns", "lies after until_ns")
    for name in _MARK_COLUMNS:
        values = getattr(wire.marks, name)
        if values is not None and len(values) != len(differences):
            _same_length(f"marks.{name}", values, "marks.at_ns", differences)


def _step_batch(wire: WireSteps) -> StepBatch:
    _check_steps(wire)
    marks = wire.marks
    at = tuple(accumulate(marks.at_ns, initial=wire.base_ns))[1:]
    zeros = (0,) * len(at)
    return StepBatch(
        key=wire.record_key(),
        engine_index=wire.engine_index,
        until_ns=wire.until_ns,
        open_ns=wire.open_ns,
        # columns that were not sent are 0
        marks=StepMarks(at_ns=at, **{name: getattr(marks, name) or zeros for name in _MARK_COLUMNS}),
    )


def _check_usage(wire: WireUsage, plain: bool = False) -> None:
    # for nearly every record that arrives: what is wrong is looked for only where something is
    if wire.outcome not in OUTCOMES:
        _one_of("outcome", wire.outcome, OUTCOMES)
    if wire.seen_by not in SEEN_BY:
        _one_of("seen_by", wire.seen_by, SEEN_BY)
    arrived, first, last = wire.arrived_ns, wire.first_ns, wire.last_ns
    first = arrived if first is None else first
    last = first if last is None else last
    if not arrived <= first <= last <= wire.ended_ns:
        _out_of_order(wire, "arrived_ns", "first_ns", "last_ns", "ended_ns")
    prompt = wire.prompt_tokens
    if prompt is not None:
        if wire.cached_tokens is not None and wire.cached_tokens > prompt:
            _more_than_prompt("cached_tokens")
        if wire.image_tokens is not None and wire.image_tokens > prompt:
            _more_than_prompt("image_tokens")
    if wire.span_id and not is_trace_id(wire.trace_id):
        raise RecordError("trace_id", "must be 32 hexadecimal digits, in lower case, where there is a span_id")
    if not plain:
        _short_enough(wire.tenant + wire.project + wire.model + wire.tier)
    for sequence in wire.sequences:
        first = sequence.scheduled_ns if sequence.first_ns is None else sequence.first_ns
        if not sequence.scheduled_ns <= first <= sequence.last_ns:
            _out_of_order(sequence, "scheduled_ns", "first_ns", "last_ns", prefix="sequences.")
        if sequence.cached_tokens > sequence.prompt_tokens:
            _more_than_prompt("sequences.cached_tokens")


def _usage(wire: WireUsage) -> Usage:
    _check_usage(wire)
    return Usage(
        key=wire.record_key(),
        request_id=wire.request_id,
        engine_index=wire.engine_index,
        model=wire.model or UNKNOWN,
        outcome=wire.outcome,
        status=wire.status,
        arrived_ns=wire.arrived_ns,
        ended_ns=wire.ended_ns,
        first_ns=wire.first_ns,
        last_ns=wire.last_ns,
        route=wire.route,
        finish_reason=wire.finish_reason,
        tenant=wire.tenant or UNKNOWN,
        project=wire.project,
        workload=wire.workload,
        user=wire.user,
        tier=wire.tier or UNKNOWN,
        trace_id=wire.trace_id,
        prompt_tokens=wire.prompt_tokens,
        cached_tokens=wire.cached_tokens,
        image_tokens=wire.image_tokens,
        output_tokens=wire.output_tokens,
        delivered_tokens=wire.delivered_tokens,
        sequences=tuple(_engine_sequence(entry) for entry in wire.sequences),
        seen_by=wire.seen_by,
        span_id=wire.span_id,
        parent_span_id=wire.parent_span_id,
        sampled=wire.sampled,
        span_sent=wire.span_sent,
        estimate_nano=wire.estimate_nano,
        key_pseudonym=wire.key_pseudonym,
    )


def _engine_sequence(wire: WireSequence) -> EngineSequence:
    return EngineSequence(
        scheduled_ns=wire.scheduled_ns,
        first_ns=wire.first_ns,
        last_ns=wire.last_ns,
        prompt_tokens=wire.prompt_tokens,
        cached_tokens=wire.cached_tokens,
        output_tokens=wire.output_tokens,
        queued_ns=wire.queued_ns,
        preemptions=wire.preemptions,
    )


def _gpu_samples(wire: WireGpu) -> GpuSamples:
    for entry, (before, now) in enumerate(pairwise(wire.at_ns), start=1):
        if now < before:
            raise RecordError("at_ns", f"time goes backwards (entry {entry}, counted from 0)")
    for name in probe_wire.GPU_COLUMNS[1:]:
        _same_length(name, getattr(wire, name), "at_ns", wire.at_ns)
    return GpuSamples(
        key=wire.record_key(),
        gpu_index=wire.gpu_index,
        at_ns=wire.at_ns,
        energy_mj=wire.energy_mj,
        power_mw=wire.power_mw,
        utilization_percent=wire.utilization_percent,
        memory_bytes=wire.memory_bytes,
    )


def _device_samples(wire: WireDevice) -> DeviceSamples:
    _one_of("method", wire.method, ENERGY_METHODS)
    _one_of("device_kind", wire.device_kind, DEVICE_KINDS)
    began = wire.boot.removeprefix(f"{DEVICE_BOOT}{wire.uuid}/")
    if began == wire.boot or not (began.isascii() and began.isdecimal()):
        raise RecordError("boot", f"must be {DEVICE_BOOT}, the uuid, / and the UTC nanoseconds of the first reading")
    for entry, (before, now) in enumerate(pairwise(wire.at_ns), start=1):
        if now < before:
            raise RecordError("at_ns", f"time goes backwards (entry {entry}, counted from 0)")
    _same_length("energy_mj", wire.energy_mj, "at_ns", wire.at_ns)
    if wire.method == NO_ENERGY and any(wire.energy_mj):
        raise RecordError("energy_mj", f"must be 0 where method is {NO_ENERGY}")
    return DeviceSamples(
        key=wire.record_key(),
        uuid=wire.uuid,
        name=wire.name,
        host=wire.host,
        index=wire.index,
        source=wire.source,
        method=wire.method,
        at_ns=wire.at_ns,
        energy_mj=wire.energy_mj,
        parent=wire.parent,
        profile=wire.profile,
        pod=wire.pod,
        kind=wire.device_kind,
    )


def _believed(wire: WireDevice | WireGpu) -> None:
    for entry, energy in enumerate(wire.energy_mj):
        if energy > MAX_ENERGY_MJ:
            raise RecordError("energy_mj", f"must be at most {MAX_ENERGY_MJ} (entry {entry}, counted from 0)")


def _one_of(field: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise RecordError(field, f"must be one of {', '.join(known)}")


def _same_length(field: str, values: Sequence[int], reference: str, times: Sequence[int]) -> None:
    if len(values) != len(times):
        raise RecordError(field, f"has {len(values)} entries where {reference} has {len(times)}")


def _out_of_order(wire: WireUsage | WireSequence, *fields: str, prefix: str = "") -> NoReturn:
    """RecordError of the first of these moments that lies before an earlier one; one that is unknown has no order."""
    known = [(field, at) for field in fields if (at := getattr(wire, field)) is not None]
    for (earlier, before), (field, at) in pairwise(known):
        if at < before:
            raise RecordError(f"{prefix}{field}", f"lies before {prefix}{earlier}")
    raise AssertionError("in order")


def _short_enough(names: str) -> None:
    if not names.isascii() and len(names.encode()) > MAX_NAMES_BYTES:
        raise RecordError("project", f"makes over {MAX_NAMES_BYTES} bytes with tenant, model and tier; shorten them")


def _more_than_prompt(field: str) -> NoReturn:
    raise RecordError(field, "is more than prompt_tokens")
