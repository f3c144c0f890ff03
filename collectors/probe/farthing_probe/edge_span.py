"""The edge span of a request, from what its usage record says: pure, standard library only, and without any content.

Farthing's service makes the same span of the same record where the probe sends none itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farthing_probe import span_names as names
from farthing_probe.wire import MOST_ENTRIES

__all__ = ["Attribute", "EdgeSpan", "edge_span", "estimate_nano"]

Attribute = str | int | tuple[str, ...]
MOST_REASONS = 128
MILLION = 1_000_000
LARGEST = 2**62
"""Intake takes no larger integer."""


@dataclass(frozen=True)
class EdgeSpan:
    """Ids in hexadecimal, times in UTC nanoseconds; bounded, as the fields of a record are."""

    trace_id: str
    span_id: str
    parent_span_id: str
    """Empty at a root."""
    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Attribute]
    events: tuple[tuple[str, int], ...]
    """Names and moments."""
    failed: bool


def edge_span(usage: Mapping[str, Any], finish_reasons: Sequence[str], clock_ns: int) -> EdgeSpan:
    """The span of a record's fields, of which None and empty are unknown.

    ``finish_reasons`` are of all its sequences; ``clock_ns`` is what UTC is ahead of the boot's monotonic clock.
    """
    route, outcome = usage["route"], usage["outcome"]
    operation = names.SPAN_OPERATIONS.get(route) or route.rstrip("/").rpartition("/")[2] or "unknown"
    model = usage["model"] or "unknown"
    prompt, cached, output = _tokens(usage)
    attributes: dict[str, Attribute | None] = {
        names.ATTRIBUTE_OPERATION: operation,
        names.ATTRIBUTE_PROVIDER: names.SPAN_PROVIDER,
        names.ATTRIBUTE_MODEL: model,
        names.ATTRIBUTE_FINISH_REASONS: tuple(finish_reasons[:MOST_REASONS]),
        names.ATTRIBUTE_INPUT_TOKENS: prompt,
        names.ATTRIBUTE_OUTPUT_TOKENS: output,
        names.ATTRIBUTE_CACHED_TOKENS: cached,
        names.ATTRIBUTE_IMAGE_TOKENS: usage.get("image_tokens"),
        names.ATTRIBUTE_TENANT: usage.get("tenant") or "unknown",
        names.ATTRIBUTE_PROJECT: usage.get("project"),
        names.ATTRIBUTE_TIER: usage.get("tier") or "unknown",
        names.ATTRIBUTE_OUTCOME: outcome,
        names.ATTRIBUTE_REQUEST_ID: usage["request_id"],
        names.ATTRIBUTE_ESTIMATE: usage.get("estimate_nano"),
        names.ATTRIBUTE_ROUTE: route,
        names.ATTRIBUTE_STATUS: usage["status"] or None,
    }
    events = []
    if usage["first_ns"] is not None and outcome != "rejected":
        events.append((names.SPAN_FIRST_TOKEN, usage["first_ns"] + clock_ns))
    if outcome == "aborted":
        events.append((names.SPAN_ABORTED, usage["ended_ns"] + clock_ns))
    return EdgeSpan(
        trace_id=usage["trace_id"],
        span_id=usage["span_id"],
        parent_span_id=usage["parent_span_id"],
        name=f"{operation} {model}",
        start_ns=usage["arrived_ns"] + clock_ns,
        end_ns=usage["ended_ns"] + clock_ns,
        attributes={name: value for name, value in attributes.items() if value is not None and value not in {"", ()}},
        events=tuple(events),
        failed=outcome == "failed",
    )


def _tokens(usage: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Prompt, cached and output tokens: as the client was told, else as the engine counted them.

    The engine counts a prompt for each of its choices (n > 1), the client once: cached is then what no choice computed.
    """
    prompt, cached, output = (usage[f"{kind}_tokens"] for kind in ("prompt", "cached", "output"))
    counted = usage["sequences"]
    if counted:
        whole, held = (sum(each[f"{kind}_tokens"] for each in counted) for kind in ("prompt", "cached"))
        prompt = whole if prompt is None else prompt
        cached = min(held, max(0, prompt - (whole - held))) if cached is None else cached
        output = sum(each["output_tokens"] for each in counted) if output is None else output
    if prompt is not None and cached is not None:
        cached = min(cached, prompt)
    return prompt, cached, usage["delivered_tokens"] if output is None else output


def estimate_nano(prices: Any, usage: Mapping[str, Any], steps: float | None = None) -> int | None:
    """What a record's work comes to at unit prices, in nano-dollars, rounded to the nearest.

    ``prices`` are one engine's as intake gives them, in nano-dollars per million units: of the cost model's work where
    they are known and so is ``steps``, what the request had of the engine's steps; else, and where an entry may be of
    several sequences, whose context is not that of one, by phase, per million tokens that the engine processed, so
    that the prompt counts without what came from the cache, once for each sequence. None where a count, or a price
    that is needed, is unknown: neither is 0.
    """
    if usage["image_tokens"] is None or not isinstance(prices, dict):
        return None
    phases = {phase: tokens for phase, tokens in _by_phase(usage).items() if tokens}
    if not phases.keys() - {"vision"}:
        return None
    total = None
    if steps is not None and 0 < len(usage["sequences"]) < MOST_ENTRIES:
        total = _priced(prices, _by_work(usage), {"steps": round(steps * MILLION)})
    if total is None:
        total = _priced(prices, phases)
    if total is None:
        return None
    nano = (total + MILLION**2 // 2) // MILLION**2
    return nano if nano <= LARGEST else None


def _by_phase(usage: Mapping[str, Any]) -> dict[str, int]:
    """Tokens of each phase; empty where a count is unknown."""
    counted = usage["sequences"]
    if counted:
        computed = sum(each["prompt_tokens"] - each["cached_tokens"] for each in counted)
        output = sum(each["output_tokens"] for each in counted)
    else:
        prompt, cached, output = usage["prompt_tokens"], usage["cached_tokens"], usage["output_tokens"]
        if prompt is None or cached is None or output is None:
            return {}
        computed = prompt - cached
    return {"prefill": computed, "decode": output, "vision": usage["image_tokens"]}


def _by_work(usage: Mapping[str, Any]) -> dict[str, int]:
    """The units of the cost model's work beside its steps (``farthing.costing.fit``): a first token comes with its
    prompt's last step.

    Whether an image was encoded, or was in a cache, and in whose company, nobody tells: its tokens count, launches do
    not.
    """
    work = dict.fromkeys(("prefill_tokens", "prefill_context", "decode_tokens", "attended_context"), 0)
    for each in usage["sequences"]:
        prompt, cached, later = each["prompt_tokens"], each["cached_tokens"], max(0, each["output_tokens"] - 1)
        computed = prompt - cached
        work["prefill_tokens"] += computed
        work["prefill_context"] += computed * (2 * cached + computed) // 2
        work["decode_tokens"] += later
        work["attended_context"] += later * (2 * prompt + later) // 2
    if usage["image_tokens"]:
        work["encoder_tokens"] = usage["image_tokens"]
    return work


def _priced(prices: Mapping[str, Any], units: Mapping[str, int], parts: Mapping[str, int] | None = None) -> int | None:
    """The sum of units, and of millionths of units, at their prices, in millionths of what a million units cost.

    None where one is no price. Integers, as fractions take longer than all the rest of a span.
    """
    total = 0
    for counts, scale in ((units, MILLION), (parts or {}, 1)):
        for name, count in counts.items():
            price = prices.get(name)
            if type(price) is not int or price < 0:
                return None
            total += scale * count * price
    return total
