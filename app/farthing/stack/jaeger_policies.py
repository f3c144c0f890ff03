"""The policies by which Jaeger's tail_sampling processor decides which traces are kept.

A trace is kept if any one policy samples it: makeDecision (processor/tailsamplingprocessor/processor.go of
opentelemetry-collector-contrib v0.154, which Jaeger 2.20 is built with) asks all of them, and of the policies that are
used here none drops or inverts, which alone would go before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from farthing.domain import conventions as names
from farthing.settings_sampling import SamplingSettings
from farthing.settings_slo import SloSettings

__all__ = ["HASH_SALT", "latency_bounds", "sampling_policies", "tail_sampling"]

HASH_SALT: Final = "farthing-traces"
"""Given, so that every replica of a collector chooses the same traces, and others than a sampler of other salt."""
GREATEST: Final = 2**53 - 1
"""The upper end that the numeric policy of older collectors needs: their default is 0, and they would sample nothing.
The greatest integer that survives a YAML parser which reads numbers as floats; 9 million dollars."""
CACHED_DECISIONS: Final = 10
"""Dropping decisions that are remembered for each trace that waits: the processor's README asks for an order of
magnitude. Of keeping ones it is as many as wait: with one trace in ten kept, both memories reach as far back."""


def latency_bounds(objectives: Iterable[SloSettings]) -> dict[str, float]:
    """Tier -> seconds within which its requests are promised to end: the tightest end-to-end objective of the tier.

    Objectives of one model or one tenant are left out, as their bound is not the tier's.
    """
    bounds: dict[str, float] = {}
    for slo in objectives:
        if slo.signal != names.SLO_E2E or slo.tier is None or slo.bound_seconds is None or slo.model or slo.tenant:
            continue
        bounds[slo.tier] = min(slo.bound_seconds, bounds.get(slo.tier, slo.bound_seconds))
    return bounds


def tail_sampling(settings: SamplingSettings, objectives: Iterable[SloSettings]) -> dict[str, Any]:
    """The processor's configuration (keys: processor/tailsamplingprocessor/config.schema.yaml)."""
    return {
        "decision_wait": f"{settings.decision_wait_seconds}s",
        "decision_wait_after_root_received": f"{settings.root_wait_seconds}s",
        "num_traces": settings.pending_traces,
        # spans that come after the decision follow it
        "decision_cache": {
            "sampled_cache_size": settings.pending_traces,
            "non_sampled_cache_size": CACHED_DECISIONS * settings.pending_traces,
        },
        "policies": sampling_policies(settings, latency_bounds(objectives)),
    }


def sampling_policies(settings: SamplingSettings, bounds: Mapping[str, float]) -> list[dict[str, Any]]:
    """One policy for each reason to keep a trace; ``bounds`` are seconds by tier.

    A latency policy compares the whole trace, from its earliest start to its latest end, which is never shorter than
    the request inside it. Seconds are rounded down to milliseconds, as the processor rounds durations down. What any
    trace may take is at least the longest bound, so that no tier's traces are called slow before they are.
    """
    longest = max(settings.slow_seconds, *bounds.values(), 0.0)
    policies: list[dict[str, Any]] = [
        {"name": "errors", "type": "status_code", "status_code": {"status_codes": ["ERROR"]}},
    ]
    if settings.keep_outcomes:
        policies.append(_string("outcomes", names.ATTRIBUTE_OUTCOME, settings.keep_outcomes))
    policies += [
        {
            "name": f"slow {tier}",
            "type": "and",
            "and": {"and_sub_policy": [_string("tier", names.ATTRIBUTE_TIER, (tier,)), _slower("slow", seconds)]},
        }
        for tier, seconds in sorted(bounds.items())
        if seconds < longest
    ]
    policies.append(_slower("slow", longest))
    if settings.costly_nano is not None:
        reach = {"key": names.ATTRIBUTE_ESTIMATE, "min_value": settings.costly_nano, "max_value": GREATEST}
        policies.append({"name": "costly", "type": "numeric_attribute", "numeric_attribute": reach})
    share = {"hash_salt": HASH_SALT, "sampling_percentage": float(settings.base_percent)}
    policies.append({"name": "base", "type": "probabilistic", "probabilistic": share})
    return policies


def _string(name: str, key: str, values: Iterable[str]) -> dict[str, Any]:
    return {"name": name, "type": "string_attribute", "string_attribute": {"key": key, "values": list(values)}}


def _slower(name: str, seconds: float) -> dict[str, Any]:
    """The processor samples at the threshold already; one of 0 would be every trace."""
    return {"name": name, "type": "latency", "latency": {"threshold_ms": max(1, int(seconds * 1000))}}
