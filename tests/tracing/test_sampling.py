"""The sampling policy as it is configured: what is remarkable is kept, and of the rest the share that was asked for.

The policies are read from the configuration that Jaeger is given; the traces are made up, with the spans that the
probe, vLLM and an application send. ``sampling_policies`` says what the processor makes of them.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tracing.sampling_policies import Span, Trace, fnv_1a, is_kept, sampled_by

from farthing.domain import conventions as names
from farthing.domain.errors import ConfigError
from farthing.settings import Settings, parse_settings
from farthing.settings_sampling import SamplingSettings
from farthing.settings_slo import DEFAULT_SLOS, SloSettings
from farthing.stack.compose_config import compose_configuration
from farthing.stack.jaeger_policies import latency_bounds, sampling_policies, tail_sampling
from farthing.stack.jaeger_variants import jaeger_files

TRACES = 10_000
SECOND = 1_000_000_000
START = 1_795_444_887 * SECOND
BOUNDS = {"interactive": 5.0, "documents": 10.0, "batch": 60.0}
"""Seconds, as docs/slo.md promises them by default."""
TIERS = (*BOUNDS, "experiments", None)
ABOVE_ALL = 60.0
DEAR = 50_000_000
"""Nano-dollars: 0.05 dollars."""
EDGE = {"service.name": names.SPAN_SERVICE, "service.instance.id": "engine-1"}
CERTAINTY = NormalDist().inv_cdf(1 - 1e-6)


def configured(text: str) -> dict[str, Any]:
    """The processor's part of a configuration."""
    part: dict[str, Any] = yaml.safe_load(text)["processors"]["tail_sampling"]
    return part


COMPOSE = configured(compose_configuration(Settings())[Path("jaeger/jaeger.yaml")])
POLICIES: list[dict[str, Any]] = COMPOSE["policies"]


@dataclass(frozen=True)
class Made:
    """A trace, and what is remarkable about it, said when it was made."""

    trace: Trace
    reasons: frozenset[str]


def made(
    trace_id: bytes,
    *,
    tier: str | None = "interactive",
    seconds: float = 1.0,
    outcome: str = names.FINISHED,
    estimate: int | None = 90_000,
    application: bool = False,
    application_fails: bool = False,
    extra_seconds: float = 0.0,
) -> Made:
    """One request: the edge span, the engine's below it, and maybe an application's above it, longer by a bit."""
    begin, end = START, START + round(seconds * SECOND)
    attributes: dict[str, Any] = {
        names.ATTRIBUTE_OPERATION: "chat",
        names.ATTRIBUTE_MODEL: "llama",
        names.ATTRIBUTE_OUTCOME: outcome,
        names.ATTRIBUTE_TENANT: "acme",
    }
    if tier is not None:
        attributes[names.ATTRIBUTE_TIER] = tier
    if estimate is not None:
        attributes[names.ATTRIBUTE_ESTIMATE] = estimate
    failed = outcome == names.FAILED
    spans = [Span(begin, end, attributes, "ERROR" if failed else "UNSET", EDGE)]
    if outcome != names.REJECTED:
        spans.append(
            Span(begin + 1_000_000, end, {"gen_ai.usage.prompt_tokens": 55}, resource={"service.name": "vllm"})
        )
    if application:
        status = "ERROR" if application_fails else "UNSET"
        outside = Span(
            begin - round(extra_seconds * SECOND), end, {"rag.stage": "answer"}, status, {"service.name": "app"}
        )
        # its own spans come first: they end first
        spans.insert(0, outside)
    reasons = {
        "error": failed or (application and application_fails),
        "abort": outcome == names.ABORTED,
        "slow": seconds > BOUNDS.get(tier or "", ABOVE_ALL),
        "costly": estimate is not None and estimate >= DEAR,
    }
    return Made(Trace(trace_id, spans), frozenset(reason for reason, is_so in reasons.items() if is_so))


def generated(count: int, seed: int = 10) -> list[Made]:
    """Traces as a day brings them: nine in ten unremarkable, the others so in one way or in several."""
    draw = random.Random(seed)  # noqa: S311 - the same traces every time
    outcomes = (names.FINISHED, names.ABORTED, names.FAILED, names.REJECTED)
    found = []
    for _ in range(count):
        tier = draw.choice(TIERS)
        bound = BOUNDS.get(tier or "", ABOVE_ALL)
        slow = draw.random() < 0.03
        found.append(
            made(
                draw.randbytes(16),
                tier=tier,
                # within the bound by any margin, or beyond it by as little as a nanosecond's rounding and as much
                seconds=bound * (1 + draw.choice((1e-6, 1e-3, draw.random() * 9)))
                if slow
                else bound * draw.random() * 0.9,
                outcome=draw.choices(outcomes, (94, 2, 2, 2))[0],
                estimate=draw.choice((DEAR, DEAR + 1, DEAR * draw.randrange(1, 50)))
                if draw.random() < 0.02
                else draw.choice((None, DEAR - 1, draw.randrange(0, DEAR))),
                application=draw.random() < 0.3,
                application_fails=draw.random() < 0.03,
                extra_seconds=draw.random() * 0.05 * bound,
            )
        )
    return found


EVERY = generated(TRACES)
FEW = EVERY[:2_000]


def faults(policies: list[dict[str, Any]], traces: list[Made], percent: float = 5.0) -> list[str]:
    """What is wrong with what is kept: every lost trace that was remarkable, and a share of the rest that is no chance.

    The interval is that of a binomial distribution which holds but once in a million, by its normal approximation.
    """
    found = []
    rest = kept = 0
    for one in traces:
        keeps = is_kept(one.trace, policies)
        if one.reasons and not keeps:
            found.append(f"{one.trace.trace_id.hex()} lost: {', '.join(sorted(one.reasons))}")
        if not one.reasons:
            rest += 1
            kept += keeps
    share = percent / 100
    width = CERTAINTY * (rest * share * (1 - share)) ** 0.5
    if abs(kept - rest * share) > width:
        found.append(f"{kept} of {rest} unremarkable traces kept, not {rest * share:.0f} ± {width:.0f}")
    return found


def test_every_remarkable_trace_of_ten_thousand_is_kept_and_of_the_rest_the_base_rate():
    """Errors, aborts, what took longer than its tier's bound, and what was dear: all, whatever the hash says."""
    count = {reason: sum(reason in one.reasons for one in EVERY) for reason in ("error", "abort", "slow", "costly")}
    assert min(count.values()) > 100, count
    assert sum(not one.reasons for one in EVERY) > 8_000
    assert faults(POLICIES, EVERY) == []
    assert faults(POLICIES, FEW) == []


def test_every_variant_samples_by_the_same_policies():
    """ClickHouse's, and the ingesters', whose replicas would otherwise keep different traces."""
    variants = jaeger_files(Settings())
    for name in ("clickhouse", "ingester"):
        assert configured(variants[Path(f"deploy/jaeger/{name}.yaml")]) == COMPOSE
    assert "tail_sampling" not in variants[Path("deploy/jaeger/collector.yaml")]


def without(name: str) -> Callable[[list[dict[str, Any]]], None]:
    """A fault: one policy is gone."""

    def change(policies: list[dict[str, Any]]) -> None:
        policies[:] = [policy for policy in policies if policy["name"] != name]

    return change


def altered(name: str, *path: str | int, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    """A fault: one value of one policy is another."""

    def change(policies: list[dict[str, Any]]) -> None:
        place: Any
        (place,) = [policy for policy in policies if policy["name"] == name]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def with_drop(policies: list[dict[str, Any]]) -> None:
    """A fault: traces with an abort are dropped, whatever else would keep them."""
    aborted = {"key": names.ATTRIBUTE_OUTCOME, "values": [names.ABORTED]}
    sub = [{"name": "x", "type": "string_attribute", "string_attribute": aborted}]
    policies.append({"name": "drop", "type": "drop", "drop": {"drop_sub_policy": sub}})


SLOW = ("and", "and_sub_policy")
FAULTS = {
    **{f"without {policy['name']}": without(policy["name"]) for policy in POLICIES},
    "errors by another status": altered("errors", "status_code", "status_codes", value=["OK"]),
    "aborts by another key": altered("outcomes", "string_attribute", "key", value="farthing.result"),
    "aborts left out": altered("outcomes", "string_attribute", "values", value=[names.FAILED]),
    "a bound that is too long": altered("slow interactive", *SLOW, 1, "latency", "threshold_ms", value=5_100),
    "a tier that is misspelt": altered("slow documents", *SLOW, 0, "string_attribute", "values", value=["Batch"]),
    "a price that is too high": altered("costly", "numeric_attribute", "min_value", value=DEAR + 1),
    "no upper end, which is 0": altered("costly", "numeric_attribute", "max_value", value=0),
    "half the base rate": altered("base", "probabilistic", "sampling_percentage", value=2.5),
    "every trace": altered("base", "probabilistic", "sampling_percentage", value=100.0),
    "a drop, which goes before": with_drop,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_in_the_policies_is_found(fault):
    """Each policy is needed, and each of its values."""
    policies = copy.deepcopy(POLICIES)
    fault(policies)
    assert policies != POLICIES
    assert faults(policies, FEW) != []


def test_the_hash_is_the_processors():
    """Test vectors of FNV-1a, by its authors; and the salt, which goes first."""
    vectors = {b"": 0xCBF29CE484222325, b"a": 0xAF63DC4C8601EC8C, b"foobar": 0x85944171F73967E8}
    assert {data: fnv_1a(data) for data in vectors} == vectors
    (base,) = [policy for policy in POLICIES if policy["type"] == "probabilistic"]
    salt = base["probabilistic"]["hash_salt"].encode()
    for one in FEW[:100]:
        chosen = fnv_1a(salt + one.trace.trace_id) <= 0.05 * 2**64
        assert ("base" in sampled_by(one.trace, POLICIES)) is chosen


def test_a_policy_that_is_not_evaluated_here_is_refused():
    """Rather than passed over, which would make a green test of it."""
    trace = EVERY[0].trace
    for policy in (
        {"name": "x", "type": "rate_limiting", "rate_limiting": {"spans_per_second": 1}},
        {"name": "x", "type": "string_attribute", "string_attribute": {"key": "a", "values": [], "invert_match": True}},
    ):
        with pytest.raises(ValueError, match="not evaluated here"):
            is_kept(trace, [policy])


@given(
    tier=st.sampled_from(TIERS),
    seconds=st.floats(0.001, 900),
    outcome=st.sampled_from(names.OUTCOMES),
    estimate=st.none() | st.integers(0, 10**15),
    application=st.booleans(),
    application_fails=st.booleans(),
    trace_id=st.binary(min_size=16, max_size=16),
)
@settings(max_examples=150)
def test_without_a_base_rate_what_is_remarkable_is_kept_and_what_is_not_is_not(trace_id, **facts):
    """Whatever a request's facts are: but for what is within a millisecond of its bound, which may be kept too."""
    policies = sampling_policies(SamplingSettings(base_percent=Decimal(0)), BOUNDS)
    one = made(trace_id, **facts)
    bound = BOUNDS.get(facts["tier"] or "", ABOVE_ALL)
    is_close = bound <= facts["seconds"] + 0.001
    if one.reasons or not is_close:
        assert is_kept(one.trace, policies) is bool(one.reasons)


def test_a_lower_base_rate_keeps_a_part_of_what_a_higher_one_keeps():
    """One salt: who lowers the rate loses traces and gains none."""
    kept = {
        percent: {
            one.trace.trace_id
            for one in FEW
            if is_kept(one.trace, sampling_policies(SamplingSettings(base_percent=Decimal(percent)), BOUNDS))
        }
        for percent in (0, 1, 20, 100)
    }
    assert kept[0] < kept[1] < kept[20] < kept[100]
    assert len(kept[100]) == len(FEW)


def test_rejections_are_kept_where_the_settings_say_so():
    """By default there may be too many of them."""
    rejected = made(bytes(16), outcome=names.REJECTED, seconds=0.001, estimate=None)
    assert "outcomes" not in sampled_by(rejected.trace, POLICIES)
    chosen = SamplingSettings(keep_outcomes=("rejected",))
    assert "outcomes" in sampled_by(rejected.trace, sampling_policies(chosen, BOUNDS))


def test_what_is_not_wanted_has_no_policy():
    """Nothing is dear, no outcome is kept for its own sake, no tier is promised anything."""
    bare = sampling_policies(SamplingSettings(costly_usd=None, keep_outcomes=()), {})
    assert [policy["name"] for policy in bare] == ["errors", "slow", "base"]


def test_the_bound_of_a_tier_is_its_tightest_end_to_end_objective():
    """First tokens are no duration of a trace; a model's or a tenant's objective is not the tier's."""
    assert latency_bounds(DEFAULT_SLOS) == BOUNDS
    more = [
        SloSettings(name="a", tier="interactive", signal="e2e", bound_seconds=3.0),
        SloSettings(name="b", tier="interactive", model="llama", signal="e2e", bound_seconds=1.0),
        SloSettings(name="c", tier="interactive", tenant="acme", signal="e2e", bound_seconds=1.0),
        SloSettings(name="d", signal="e2e", bound_seconds=1.0),
    ]
    assert latency_bounds([*DEFAULT_SLOS, *more]) == {**BOUNDS, "interactive": 3.0}


def test_the_objectives_of_the_settings_are_the_bounds_of_the_policies():
    """In the configuration that is written for Jaeger."""
    slo = {"name": "chat-total", "tier": "interactive", "signal": "e2e", "bound_seconds": 2.5}
    chosen = Settings.model_validate({"slos": [slo], "traces": {"sampling": {"slow_seconds": 120}}})
    policies = configured(compose_configuration(chosen)[Path("jaeger/jaeger.yaml")])["policies"]
    slow = {policy["name"]: policy for policy in policies}
    assert slow["slow interactive"]["and"]["and_sub_policy"][1]["latency"] == {"threshold_ms": 2500}
    assert slow["slow"]["latency"] == {"threshold_ms": 120_000}


def test_late_spans_follow_the_decision_for_longer_than_traces_wait():
    """The README of the processor: caches of decisions, an order of magnitude above the traces in memory."""
    part = tail_sampling(SamplingSettings(pending_traces=1_000), DEFAULT_SLOS)
    assert part["num_traces"] == 1_000
    assert part["decision_cache"] == {"sampled_cache_size": 1_000, "non_sampled_cache_size": 10_000}
    assert (part["decision_wait"], part["decision_wait_after_root_received"]) == ("180s", "15s")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("base_percent: 101", "less than or equal to 100"),
        ("costly_usd: 0", "greater than 0"),
        ("costly_usd: '0.0000000001'", "finer than a nano-dollar"),
        ("root_wait_seconds: 300", "longer than decision_wait_seconds"),
        ("keep_outcomes: [late]", "finished"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_in_one_line(given, message):
    """With its place and what to do."""
    with pytest.raises(ConfigError, match=message) as caught:
        parse_settings(f"traces:\n  sampling:\n    {given}\n", "farthing.yaml")
    assert "\n" not in str(caught.value)
