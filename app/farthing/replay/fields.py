"""What each line of a recording holds: the fields that are read, with their types (docs/replay.md lists them)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["DEVICE", "GPU_SAMPLE", "RECORD", "REQUEST", "SCRAPE", "STEP", "LineType", "wrong_field"]

Count = Annotated[int, Meta(ge=0)]


class LineType(msgspec.Struct, frozen=True, kw_only=True):
    """A line; fields that it does not name are ignored."""


class _Finished(LineType, frozen=True):
    request_id: str
    num_prompt_tokens: Count
    num_generation_tokens: Count
    queued_time: float
    inference_time: float
    decode_time: float
    num_cached_tokens: Count = 0
    num_preemptions: Count = 0


class _Step(LineType, frozen=True):
    t: float
    m: float
    run: Count
    wait: Count
    d: tuple[Count, Count, Count, Count, Count, float, Count, Count] | None = None
    g: Count = 0
    p: tuple[Count, Count, Count, Count] = (0, 0, 0, 0)
    pre: Count = 0
    fin: tuple[_Finished, ...] = ()


class _Modalities(LineType, frozen=True):
    image: Count | None = None


class _PromptDetails(LineType, frozen=True):
    cached_tokens: Count | None = None
    multimodal_tokens: _Modalities | None = None


class _TokenUsage(LineType, frozen=True):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Request(LineType, frozen=True):
    id: str | int
    tenant: str | int
    t0: float
    end: float
    first: float | None = None
    last: float | None = None
    phase: str = ""
    chunks: Count = 0
    usage: _TokenUsage | None = None
    err: str | None = None


class _Scrape(LineType, frozen=True):
    t: float
    body: str


class _Device(LineType, frozen=True):
    name: str = ""


class _GpuSample(LineType, frozen=True):
    t: float
    e_mj: Count
    p_mw: Count
    mem: Count
    gpu: Count = 0


class _Record(LineType, frozen=True):
    kind: str
    boot: str
    proc: Count
    seq: Count


STEP: msgspec.json.Decoder[_Step] = msgspec.json.Decoder(_Step)
REQUEST: msgspec.json.Decoder[_Request] = msgspec.json.Decoder(_Request)
SCRAPE: msgspec.json.Decoder[_Scrape] = msgspec.json.Decoder(_Scrape)
DEVICE: msgspec.json.Decoder[_Device] = msgspec.json.Decoder(_Device)
GPU_SAMPLE: msgspec.json.Decoder[_GpuSample] = msgspec.json.Decoder(_GpuSample)
RECORD: msgspec.json.Decoder[_Record] = msgspec.json.Decoder(_Record)
"""A record of the wire; farthing.collectors.wire knows the rest of it."""


def wrong_field(error: msgspec.ValidationError) -> str:
    """What is wrong with a line, in words that name the field."""
    problem, _, path = str(error).partition(" - at `$")
    problem = problem.replace("`", "")
    field = path.removesuffix("`").removeprefix(".")
    missing = problem.removeprefix("Object missing required field ")
    if missing != problem:
        field = f"{field}.{missing}" if field else missing
        return f"the field {field!r} is missing"
    if not field:
        return "a line must be a JSON object"
    return f"the field {field!r}: {problem[:1].lower()}{problem[1:]}"
