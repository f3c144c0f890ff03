"""What the dashboard of latency asks: engines' own stages by model and instance, Farthing's histograms by tier.

A mean is a rate of seconds over a rate of requests, added up before it is divided: busy instances weigh more.
"""

from __future__ import annotations

from collections.abc import Sequence

from farthing.dashboards.engine_queries import BY_ENGINE, number
from farthing.dashboards.queries import signal
from farthing.dashboards.scopes import INTERVAL, REQUESTS
from farthing.domain import conventions as names
from farthing.promql.scope import by

__all__ = [
    "BY_MODEL",
    "interference",
    "mean",
    "mean_first_token",
    "mean_rest",
    "own_buckets",
    "own_quantile",
    "preemptions",
    "time_per_token",
    "worst",
]

BY_MODEL = (names.LABEL_MODEL,)


def mean(record: str, group: Sequence[str] = ()) -> str:
    """Mean seconds that a finished request spent in a stage."""
    return f"{number(record, group=group)} / ({number(names.REC_TIMED_RATE, group=group)} > 0)"


def mean_first_token(group: Sequence[str] = ()) -> str:
    """Mean seconds from arrival to the first token."""
    return f"{number(names.REC_TTFT_TIME, group=group)} / ({number(names.REC_FIRST_TOKEN_RATE, group=group)} > 0)"


def mean_rest(group: Sequence[str] = ()) -> str:
    """Mean seconds of a request that are in no stage of the engine's: reading the prompt, writing the answer out."""
    stages = (names.REC_QUEUE_TIME, names.REC_PREFILL_TIME, names.REC_DECODE_TIME)
    rest = " - ".join(number(record, group=group) for record in (names.REC_E2E_TIME, *stages))
    # Of four sums taken one after the other a difference just below 0 is no time.
    return f"clamp_min(({rest}) / ({number(names.REC_TIMED_RATE, group=group)} > 0), 0)"


def time_per_token(group: Sequence[str] = ()) -> str:
    """Seconds of decoding per token that was generated, of all requests together."""
    return f"{number(names.REC_DECODE_TIME, group=group)} / ({number(names.REC_GENERATION_RATE, group=group)} > 0)"


def worst(record: str) -> str:
    """The recorded quantile of the model that has the largest."""
    return signal(record, "max")


def interference() -> str:
    """How many times as long as usual the slowest tokens take: 95th percentile by median, by model."""
    return f"{signal(names.REC_ITL_P95, 'max', BY_MODEL)} / ({signal(names.REC_ITL_P50, 'max', BY_MODEL)} > 0)"


def preemptions(group: Sequence[str] = BY_ENGINE) -> str:
    """Requests per minute that were thrown out of the KV cache, to be computed again."""
    return f"{number(names.REC_PREEMPTION_RATE, group=group)} * 60"


def own_buckets(metric: str, group: Sequence[str] = (names.LABEL_LE,)) -> str:
    """Requests per second by bucket of one of Farthing's own histograms, which keep a trace of each bucket."""
    return f"sum{by(group)}({REQUESTS.over('rate', INTERVAL, f'{metric}_bucket')})"


def own_quantile(quantile: float, metric: str, group: Sequence[str] = (names.LABEL_TIER,)) -> str:
    """A quantile of one of Farthing's own histograms."""
    return f"histogram_quantile({quantile:g}, {own_buckets(metric, (*group, names.LABEL_LE))})"
