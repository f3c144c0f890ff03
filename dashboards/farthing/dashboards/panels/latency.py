"""Panels about the stages of a request: queue, prefill, first token, between tokens, decode, the whole answer."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import latency_queries as asked
from farthing.dashboards import links, queries, theme
from farthing.dashboards.parts import Band, Link, Panel, Query
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = [
    "answer_by_tier",
    "answer_traces",
    "decode",
    "decode_spread",
    "e2e",
    "first_token",
    "first_token_by_tier",
    "first_token_traces",
    "inter_token",
    "inter_token_spread",
    "interference",
    "preemptions",
    "prefill",
    "prefill_spread",
    "queue",
    "queue_spread",
]

COARSE: Final = "vLLM's buckets of it begin at 0.3 s: below, only means tell."
_ENGINE: Final = links.to_dashboard(names.DASHBOARD_ENGINE, "What the engine does")
_SLO: Final = links.to_dashboard(names.DASHBOARD_SLO, "Which promise that breaks")
_TTFT_ALERT: Final = links.runbook("LLMTimeToFirstTokenHigh")
_ITL_ALERT: Final = links.runbook("LLMInterTokenLatencyHigh")
_E2E_ALERT: Final = links.runbook("LLMEndToEndLatencyHigh")


def queue() -> Panel:
    """Median and 95th percentile of the time in the queue."""
    return _quantiles(
        "Queue",
        "From arrival to a place in the batch. Both quantiles up: too few engines. p95 alone: bursts, or one instance "
        f"that the router overloads; see the slowest instances. {COARSE} The probe's begin at a millisecond.",
        (names.REC_QUEUE_P50, names.REC_QUEUE_P95),
        more=(Query(asked.own_quantile(0.95, names.METRIC_QUEUE, asked.BY_MODEL), "{{model}} p95, by the probe"),),
        link=links.runbook("LLMQueueBacklog"),
    )


def queue_spread() -> Panel:
    """How times in the queue spread."""
    return _spread("Queue, spread", names.REC_QUEUE_BUCKET, "Most in the lowest row is no queue. A second row: bursts.")


def prefill() -> Panel:
    """Median and 95th percentile of the time in prefill."""
    return _quantiles(
        "Prefill",
        "From the place in the batch to the first token. It grows with computed prompt tokens and with company. Up at "
        f"equal prompts: the prefix cache misses, or chunks wait for decoding. {COARSE}",
        (names.REC_PREFILL_P50, names.REC_PREFILL_P95),
        link=links.runbook("LLMPrefixCacheCollapsed"),
    )


def prefill_spread() -> Panel:
    """How times in prefill spread."""
    return _spread(
        "Prefill, spread",
        names.REC_PREFILL_BUCKET,
        "Two bands: prompts of two lengths, or hits and misses of the prefix cache.",
    )


def first_token(settings: Settings) -> Panel:
    """Median and 95th percentile of the time to the first token."""
    return _quantiles(
        "First token",
        "From arrival to the first token: queue and prefill, and the server around them; the dashed line is the "
        "promise. Compare with the two rows above to see which of them grew.",
        (names.REC_TTFT_P50, names.REC_TTFT_P95),
        bound=settings.alerts.ttft_p95_seconds,
        link=_TTFT_ALERT,
    )


def first_token_traces() -> Panel:
    """How times to the first token spread, with traces."""
    return _traces(
        "First token, spread with traces",
        names.METRIC_TTFT,
        "Click on a point high up for the trace of that request: its prompt's length, its place in the queue, its "
        "neighbours.",
    )


def inter_token(settings: Settings) -> Panel:
    """Median and 95th percentile of the time between tokens."""
    return _quantiles(
        "Between tokens",
        "Time between output tokens of a stream; the dashed line is the promise. Both up: batches are large; lower "
        "--max-num-seqs or add engines. p95 alone: prefills hold decoding up; lower --max-num-batched-tokens.",
        (names.REC_ITL_P50, names.REC_ITL_P95),
        bound=settings.alerts.itl_p95_seconds,
        link=_ITL_ALERT,
    )


def inter_token_spread() -> Panel:
    """How times between tokens spread."""
    return _spread(
        "Between tokens, spread",
        names.REC_ITL_BUCKET,
        "A faint band far above the main one: steps with a prefill in them, or preempted requests that came back.",
        cell="suffix: tok/s",
    )


def decode() -> Panel:
    """Median and 95th percentile of the time in decode."""
    return _quantiles(
        "Decode",
        "From the first token to the last. It is the answer's length times the time between tokens: up while that "
        "stays, answers became longer; limit max_tokens. Up with it: see the row above.",
        (names.REC_DECODE_P50, names.REC_DECODE_P95),
    )


def decode_spread() -> Panel:
    """How times in decode spread."""
    return _spread(
        "Decode, spread",
        names.REC_DECODE_BUCKET,
        "It mirrors the lengths of answers. A band at the top: answers that ran into their limit of tokens.",
    )


def e2e(settings: Settings) -> Panel:
    """Median and 95th percentile of the time to the end of an answer."""
    return _quantiles(
        "Whole answer",
        "From arrival to the last token; the dashed line is the promise. The stages above say which part grew. What "
        "failed or was refused is not in it, see the SLO dashboard for that.",
        (names.REC_E2E_P50, names.REC_E2E_P95),
        bound=settings.alerts.e2e_p95_seconds,
        link=_E2E_ALERT,
    )


def answer_traces() -> Panel:
    """How times to the end of an answer spread, with traces."""
    return _traces(
        "Whole answer, spread with traces",
        names.METRIC_E2E,
        "Click on a point high up for the trace of that request, and see in which span its time went.",
    )


def first_token_by_tier() -> Panel:
    """95th percentile of the time to the first token by tier."""
    return _by_tier(
        "First token by tier",
        names.METRIC_TTFT,
        "Interactive as slow as batch: they share engines without priority; give batch less, or its own engines.",
        _TTFT_ALERT,
    )


def answer_by_tier() -> Panel:
    """95th percentile of the time to the end of an answer by tier."""
    return _by_tier(
        "Whole answer by tier",
        names.METRIC_E2E,
        "A tier's answers are as long as its users ask for; act when one grows while its answers do not.",
        _E2E_ALERT,
    )


def interference() -> Panel:
    """How much slower the slowest tokens are than usual ones."""
    return theme.over_time(
        "Interference: slowest tokens by usual ones",
        "95th percentile of the time between tokens by its median, over one minute, by model: 1 to 2 is even. Above 3 "
        "something interrupts decoding: long prefills (lower --max-num-batched-tokens), preemptions (see beside), or "
        "another process on the GPU.",
        "suffix:×",
        [Query(asked.interference(), "{{model}}")],
        bands=(Band(3, "careful"),),
        panel_links=(_ITL_ALERT, _ENGINE),
    )


def preemptions(settings: Settings) -> Panel:
    """Requests thrown out of the KV cache, per minute."""
    return theme.over_time(
        "Preemptions per minute",
        "Requests that an instance threw out of its KV cache and computes again: their next token comes late, and the "
        "work is paid twice. Above the line the alert fires: lower --max-num-seqs, or give the cache more memory.",
        "short",
        [Query(asked.preemptions(), "{{instance}} {{model}}")],
        bands=(Band(settings.alerts.preemptions_per_minute, "broken"),),
        panel_links=(links.runbook("LLMPreemptionsHigh"), _ENGINE),
    )


def _quantiles(
    title: str,
    advice: str,
    records: tuple[str, str],
    *,
    more: tuple[Query, ...] = (),
    bound: float | None = None,
    link: Link | None = None,
) -> Panel:
    """Median and 95th percentile of a stage by model."""
    median, high = records
    return theme.over_time(
        f"{title}: p50 and p95",
        f"Over one minute, all instances of a model together. {advice}",
        "s",
        [
            Query(queries.signal(high, "max", asked.BY_MODEL), "{{model}} p95"),
            Query(queries.signal(median, "max", asked.BY_MODEL), "{{model}} p50"),
            *more,
        ],
        bands=() if bound is None else (Band(bound, "broken"),),
        panel_links=(link,) if link else (),
    )


def _spread(title: str, record: str, advice: str, *, cell: str = "reqps") -> Panel:
    """How a stage's times spread over the engine's own buckets."""
    return theme.distribution(
        title,
        f"How many per second took how long, of the chosen models together. {advice} Choose one model before acting.",
        "s",
        Query(queries.signal(record, "sum", (names.LABEL_LE,)), "{{le}}"),
        cell=cell,
    )


def _traces(title: str, metric: str, advice: str) -> Panel:
    """How times spread over the buckets of one of Farthing's own histograms, whose exemplars are traces."""
    return theme.distribution(
        title,
        "Requests per second by how long they took as the probe saw them, of the chosen models and tiers; points are "
        f"single requests. {advice} Without points no trace is kept, or the data source has no exemplars set up.",
        "s",
        Query(asked.own_buckets(metric), "{{le}}", exemplars=True),
    )


def _by_tier(title: str, metric: str, advice: str, link: Link) -> Panel:
    """95th percentile by tier of one of Farthing's own histograms."""
    return theme.over_time(
        title,
        f"95th percentile by tier, as the probe saw it at the server's edge; points are traces. {advice}",
        "s",
        [Query(asked.own_quantile(0.95, metric), "{{tier}}", exemplars=True)],
        panel_links=(link, _SLO),
    )
