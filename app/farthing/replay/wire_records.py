"""A recording as the records that a probe inside that engine would have sent.

The recorded step marks, finished-request statistics and client timings become wire records of one boot, in
event order, with sequences as the probe numbers them. Nothing is invented: what was not recorded is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from typing import Any

from farthing.domain.clock import SECOND, Anchor, nanoseconds
from farthing.replay.recording import Recording
from farthing_probe import wire

__all__ = ["TimedRecord", "wire_records"]

Row = dict[str, Any]

_ENGINE_ID = re.compile(r"^(?:chat)?cmpl-(?P<id>.+?)(?:-\d+)?$")
_MODEL = re.compile(r'vllm:num_requests_running\{[^}]*model_name="([^"]*)"')
BATCH_NS = 5 * SECOND
_DETAILS = {
    # index in a step's "d" -> column of the wire
    1: "prefill_requests",
    2: "prefill_tokens",
    3: "decode_requests",
    4: "decode_tokens",
    6: "encoder_inputs",
    7: "encoder_tokens",
}


@dataclass(frozen=True, slots=True)
class TimedRecord:
    """A wire record and the UTC nanoseconds of the recording at which a probe would have sent it."""

    wall_ns: int
    record: Row


def wire_records(
    recording: Recording, *, boot: str, engine: str, model: str = "", wall_start_ns: int | None = None
) -> list[TimedRecord]:
    """All records of a recording, as one boot, in the order they are sent.

    ``wall_start_ns`` moves the whole run to begin at that UTC moment (default: when it was recorded);
    the monotonic clock is never moved, only its anchor.
    """
    shift = 0 if wall_start_ns is None else wall_start_ns - recording.start_ns
    if recording.boots:
        return _as_probed(recording, boot, engine, model, shift)
    anchor = recording.anchor
    timed = [
        *_lifecycle(recording, engine, model or model_name(recording), shift),
        *_usage(recording, anchor, model or model_name(recording)),
        *_gpu(recording, anchor),
    ]
    opens = [(row["arrived_ns"], row["ended_ns"]) for _, _, kind, row in timed if kind == "usage"]
    timed += _steps(recording, anchor, opens)
    timed.sort(key=lambda item: (item[0], item[1]))
    result = []
    for sequence, (at_ns, _, kind, fields) in enumerate(timed):
        result.append(TimedRecord(anchor.to_wall(at_ns) + shift, _build(kind, boot, sequence, fields)))
    return result


def _as_probed(recording: Recording, boot: str, engine: str, model: str, shift: int) -> list[TimedRecord]:
    """The records that a probe sent, under new names, with the device's samples among its first process's."""
    result: list[TimedRecord] = []
    for number, records in enumerate(recording.boots):
        started = records[0]
        anchor = Anchor(wall_ns=started["wall_ns"], mono_ns=started["at_ns"])
        name = boot if number == 0 else f"{boot}.{number}"
        ended = max(_event_ns(row) for row in records)
        own = [(_event_ns(row), row) for row in records if row["proc"] == 0]
        samples = [
            (at, {"v": started["v"], "kind": "gpu", "proc": 0, **fields["columns"], "gpu_index": fields["gpu_index"]})
            for at, _, _, fields in _gpu(recording, anchor)
            if started["at_ns"] <= fields["columns"]["at_ns"][0] and at <= ended
        ]
        # the last record says that nothing more comes
        body, last = own[:-1], own[-1:]
        merged = [*merge(body, samples, key=lambda pair: pair[0]), *last]
        rows, inserted, sequence = [], 0, -1
        for _, row in merged:
            # a sequence that is missing stays missing
            sequence = row["seq"] + inserted if "seq" in row else sequence + 1
            inserted += "seq" not in row
            rows.append({**row, "seq": sequence})
        rows += [row for row in records if row["proc"] != 0]
        for row in rows:
            changed = {**row, "boot": name}
            if row["kind"] == "started":
                changed |= {"engine": engine, "model": model or row["model"], "wall_ns": row["wall_ns"] + shift}
            elif row["kind"] == "usage" and model:
                changed["model"] = model
            result.append(TimedRecord(anchor.to_wall(_event_ns(row)) + shift, changed))
    result.sort(key=lambda timed: timed.wall_ns)
    return result


def _event_ns(row: Row) -> int:
    """The moment of a record, monotonic: when it was sent, as nearly as it says."""
    if row["kind"] == "gpu":
        return int(row["at_ns"][-1])
    return int(row.get("until_ns") or row.get("ended_ns") or row["at_ns"])


def model_name(recording: Recording) -> str:
    """The model's served name, as the recorded exposition labels it."""
    found = _MODEL.search(recording.last_exposition())
    return found.group(1) if found else recording.name


_Timed = tuple[int, int, str, Row]
"""Event time (monotonic), rank among equal times, kind, fields."""

_FIRST, _SAMPLES, _USAGE, _STEPS, _LAST = range(5)


def _build(kind: str, boot: str, sequence: int, fields: Row) -> Row:
    build = {
        "started": wire.started,
        "lifecycle": wire.lifecycle,
        "usage": wire.usage,
        "steps": wire.steps,
        "gpu": wire.gpu_samples,
    }[kind]
    record: Row = build(boot, 0, sequence, **fields)  # type: ignore[operator]
    return record


def _lifecycle(recording: Recording, engine: str, model: str, shift: int) -> Iterator[_Timed]:
    anchor = recording.anchor
    start, end = anchor.to_mono(recording.start_ns), anchor.to_mono(recording.end_ns)
    fields = {
        "at_ns": start,
        "wall_ns": recording.start_ns + shift,
        "engine": engine,
        "engine_kind": "vllm",
        "version": "",
        "model": model,
        "gpu": str(recording.gpu.get("name", "")),
        "gpu_count": 1,
        "gpu_uuids": [],
        "details": any("d" in row for row in recording.steps),
        "processes": 1,
    }
    yield start, _FIRST, "started", fields
    yield start, _SAMPLES, "lifecycle", {"at_ns": start, "event": "ready"}
    down = recording.down_ns()
    if down is not None:
        yield anchor.to_mono(down), _LAST, "lifecycle", {"at_ns": anchor.to_mono(down), "event": "down"}
    yield end, _LAST, "lifecycle", {"at_ns": end, "event": "stop"}


def _usage(recording: Recording, anchor: Anchor, model: str) -> Iterator[_Timed]:
    finished: dict[str, list[Row]] = {}
    chat = False
    for step in recording.steps:
        for statistics in step.get("fin", ()):
            chat = chat or str(statistics["request_id"]).startswith("chatcmpl-")
            found = _ENGINE_ID.match(str(statistics["request_id"]))
            identity = found.group("id") if found else str(statistics["request_id"])
            finished.setdefault(identity, []).append(_sequence(nanoseconds(step["m"]), statistics))
    route = "/v1/chat/completions" if chat else "/v1/completions"
    for row in recording.requests:
        fields = _client(row, anchor, route, chunks_before_text=1 if chat else 0)
        fields["model"] = model
        fields["sequences"] = finished.pop(str(row["id"]), [])
        fields["seen_by"] = "both" if fields["sequences"] else "client"
        yield fields["ended_ns"], _USAGE, "usage", fields
    for identity, sequences in finished.items():
        ended = max(sequence["last_ns"] for sequence in sequences)
        yield (
            ended,
            _USAGE,
            "usage",
            {
                "request_id": identity,
                "engine_index": 0,
                "model": model,
                "outcome": "finished",
                "status": 0,
                "arrived_ns": min(s["scheduled_ns"] - s["queued_ns"] for s in sequences),
                "ended_ns": ended,
                "route": route,
                "sequences": sequences,
                "seen_by": "engine",
            },
        )


def _sequence(finished_ns: int, statistics: Row) -> Row:
    """Engine-side moments, counted back from the mark that reported the sequence finished."""
    return {
        "scheduled_ns": finished_ns - nanoseconds(statistics["inference_time"]),
        "first_ns": finished_ns - nanoseconds(statistics["decode_time"]),
        "last_ns": finished_ns,
        "prompt_tokens": statistics["num_prompt_tokens"],
        "cached_tokens": statistics.get("num_cached_tokens", 0),
        "output_tokens": statistics["num_generation_tokens"],
        "queued_ns": nanoseconds(statistics["queued_time"]),
        "preemptions": statistics.get("num_preemptions", 0),
    }


def _client(row: Row, anchor: Anchor, route: str, *, chunks_before_text: int) -> Row:
    error = row.get("err")
    outcome = "finished" if not error else "aborted" if error == "aborted" else "failed"
    usage = row.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    images = (details.get("multimodal_tokens") or {}).get("image")
    arrived = anchor.to_mono(nanoseconds(row["t0"]))
    return {
        "request_id": str(row["id"]),
        "engine_index": 0,
        "outcome": outcome,
        "status": {"finished": 200, "aborted": 499, "failed": 502}[outcome],
        "arrived_ns": arrived,
        "ended_ns": max(arrived, anchor.to_mono(nanoseconds(row["end"]))),
        "first_ns": _mono(anchor, row.get("first")),
        "last_ns": _mono(anchor, row.get("last")),
        "route": route,
        "finish_reason": "length" if outcome == "finished" else "",
        "tenant": str(row["tenant"]),
        "workload": str(row.get("phase", "")),
        "prompt_tokens": usage.get("prompt_tokens"),
        "cached_tokens": details.get("cached_tokens"),
        "image_tokens": images if images is not None or not usage else 0,
        "output_tokens": usage.get("completion_tokens"),
        "delivered_tokens": None if usage else max(0, int(row.get("chunks", 0)) - chunks_before_text),
    }


def _mono(anchor: Anchor, seconds: Any) -> int | None:
    return None if seconds is None else anchor.to_mono(nanoseconds(seconds))


def _gpu(recording: Recording, anchor: Anchor) -> Iterator[_Timed]:
    for rows in _batches(recording.gpu_samples, lambda row: anchor.to_mono(nanoseconds(row["t"]))):
        columns = {
            "at_ns": [anchor.to_mono(nanoseconds(row["t"])) for row in rows],
            "energy_mj": [int(row["e_mj"]) for row in rows],
            "power_mw": [int(row["p_mw"]) for row in rows],
            "utilization_percent": [int(row.get("gpu", 0)) for row in rows],
            "memory_bytes": [int(row["mem"]) for row in rows],
        }
        yield columns["at_ns"][-1], _SAMPLES, "gpu", {"gpu_index": 0, "columns": columns}


def _steps(recording: Recording, anchor: Anchor, opens: list[tuple[int, int]]) -> Iterator[_Timed]:
    arrivals = sorted(opens)
    start, end = anchor.to_mono(recording.start_ns), anchor.to_mono(recording.end_ns)
    rows = list(recording.steps)
    at = [nanoseconds(row["m"]) for row in rows]
    begin = 0
    until = start
    while until < end:
        until = min(until + BATCH_NS, end)
        stop = begin
        while stop < len(rows) and at[stop] <= until:
            stop += 1
        pending = (arrived for arrived, ended in arrivals if arrived <= until < ended)
        yield (
            until,
            _STEPS,
            "steps",
            {
                "engine_index": 0,
                "until_ns": until,
                "open_ns": next(pending, until),
                "columns": _columns(rows[begin:stop], at[begin:stop]),
            },
        )
        begin = stop


def _columns(rows: list[Row], at: list[int]) -> dict[str, list[int]]:
    columns: dict[str, list[int]] = {name: [0] * len(rows) for name in wire.MARK_COLUMNS}
    columns["at_ns"] = at
    for i, row in enumerate(rows):
        columns["running"][i] = row["run"]
        columns["waiting"][i] = row["wait"]
        columns["generated"][i] = row.get("g", 0)
        columns["preempted"][i] = row.get("pre", 0)
        prompt = row.get("p", (0, 0, 0, 0))
        columns["prompt_computed"][i] = prompt[1]
        columns["prompt_cached"][i] = prompt[2] + prompt[3]
        details = row.get("d")
        if details:
            for j, name in _DETAILS.items():
                columns[name][i] = details[j]
    return columns


def _batches(rows: tuple[Row, ...], at: Any) -> Iterator[list[Row]]:
    """Consecutive rows in groups of at most five seconds."""
    group: list[Row] = []
    for row in rows:
        if group and at(row) - at(group[0]) >= BATCH_NS:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
