"""Facts and policies that tests of statements are made from: of the recordings, and drawn at random."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from farthing.books.facts import Cost, PeriodFacts, Usage
from farthing.books.periods import bounds, period_of
from farthing.books.policy import Policy, parse_policy
from farthing.domain import conventions as c

PERIOD = "2026-11"
EARLIER = "2026-10"
TENANTS = ("acme", "globex", "initech", "unknown")
MODELS = ("llama-8b", "qwen-vl")
TIERS = ("batch", "interactive")

COUNTS = ("requests", "prompt_computed", "prompt_cached", "image_tokens", "output_tokens", "uncounted")

HEAD = "version: test\nfrom: 2026-01-01\n"
CARD = """
pricing: rate_card
rate_card:
  - model: llama-8b
    usd_per_million_prompt_tokens: 0.123456789
    usd_per_million_cached_prompt_tokens: 0.05
    usd_per_million_output_tokens: 0.6
    usd_per_million_image_tokens: 0.3
    usd_per_request: 0.000000001
"""
POOLS = """
pools:
  idle: {driver: busy}
  starting: {driver: tokens, exclude: [unknown]}
  asleep: {driver: requests}
  draining: {driver: reserved, reserved: {acme: 4, globex: 1.5}}
  down: {driver: fixed, fixed: {acme: 33.3, globex: 66.7}}
  unattributed: {driver: busy}
  host: {driver: tokens}
  unused_commitment:
    driver: reserved
    reserved:
      - weights: {acme: 1}
      - from: 2026-11-11
        weights: {acme: 1, initech: 2}
"""


def policy(text: str = "") -> Policy:
    """The policy of some more lines of its file."""
    return parse_policy(HEAD + text, "policy.yaml")


def cost(account: str = c.CHARGED, nano: int = 1, **rest: Any) -> Cost:
    """A cost of November's own."""
    names = {"phase": "", "tenant": "", "project": "", "model": "llama-8b", "tier": "", "reason": "", **rest}
    return Cost(account=account, nano=nano, **{"service_period": PERIOD, "method": c.METERED, **names})


def work(tenant: str, nano: int, phase: str = c.DECODE, **rest: Any) -> Cost:
    """A tenant's own work."""
    names = {"tier": "batch", "method": c.MODELLED, **rest}
    return cost(nano=nano, tenant=tenant, phase=phase, **names)


def used(tenant: str, output: int = 0, computed: int = 0, **rest: Any) -> Usage:
    """One request of a tenant that finished."""
    names = {
        "service_period": PERIOD,
        "project": "",
        "model": "llama-8b",
        "tier": "batch",
        "outcome": c.FINISHED,
        "requests": 1,
        "prompt_cached": 0,
        "image_tokens": 0,
        "uncounted": 0,
        **rest,
    }
    return Usage(tenant=tenant, prompt_computed=computed, output_tokens=output, **names)


def facts(costs: Any, usage: Any = (), *, opening: int = 0, closing: int = 0, **rest: Any) -> PeriodFacts:
    """November's facts with the bill that makes them add up."""
    start, end = bounds(PERIOD)
    bill = sum(one.nano for one in costs) - opening + closing
    return PeriodFacts(PERIOD, start, end, "USD", opening, bill, closing, tuple(costs), tuple(usage), **rest)


def of_recording(run: Any) -> PeriodFacts:
    """The facts of a recording that was costed: its own lines, requests and bill."""
    period = period_of(run.recording.start_ns)
    start, end = bounds(period)
    entry = run.entry
    nano: Counter[tuple[str, ...]] = Counter()
    for window in entry.windows:
        for posting in window.postings:
            nano[posting[:8]] += posting.nano
    for adjustment in entry.adjustments:
        for posting in adjustment.postings:
            nano[posting[:8]] += posting.nano
    counts: dict[tuple[str, ...], Counter[str]] = {}
    for row in entry.requests:
        key = (row.tenant, row.project, row.model, row.tier, row.outcome)
        found = counts.setdefault(key, Counter())
        found.update({name: getattr(row, name) or 0 for name in COUNTS[1:-1]})
        found["requests"] += 1
        found["uncounted"] += row.prompt_computed is None or row.output_tokens is None
    return PeriodFacts(
        period,
        start,
        end,
        "USD",
        0,
        run.bill_nano,
        sum(run.wip.values()),
        tuple(Cost._make((period, *key, amount, 0)) for key, amount in sorted(nano.items())),
        tuple(Usage._make((period, *key, *(counts[key][name] for name in COUNTS), 0)) for key in sorted(counts)),
    )


# ---- at random ---------------------------------------------------------------------------------------

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For tests on whole periods: a busy machine is no failure."""

_NANO = st.integers(0, 10**12) | st.integers(0, 9)
_WHO = {
    "tenant": st.sampled_from(TENANTS),
    "project": st.sampled_from(["", "chat"]),
    "model": st.sampled_from(MODELS),
    "tier": st.sampled_from(TIERS),
    "service_period": st.sampled_from([PERIOD, PERIOD, EARLIER]),
}
_OWN = st.builds(
    Cost,
    account=st.sampled_from([c.CHARGED, c.CHARGED, c.ABORTED]),
    phase=st.sampled_from(c.PHASES),
    reason=st.sampled_from(["", "", c.REASON_PREEMPTION]),
    method=st.sampled_from(c.METHODS),
    nano=_NANO,
    millijoules=st.just(0),
    **_WHO,
)
_REASONS = {
    c.UNATTRIBUTED: c.REASONS,
    c.SHARED: (c.POOL_HOST, "gateway"),
    c.UNALLOCATED: (c.POOL_UNASSIGNED, c.POOL_UNSOLD_SLICE),
    c.UNUSED_COMMITMENT: (c.POOL_UNASSIGNED,),
    c.DOWN: ("", c.REASON_NO_BOOT),
}
_POOLED = st.builds(
    lambda account, which, period, nano, model: cost(
        account,
        nano,
        reason=_REASONS.get(account, ("",))[which % len(_REASONS.get(account, ("",)))],
        model=model,
        service_period=period,
    ),
    st.sampled_from([name for name in c.BOOK_ACCOUNTS if name not in {c.CHARGED, c.ABORTED}]),
    st.integers(0, 2),
    _WHO["service_period"],
    # late records take money out of what was unattributed in a closed period
    _NANO | st.integers(-(10**9), 0),
    st.sampled_from(MODELS),
)
_COUNT = st.just(0) | st.integers(0, 10**7)
_USED = st.builds(
    Usage,
    outcome=st.sampled_from(c.OUTCOMES),
    requests=st.integers(1, 1000),
    prompt_computed=_COUNT,
    prompt_cached=_COUNT,
    image_tokens=_COUNT,
    output_tokens=_COUNT,
    uncounted=st.sampled_from([0, 0, 1]),
    saved_nano=st.just(0),
    **_WHO,
)


@st.composite
def random_facts(draw: Any) -> PeriodFacts:
    """Facts of any mix of tenants, periods, accounts and gaps in what was counted."""
    costs = draw(st.lists(_OWN, max_size=25)) + draw(st.lists(_POOLED, max_size=12))
    return facts(
        costs,
        draw(st.lists(_USED, max_size=20)),
        opening=draw(_NANO),
        closing=draw(_NANO),
        unpriced=draw(st.sampled_from([(), ("engine-7",)])),
    )


PRICINGS = ("actual", "period_average", "rate_card")


def random_policies() -> Any:
    """Every pricing, with and without pools, aborted work with either."""
    return st.builds(
        lambda pricing, pools, aborted: policy(
            (CARD if pricing == "rate_card" else f"pricing: {pricing}\n")
            + ("" if aborted is None else f"responsibility: {{aborted: {aborted}}}\n")
            + (POOLS if pools else "")
        ),
        st.sampled_from(PRICINGS),
        st.booleans(),
        st.sampled_from([None, "platform"]),
    )
