"""Named checks that turn red when money or records went missing. Each compares two independent sources."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from farthing.domain import conventions as c
from farthing.domain.model import Check

__all__ = ["Evidence", "reconcile"]

UNATTRIBUTED_LIMIT = 0.02
"""Share of busy cost above which unattributed work means that something is broken."""
FIT_GAP_LIMIT = 1e-6
FIT_ERROR_LIMIT = 0.15
ABORTED_TOKENS_LIMIT = 0.01
"""Error of an aborted request's estimated output tokens, of all aborted output tokens."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the checks compare; counts of tokens and requests are of whole boots that are closed, or of none."""

    bill_nano: int
    """Allocation x price, computed without the windows."""
    lines_nano: tuple[int, ...]
    """Every line of the books and of work in progress."""
    busy_nano: int
    unattributed_nano: int
    fit_gap: float | None = None
    fit_error: float | None = None
    lost: int = 0
    """Records that never arrived, came after their boot was closed, or are of a rank that it did not announce."""
    one_sided: int = 0
    """Finished requests that only the engine or only the HTTP side saw."""
    records: dict[str, int] | None = None
    """Of usage records: sequences (with a first token), prompt_computed, output, aborted_output, unknown_prompts."""
    marks: dict[str, int] | None = None
    """Of step marks: prompt_computed, engine_output."""
    counters: dict[str, int] | None = None
    """Of the engine's own exposition: first_tokens, prompt_computed, engine_output; those it gives."""


def reconcile(evidence: Evidence) -> tuple[Check, ...]:
    """Every check that the evidence allows, in the order of ``conventions.CHECKS``."""
    e = evidence
    total = sum(e.lines_nano)
    checks = [
        Check(c.CHECK_ARRIVED, e.lost == 0, f"{e.lost} records never arrived, or too late to be costed"),
        Check(c.CHECK_RESIDUAL, e.bill_nano == total, f"bill {e.bill_nano} - lines {total} = {e.bill_nano - total}"),
        Check(c.CHECK_NOT_NEGATIVE, min(e.lines_nano, default=0) >= 0, f"smallest line {min(e.lines_nano, default=0)}"),
    ]
    share = e.unattributed_nano / e.busy_nano if e.busy_nano else 0.0
    detail = f"{share:.3%} of busy cost, at most {UNATTRIBUTED_LIMIT:.0%}"
    checks.append(Check(c.CHECK_UNATTRIBUTED, share <= UNATTRIBUTED_LIMIT, detail))
    if e.fit_gap is not None:
        detail = f"optimality gap {e.fit_gap:.1e}, at most {FIT_GAP_LIMIT:.0e}"
        checks.append(Check(c.CHECK_FIT, e.fit_gap <= FIT_GAP_LIMIT, detail))
    if e.fit_error is not None:
        detail = f"walk-forward error {e.fit_error:.1%}, at most {FIT_ERROR_LIMIT:.0%}"
        checks.append(Check(c.CHECK_FIT_ERROR, e.fit_error <= FIT_ERROR_LIMIT, detail))
    checks.append(Check(c.CHECK_ONE_SIDED, e.one_sided == 0, f"{e.one_sided} requests seen by one side only"))
    if e.records is not None and e.marks is not None:
        checks += _tokens(Counter(e.records), Counter(e.marks), e.counters or {})
    return tuple(checks)


def _tokens(records: Counter[str], marks: Counter[str], counters: dict[str, int]) -> list[Check]:
    checks = []
    if "first_tokens" in counters:
        seen, expected = records["sequences"], counters["first_tokens"]
        detail = f"{seen} sequences recorded, the engine started {expected}"
        checks.append(Check(c.CHECK_REQUESTS, seen == expected, detail))
    computed = counters.get("prompt_computed", marks["prompt_computed"])
    missing = computed - records["prompt_computed"]
    if records["unknown_prompts"]:
        # what nobody told is what aborted prompts are estimated from: it must be there, and not be more
        # than the longest known prompt for each of them
        limit = records["unknown_prompts"] * records["longest_prompt"]
        ok = marks["prompt_computed"] == computed and 0 <= missing <= limit
        detail = f"{missing} of {computed} tokens are of {records['unknown_prompts']} aborted prompts (at most {limit})"
    else:
        ok = marks["prompt_computed"] == computed and missing == 0
        detail = f"{missing} of {computed} computed prompt tokens have no record"
    checks.append(Check(c.CHECK_PROMPT, ok, detail))
    output = counters.get("engine_output", marks["engine_output"])
    missing = output - records["output"]
    limit = int(records["aborted_output"] * ABORTED_TOKENS_LIMIT)
    ok = marks["engine_output"] == output and abs(missing) <= limit
    checks.append(Check(c.CHECK_OUTPUT, ok, f"{missing} of {output} output tokens have no record (at most {limit})"))
    return checks
