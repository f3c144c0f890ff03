"""Panels about service: how much is asked and answered, how fast, and how full the engines are."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import queries, theme
from farthing.dashboards.links import runbook, to_dashboard
from farthing.dashboards.parts import Band, Panel, Query
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = [
    "engines_up",
    "inter_token_latency",
    "kv_cache_fullest",
    "kv_cache_spread",
    "queue",
    "requests_finished",
    "time_to_first_token",
    "tokens",
]

KV_BANDS: Final = (Band(0.8, "careful"), Band(0.95, "broken"))
"""Above 0.95 new requests wait for memory and running ones are preempted."""
_BY_MODEL: Final = (names.LABEL_MODEL,)
_BY_INSTANCE: Final = (names.LABEL_INSTANCE, names.LABEL_MODEL)
_ENGINE: Final = to_dashboard(names.DASHBOARD_ENGINE, "Engine")
_LATENCY: Final = to_dashboard(names.DASHBOARD_LATENCY, "Latency anatomy")


def engines_up() -> Panel:
    """Engine targets that answer, of those known."""
    return theme.number(
        "Engine targets",
        "Targets of Prometheus' engine job that answer, and all it knows. Fewer up than known: see the runbook of "
        "FarthingTargetDown.",
        "none",
        [Query(queries.engines_up(), "up"), Query(queries.engines_known(), "known")],
        panel_links=(_ENGINE, runbook("FarthingTargetDown")),
    )


def tokens() -> Panel:
    """Tokens per second, generated and of prompts."""
    return theme.over_time(
        "Tokens per second",
        "Generated tokens, and prompt tokens including those taken from the prefix cache, over one minute. Falling at "
        "a steady request rate: answers or prompts became shorter, or engines slower.",
        "suffix: tok/s",
        [
            Query(queries.signal(names.REC_GENERATION_RATE, "sum", _BY_MODEL), "{{model}} generated"),
            Query(queries.signal(names.REC_PROMPT_RATE, "sum", _BY_MODEL), "{{model}} prompt"),
        ],
        panel_links=(_ENGINE,),
    )


def requests_finished() -> Panel:
    """Requests that engines finished, per second."""
    return theme.over_time(
        "Requests finished per second",
        "What engines finished, over one minute; requests that clients aborted or that were refused are not in it. "
        "Falling while the queue grows: the engines are saturated; add one or limit a tenant.",
        "reqps",
        [Query(queries.signal(names.REC_REQUEST_RATE, "sum", _BY_MODEL), "{{model}}")],
        panel_links=(_ENGINE, _LATENCY),
    )


def time_to_first_token(settings: Settings) -> Panel:
    """Median and 95th percentile of the time to the first token."""
    return theme.over_time(
        "Time to first token",
        "Over one minute, all instances of a model together; the dashed line is the promise. p95 above it with a "
        "queue: add engines. Without a queue: prompts are long. See the runbook of LLMTimeToFirstTokenHigh.",
        "s",
        [
            Query(queries.signal(names.REC_TTFT_P95, "max", _BY_MODEL), "{{model}} p95"),
            Query(queries.signal(names.REC_TTFT_P50, "max", _BY_MODEL), "{{model}} p50"),
        ],
        bands=(Band(settings.alerts.ttft_p95_seconds, "broken"),),
        panel_links=(_LATENCY, runbook("LLMTimeToFirstTokenHigh")),
    )


def inter_token_latency(settings: Settings) -> Panel:
    """Median and 95th percentile of the time between tokens."""
    return theme.over_time(
        "Inter-token latency",
        "Time between output tokens of a stream, over one minute; the dashed line is the promise. p95 far above p50: "
        "long prefills hold up decoding; lower --max-num-batched-tokens. Both rising: batches are large; lower "
        "--max-num-seqs or add engines. See the runbook of LLMInterTokenLatencyHigh.",
        "s",
        [
            Query(queries.signal(names.REC_ITL_P95, "max", _BY_MODEL), "{{model}} p95"),
            Query(queries.signal(names.REC_ITL_P50, "max", _BY_MODEL), "{{model}} p50"),
        ],
        bands=(Band(settings.alerts.itl_p95_seconds, "broken"),),
        panel_links=(_LATENCY, runbook("LLMInterTokenLatencyHigh")),
    )


def queue() -> Panel:
    """Requests in the batches and in the queues of the chosen instances together."""
    return theme.over_time(
        "Requests running and waiting",
        "Requests in the batches of the chosen instances and in their queues, together. A queue while the KV caches "
        "are full: add engines. A queue beside engines with room: the router does not balance; the engines' dashboard "
        "tells them apart. See the runbook of LLMQueueBacklog.",
        "short",
        [
            Query(queries.signal(names.REC_RUNNING, "sum"), "running (batch size)"),
            Query(queries.signal(names.REC_WAITING, "sum"), "waiting (queue depth)"),
        ],
        stacked=True,
        panel_links=(_ENGINE, runbook("LLMQueueBacklog")),
    )


def kv_cache_spread() -> Panel:
    """How many instances' KV caches are how full, over time."""
    return theme.spread(
        "KV cache use, spread",
        "How many instances are at which use of their KV cache, of the fullest data-parallel rank. A band at the top: "
        "there requests wait for memory and are preempted; the engines' dashboard names them, and the runbook of "
        "LLMKVCacheFull says what helps. A band at the bottom beside it: the router does not balance.",
        "percentunit",
        Query(queries.signal(names.REC_KV, "max", _BY_INSTANCE), "{{instance}}"),
        full=1,
        panel_links=(_ENGINE, runbook("LLMKVCacheFull")),
    )


def kv_cache_fullest() -> Panel:
    """How full the fullest KV cache is now."""
    return theme.dial(
        "Fullest KV cache",
        "The fullest of the chosen instances. In the red, new requests wait: the engines' dashboard says which one it "
        "is, and the runbook of LLMKVCacheFull what helps.",
        "percentunit",
        [Query(queries.signal(names.REC_KV, "max"))],
        full=1,
        bands=KV_BANDS,
        panel_links=(_ENGINE, runbook("LLMKVCacheFull")),
    )
