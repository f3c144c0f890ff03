"""What the tail_sampling processor does with its policies, for whole traces.

Written after processor/tailsamplingprocessor of opentelemetry-collector-contrib, which Jaeger is built with:
makeDecision in processor.go, and of internal/sampling status_code.go, string_tag_filter.go, numeric_tag_filter.go,
latency.go, and.go, drop.go and probabilistic.go. A policy of another type, or with a key that is not evaluated here,
is refused, so that none is passed over.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

__all__ = ["Span", "Trace", "fnv_1a", "is_kept", "sampled_by"]

MILLISECOND = 1_000_000
MAX_UINT64 = 2**64 - 1
DEFAULT_SALT = "default-hash-seed"


@dataclass(frozen=True, slots=True)
class Span:
    """As much of a span as policies look at; times in nanoseconds, the status UNSET, OK or ERROR."""

    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    status: str = "UNSET"
    resource: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trace:
    """All spans of one trace that had come when it was decided on."""

    trace_id: bytes
    spans: Sequence[Span]


def is_kept(trace: Trace, policies: Sequence[Mapping[str, Any]]) -> bool:
    """The decision about a trace (makeDecision): a drop goes before all; otherwise one policy that samples is enough.

    Nothing is inverted here, which is why those cases of the source are left out: such a policy is refused.
    """
    decided = sampled_by(trace, policies)
    dropping = {policy["name"] for policy in policies if policy["type"] == "drop"}
    return not decided & dropping and bool(decided)


def sampled_by(trace: Trace, policies: Iterable[Mapping[str, Any]]) -> set[str]:
    """Names of the policies that hold for a trace; of a drop policy, that it drops it."""
    return {policy["name"] for policy in policies if _holds(policy, trace)}


def fnv_1a(data: bytes) -> int:
    """64-bit FNV-1a, as Go's hash/fnv (http://www.isthe.com/chongo/tech/comp/fnv/)."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & MAX_UINT64
    return value


def _holds(policy: Mapping[str, Any], trace: Trace) -> bool:
    kind = policy["type"]
    if kind not in _EVALUATORS or set(policy) - {"name", "type", kind}:
        raise ValueError(f"policy {policy!r} is not evaluated here")
    return _EVALUATORS[kind](policy[kind], trace)


def _only(config: Mapping[str, Any], *known: str) -> None:
    if set(config) - set(known):
        raise ValueError(f"{sorted(set(config) - set(known))} are not evaluated here")


def _status_code(config: Mapping[str, Any], trace: Trace) -> bool:
    """hasSpanWithCondition: one span with such a status."""
    _only(config, "status_codes")
    return any(span.status in config["status_codes"] for span in trace.spans)


def _string_attribute(config: Mapping[str, Any], trace: Trace) -> bool:
    """hasResourceOrSpanWithCondition, matched exactly; Str() of what is no string is empty, and matches nothing."""
    _only(config, "key", "values")
    wanted = {value for value in config["values"] if value}
    found = (source.get(config["key"]) for span in trace.spans for source in (span.resource, span.attributes))
    return any(isinstance(value, str) and value in wanted for value in found)


def _numeric_attribute(config: Mapping[str, Any], trace: Trace) -> bool:
    """Within both ends; Int() of what is no integer is 0, and an upper end that is missing is 0 in older releases."""
    _only(config, "key", "min_value", "max_value")
    least, most = int(config["min_value"]), int(config.get("max_value", 0))
    found = (source.get(config["key"]) for span in trace.spans for source in (span.resource, span.attributes))
    numbers = (value if type(value) is int else 0 for value in found if value is not None)
    return any(least <= value <= most for value in numbers)


def _latency(config: Mapping[str, Any], trace: Trace) -> bool:
    """From the earliest start to the latest end, in whole milliseconds, rounded down; at the threshold already."""
    _only(config, "threshold_ms")
    took = max(span.end_ns for span in trace.spans) - min(span.start_ns for span in trace.spans)
    return took // MILLISECOND >= int(config["threshold_ms"])


def _and(config: Mapping[str, Any], trace: Trace) -> bool:
    _only(config, "and_sub_policy")
    return all(_holds(policy, trace) for policy in config["and_sub_policy"])


def _drop(config: Mapping[str, Any], trace: Trace) -> bool:
    _only(config, "drop_sub_policy")
    return all(_holds(policy, trace) for policy in config["drop_sub_policy"])


def _probabilistic(config: Mapping[str, Any], trace: Trace) -> bool:
    """FNV-1a of salt and trace id, up to the same share of all 64-bit integers (calculateThreshold)."""
    _only(config, "hash_salt", "sampling_percentage")
    threshold = int(MAX_UINT64 * Fraction(config["sampling_percentage"] / 100))
    salt = config.get("hash_salt") or DEFAULT_SALT
    return fnv_1a(salt.encode() + trace.trace_id) <= threshold


_EVALUATORS: Mapping[str, Callable[[Mapping[str, Any], Trace], bool]] = {
    "status_code": _status_code,
    "string_attribute": _string_attribute,
    "numeric_attribute": _numeric_attribute,
    "latency": _latency,
    "and": _and,
    "drop": _drop,
    "probabilistic": _probabilistic,
}
