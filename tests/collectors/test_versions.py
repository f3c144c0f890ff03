"""Old probes with a new Farthing, and new probes with this one: what was sent once is taken for ever."""

import asyncio
import json
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette

from farthing.collectors import schema
from farthing.collectors.intake import IntakeCounts, IntakeLimits, intake_routes
from farthing.collectors.wire import decode_line
from farthing.domain.conventions import OUTCOMES, WIRE_VERSION
from farthing.domain.records import EngineSequence, RawRecord, StepBatch, Usage
from farthing_probe import wire

ROOT = Path(__file__).parents[1] / "fixtures" / "wire"
BODIES = sorted(ROOT.glob("v*/*.jsonl"))
EVERY_FIELD = [
    json.loads(line)
    for body in ("every-field.usage", "traced.usage", "audited.usage", "every-field.windows")
    for line in (ROOT / "v1" / f"{body}.jsonl").read_text().splitlines()
]
STRUCTS = {
    "started": schema.WireStarted,
    "lifecycle": schema.WireLifecycle,
    "steps": schema.WireSteps,
    "usage": schema.WireUsage,
    "gpu": schema.WireGpu,
    "counters": schema.WireCounters,
}


def post(path, body):
    """The intake's answer to a body, and what it stored."""
    stored: list[RawRecord] = []

    class Store:
        def add_each(self, batches):
            stored.extend(chain.from_iterable(batches))
            return list(map(len, batches))

    routes = intake_routes(Store(), IntakeLimits(1 << 20), IntakeCounts(), lambda: None)

    async def one():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(Starlette(routes=routes))) as client:
            return await client.post(f"http://farthing{path}", content=body)

    answer = asyncio.run(one())
    assert answer.status_code == 200
    return answer.json(), stored


def fields(struct):
    return {field.encode_name for field in msgspec.structs.fields(struct)}


@pytest.mark.parametrize("body", BODIES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_body_of_any_version_is_taken_whole(body):
    """Every line of it, and the meaning of each is kept."""
    lines = body.read_bytes().splitlines()
    path = wire.USAGE_PATH if body.name.endswith(".usage.jsonl") else wire.WINDOWS_PATH
    said, stored = post(path, body.read_bytes())
    assert (said["accepted"], said["refused"]) == (len(lines), [])
    kept = {raw.key: decode_line(raw.line) for raw in stored}
    assert kept == {record.key: record for record in map(decode_line, lines)}


def test_every_version_has_bodies_of_every_kind():
    """A version without them could be broken and nobody would see it."""
    for version in range(1, WIRE_VERSION + 1):
        bodies = [path for path in BODIES if path.parent.name == f"v{version}"]
        records = [json.loads(line) for path in bodies for line in path.read_text().splitlines()]
        assert {record["kind"] for record in records} >= set(wire.KINDS)
        assert {record["v"] for record in records} == {version}


@pytest.mark.parametrize("kind", wire.KINDS)
def test_every_field_that_the_schema_knows_is_in_a_body(kind):
    """So that none can be renamed or dropped unnoticed. A field that is added gets a body of its own."""
    struct = STRUCTS[kind]
    assert set().union(*(record for record in EVERY_FIELD if record["kind"] == kind)) == fields(struct) | {"kind"}


def test_every_part_and_every_word_is_in_a_body():
    """Columns, sequences, events, outcomes, and who saw a request."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for record in EVERY_FIELD:
        by_kind.setdefault(record["kind"], []).append(record)
    (steps,), usage = by_kind["steps"], by_kind["usage"]
    assert set(steps["marks"]) == fields(schema.WireMarks) == set(wire.MARK_COLUMNS)
    assert set(usage[0]["sequences"][0]) == fields(schema.WireSequence)
    assert [record["event"] for record in by_kind["lifecycle"]] == [*wire.EVENTS, "stop"]
    assert {record["outcome"] for record in usage} == set(OUTCOMES)
    assert {record["seen_by"] for record in usage if "seen_by" in record} == set(schema.SEEN_BY)


def test_what_version_1_means_does_not_change():
    """The values of two records with every field, as they were understood when the version was written down."""
    records = {type(record): record for record in map(decode_line, map(msgspec.json.encode, reversed(EVERY_FIELD)))}
    batch, usage = records[StepBatch], records[Usage]
    assert isinstance(batch, StepBatch)
    assert (batch.engine_index, batch.until_ns, batch.open_ns) == (1, 10_000, 9_000)
    assert batch.marks.at_ns == (9_100, 9_105, 9_115)
    assert (batch.marks.running, batch.marks.prompt_cached) == ((2, -1, 1), (0, 32, 0))
    assert isinstance(usage, Usage)
    assert (usage.tenant, usage.tier, usage.outcome, usage.status) == ("acme", "interactive", "finished", 200)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.image_tokens, usage.output_tokens) == (96, 32, 16, 3)
    assert usage.sequences == (EngineSequence(5_100, 9_105, 9_115, 96, 32, 3, 100, 1),)


def test_the_least_that_version_1_asks_for_means_unknown_and_not_nothing():
    """What an old probe leaves out is not 0."""
    usage = decode_line((ROOT / "v1" / "required-fields.usage.jsonl").read_bytes())
    assert isinstance(usage, Usage)
    assert (usage.tenant, usage.model, usage.tier) == ("unknown", "unknown", "unknown")
    assert (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens, usage.first_ns) == (None,) * 4


def newer(record, **fields):
    """A record of a probe that knows more than this Farthing."""
    return {**record, "energy_source": "nvml", "thermals": {"rate": 0.5, "by": ["a", "b"]}, **fields}


def test_fields_of_a_newer_probe_are_ignored_and_not_stored():
    """Adding a field raises no version: the records count for what this Farthing knows of them."""
    known = [record for record in EVERY_FIELD if record["kind"] == "usage"]
    body = "".join(json.dumps(newer(record)) + "\n" for record in known).encode()
    said, stored = post(wire.USAGE_PATH, body)
    assert (said["accepted"], said["refused"]) == (len(known), [])
    assert b"thermals" not in b"".join(raw.line for raw in stored)
    assert [decode_line(raw.line) for raw in stored] == [decode_line(msgspec.json.encode(record)) for record in known]


@pytest.mark.parametrize(
    ("record", "field", "problem"),
    [
        (newer(EVERY_FIELD[0], kind="speculation"), "kind", "must be one of started"),
        (newer(EVERY_FIELD[-1], event="paused"), "event", "must be one of ready"),
        (newer(EVERY_FIELD[0], v=2), "v", "is 2, newer than the 1 that this Farthing reads; upgrade Farthing first"),
        (newer(EVERY_FIELD[0], v=2, kind="speculation"), "v", "is 2, newer"),
    ],
)
def test_what_a_newer_probe_says_beyond_this_schema_is_refused_by_name_and_not_waited_for(record, field, problem):
    """The batch around it survives, and its place in the sequence is known to be empty."""
    good = wire.lifecycle("every-field", 0, 900, at_ns=1, event="ready")
    body = "".join(json.dumps(one) + "\n" for one in (record, good)).encode()
    said, stored = post(wire.WINDOWS_PATH, body)
    assert said["accepted"] == 1
    assert said["refused"][0]["field"] == field
    assert said["refused"][0]["problem"].startswith(problem)
    assert [(raw.kind, raw.key.sequence) for raw in stored] == [("lifecycle", 900), ("refused", -1 - record["seq"])]
