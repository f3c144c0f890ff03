"""What an audit record says: who, which model, when, how much, at what cost, with what outcome. Never content.

Every field is named here; nothing else of a request can get into a trail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from farthing.domain.clock import SECOND, utc
from farthing.domain.conventions import PHASES

__all__ = ["DAY_BEGINS", "REQUEST", "AuditedRequest", "event", "request", "stamp", "stamped_ns"]

REQUEST, DAY_BEGINS = "request", "day"
_PSEUDONYM = re.compile(r"[0-9a-f]{16}")
_KEY_TENANT = re.compile(r"key-[0-9a-f]{16}")
HIDDEN = "hidden"
"""Stands for a user who is named by something else than the probe's pseudonym."""


@dataclass(frozen=True, slots=True)
class AuditedRequest:
    """A request whose cost is settled. Tokens are None when nobody told; times are UTC nanoseconds."""

    boot: str
    process: int
    sequence: int
    engine: str
    request_id: str
    trace_id: str
    ended_ns: int
    tenant: str
    project: str
    workload: str
    tier: str
    user: str | None
    """As the probe's record has it; None: the record is gone."""
    key: str
    """The pseudonym of the API key, where the probe's record has one."""
    model: str
    outcome: str
    status: int
    prompt_computed: int | None
    prompt_cached: int | None
    image_tokens: int | None
    output_tokens: int | None
    cost_nano: tuple[int, ...]
    """Of each phase, in the order of ``conventions.PHASES``."""
    methods: tuple[str, ...]
    """How its amounts were obtained, as the journal has it."""


def stamp(ns: int) -> str:
    """A time in nanoseconds since the epoch as RFC 3339 in UTC, to the nanosecond."""
    return f"{utc(ns):%Y-%m-%dT%H:%M:%S}.{ns % SECOND:09d}Z"


def stamped_ns(stamped: str) -> int:
    """A time of ``stamp`` in nanoseconds since the epoch, to the second; 0 where it is none."""
    try:
        return int(datetime.fromisoformat(f"{stamped[:19]}+00:00").timestamp()) * SECOND
    except ValueError:
        return 0


def request(one: AuditedRequest, at_ns: int, currency: str, corrects: int | None = None) -> dict[str, Any]:
    """The record of a request, written at a UTC time; ``corrects`` is the first record of the same request.

    Prompt tokens are None unless both of their parts are known. A user who is not a pseudonym of the probe's is
    withheld: a trail cannot be changed, so no name may get into it.
    """
    known = one.prompt_computed is not None and one.prompt_cached is not None
    prompt = (one.prompt_computed or 0) + (one.prompt_cached or 0) if known else None
    content: dict[str, Any] = {
        "kind": REQUEST,
        "at": stamp(at_ns),
        "boot": one.boot,
        "process": one.process,
        "sequence": one.sequence,
        "engine": one.engine,
        "request_id": one.request_id,
        "trace_id": one.trace_id,
        "ended": stamp(one.ended_ns),
        "tenant": one.tenant,
        "project": one.project,
        "workload": one.workload,
        "tier": one.tier,
        "user": one.user if not one.user or _PSEUDONYM.fullmatch(one.user) else HIDDEN,
        "key": one.key or (one.tenant.removeprefix("key-") if _KEY_TENANT.fullmatch(one.tenant) else None),
        "model": one.model,
        "outcome": one.outcome,
        "status": one.status,
        "prompt_tokens": prompt,
        "cached_tokens": one.prompt_cached,
        "image_tokens": one.image_tokens,
        "output_tokens": one.output_tokens,
        **{f"{phase}_nano": nano for phase, nano in zip(PHASES, one.cost_nano, strict=True)},
        "cost_nano": sum(one.cost_nano),
        "currency": currency,
        "methods": list(one.methods),
    }
    if corrects is not None:
        content["corrects"] = corrects
    return content


def event(kind: str, at_ns: int, **said: Any) -> dict[str, Any]:
    """The record of something that administrators do, or that the trail has to tell of itself."""
    return {"kind": kind, "at": stamp(at_ns), **said}
