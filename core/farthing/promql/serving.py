"""Questions about service: what part of requests went wrong, what part of a cache's questions it answered."""

from __future__ import annotations

from collections.abc import Sequence

from farthing.domain import conventions as names
from farthing.promql.scope import Scope, by

__all__ = ["cache_hit_ratio", "ended_in", "engine_share", "mean_rate", "outcome_share"]


def ended_in(scope: Scope, over: str, outcomes: Sequence[str] = (), group: Sequence[str] = (names.LABEL_MODEL,)) -> str:
    """Requests that ended within ``over`` in one of these ways, or in any, as the probe saw them at the edge."""
    chosen = (f'{names.LABEL_OUTCOME}=~"{"|".join(outcomes)}"',) if outcomes else ()
    return f"sum{by(group)}({scope.over('increase', over, names.METRIC_REQUESTS, *chosen)})"


def outcome_share(scope: Scope, over: str, outcomes: Sequence[str], group: Sequence[str] = (names.LABEL_MODEL,)) -> str:
    """Part (0-1) of the requests that ended within ``over`` in one of these ways."""
    return f"{ended_in(scope, over, outcomes, group)}\n/\n{ended_in(scope, over, (), group)}"


def engine_share(scope: Scope, over: str, record: str, group: Sequence[str] = (names.LABEL_MODEL,)) -> str:
    """Part (0-1) that ``record`` (requests failed, or rejected, per second) has in it and the finished requests.

    Where nothing finishes at all, everything went wrong: a missing series of finished requests counts as none, and
    without one of ``record`` there is no answer.
    """
    wrong = mean_rate(scope, over, record, group)
    done = mean_rate(scope, over, names.REC_REQUEST_RATE, group)
    return f"{wrong}\n/\n({wrong} + ({done} or {wrong} * 0))"


def mean_rate(scope: Scope, over: str, record: str, group: Sequence[str] = (names.LABEL_MODEL,)) -> str:
    """Mean of a recorded rate over ``over``, instances added up."""
    return f"sum{by(group)}({scope.over('avg_over_time', over, record)})"


def cache_hit_ratio(
    scope: Scope, over: str, hits: str, queries: str, group: Sequence[str] = (names.LABEL_MODEL,)
) -> str:
    """Part (0-1) of what a cache was asked for within ``over`` that it had, by recorded rates."""
    return f"{mean_rate(scope, over, hits, group)} / {mean_rate(scope, over, queries, group)}"
