"""What a service level counts: the rates of its good requests and of all of them, per model.

Requests that were refused for want of room, failed, or were given up before their first token have no latency, so no
histogram holds them, and under overload what is left looks better and better. They are counted by outcome and belong to
all requests. Requests that were wrong in themselves (4xx but 429) say nothing about the service and to neither.
"""

from __future__ import annotations

from typing import Final

from farthing.domain import conventions as names
from farthing.settings_slo import SloSettings

__all__ = ["RANGE", "all_requests", "good_requests"]

RANGE: Final = "5m"
"""Of the rates that every longer window adds up; the records' names say so too."""

_HISTOGRAMS: Final = {
    names.SLO_TTFT: names.METRIC_TTFT,
    names.SLO_E2E: names.METRIC_E2E,
    names.SLO_ITL: names.METRIC_TPOT,
    names.SLO_QUEUE: names.METRIC_QUEUE,
}
_ENGINE_BUCKETS: Final = {
    names.SLO_TTFT: names.REC_TTFT_BUCKET,
    names.SLO_E2E: names.REC_E2E_BUCKET,
    # of requests, as Farthing's own: in the inter-token histogram, which counts tokens, long answers would weigh more
    names.SLO_ITL: names.REC_TPOT_BUCKET,
    names.SLO_QUEUE: names.REC_QUEUE_BUCKET,
}
_SERVED: Final = (names.FINISHED, names.ABORTED)
"""Who hangs up while reading was served."""


def good_requests(slo: SloSettings) -> str:
    """PromQL of good requests per second by model; nothing where no bucket has the bound."""
    if slo.source == "engine":
        within = _selector(_ENGINE_BUCKETS[slo.signal], _model(slo), le_of(slo))
        return _by_model(f"avg_over_time({within}[{RANGE}])") + _UNPROBED
    if slo.tenant is not None:
        good = _selector(names.METRIC_SLO_REQUESTS, _is(names.LABEL_SLO, slo.name), _is(names.LABEL_RESULT, names.GOOD))
        return _by_model(_rate(good))
    if slo.signal == names.SLO_AVAILABILITY:
        return _by_model(_rate(_selector(names.METRIC_REQUESTS, *_scope(slo), _any(names.LABEL_OUTCOME, _SERVED))))
    return _by_model(_rate(_selector(f"{_HISTOGRAMS[slo.signal]}_bucket", *_scope(slo), le_of(slo))))


def all_requests(slo: SloSettings) -> str:
    """PromQL of all requests per second by model, those without a latency too.

    ``or`` between rates adds series of other labels; it replaces nothing, and what is absent stays absent.
    """
    if slo.source == "engine":
        return _all_of_engine(slo)
    if slo.tenant is not None:
        return _by_model(_rate(_selector(names.METRIC_SLO_REQUESTS, _is(names.LABEL_SLO, slo.name))))
    unserved = names.UNSERVED[slo.signal]
    if slo.signal == names.SLO_AVAILABILITY:
        every = _any(names.LABEL_OUTCOME, (*_SERVED, *unserved))
        return _by_model(_rate(_selector(names.METRIC_REQUESTS, *_scope(slo), every)))
    measured = _rate(_selector(f"{_HISTOGRAMS[slo.signal]}_count", *_scope(slo)))
    lost = _rate(_selector(names.METRIC_REQUESTS, *_scope(slo), _any(names.LABEL_OUTCOME, unserved)))
    return _by_model(f"{measured} or {lost}")


def le_of(slo: SloSettings) -> str:
    """The matcher of the SLO's bucket.

    Farthing writes bounds as prometheus_client does (``5.0``). Engines that are not written in Python may write ``5``.
    """
    bound = repr(slo.bound_seconds)
    if slo.source != "engine":
        return _is(names.LABEL_LE, bound)
    whole, _, fraction = bound.partition(".")
    pattern = f"{whole}(\\\\.0)?" if fraction == "0" else f"{whole}\\\\.{fraction}"
    return f'{names.LABEL_LE}=~"{pattern}"'


def _all_of_engine(slo: SloSettings) -> str:
    """What the engine measured, and what it failed or refused, as far as it counts that: not every kind does."""
    measured = _selector(_ENGINE_BUCKETS[slo.signal], _model(slo), _is(names.LABEL_LE, "+Inf"))
    failed = _selector(names.REC_FAILED_RATE, _model(slo))
    rejected = _selector(names.REC_REJECTED_RATE, _model(slo))
    told_apart = f'"{names.LABEL_OUTCOME}", "{names.REJECTED}", "{names.LABEL_MODEL}", ".*"'
    return (
        _by_model(
            f"avg_over_time({measured}[{RANGE}]) or avg_over_time({failed}[{RANGE}]) or "
            f"label_replace(avg_over_time({rejected}[{RANGE}]), {told_apart})"
        )
        + _UNPROBED
    )


_UNPROBED: Final = f" unless on ({names.LABEL_MODEL}) {names.METRIC_REQUESTS}"
"""Where a probe reports on the model, its requests are counted themselves."""


def _scope(slo: SloSettings) -> tuple[str, ...]:
    return (_model(slo), _is(names.LABEL_TIER, slo.tier) if slo.tier is not None else "")


def _model(slo: SloSettings) -> str:
    return _is(names.LABEL_MODEL, slo.model) if slo.model is not None else ""


def _is(label: str, value: str) -> str:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{label}="{quoted}"'


def _any(label: str, values: tuple[str, ...]) -> str:
    return f'{label}=~"{"|".join(values)}"'


def _selector(metric: str, *matchers: str) -> str:
    inside = ",".join(matcher for matcher in matchers if matcher)
    return f"{metric}{{{inside}}}" if inside else metric


def _rate(selector: str) -> str:
    return f"rate({selector}[{RANGE}])"


def _by_model(expr: str) -> str:
    return f"sum by ({names.LABEL_MODEL}) ({expr})"
