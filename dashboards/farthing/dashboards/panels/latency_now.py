"""Panels about how long people wait now, in which stage, and on which instance."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import latency_queries as asked
from farthing.dashboards import links, queries, theme
from farthing.dashboards.engine_queries import BY_ENGINE, number
from farthing.dashboards.parts import Band, Column, Panel, Query
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = [
    "first_token_worst",
    "inter_token_worst",
    "mean_by_model",
    "mean_stages",
    "network",
    "queue_mean",
    "slowest_instances",
    "whole_answer_worst",
]

_KV: Final = (Band(0.8, "careful"), Band(0.95, "broken"))
_SLO: Final = links.to_dashboard(names.DASHBOARD_SLO, "Which promise that breaks")


def first_token_worst(settings: Settings) -> Panel:
    """95th percentile of the time to the first token, of the slowest model."""
    return _worst(
        "First token, p95",
        "95 % of first tokens of the slowest chosen model came within this time, over one minute; red is later than "
        "promised. Red with a queue: engines are missing; without: long prompts, see prefill. Unknown: no requests.",
        names.REC_TTFT_P95,
        settings.alerts.ttft_p95_seconds,
        "LLMTimeToFirstTokenHigh",
    )


def inter_token_worst(settings: Settings) -> Panel:
    """95th percentile of the time between tokens, of the slowest model."""
    return _worst(
        "Between tokens, p95",
        "95 % of tokens of the slowest chosen model came so soon after the one before, over one minute; in the red "
        "people read faster than is written. See the interference below: large batches, or long prefills between.",
        names.REC_ITL_P95,
        settings.alerts.itl_p95_seconds,
        "LLMInterTokenLatencyHigh",
    )


def whole_answer_worst(settings: Settings) -> Panel:
    """95th percentile of the time to the end of an answer, of the slowest model."""
    return _worst(
        "Whole answer, p95",
        "95 % of requests of the slowest chosen model were done within this time, over one minute; red is later than "
        "promised. The stages below say which part of it grew: act on the largest.",
        names.REC_E2E_P95,
        settings.alerts.e2e_p95_seconds,
        "LLMEndToEndLatencyHigh",
    )


def queue_mean() -> Panel:
    """Mean time in the queue."""
    return theme.number(
        "Queue, mean",
        "Mean seconds that the requests finished within the last minute waited for a place in the batch. Anything near "
        "the promise of a first token: add engines, or spread the load if one instance queues. Unknown: no requests.",
        "s",
        [Query(asked.mean(names.REC_QUEUE_TIME))],
        panel_links=(links.runbook("LLMQueueBacklog"),),
    )


def network() -> Panel:
    """Says that the way between client and engine is not measured."""
    return theme.note(
        "Network",
        "What these numbers do not hold: the way between the client and the engine's server.",
        "**Not measured.** Times here begin when the engine's server has a request and end when it has written the "
        "answer; name look-up, TLS, gateways and the way to the client come on top. Only a span of the client's own "
        "tells how long they take: open the trace of a slow request and compare the client's span with the server's "
        "below it, each by its duration, not by its clock.",
    )


def mean_stages() -> Panel:
    """Mean time of a request by stage, stacked."""
    return theme.over_time(
        "Mean time of a request, by stage",
        "Mean seconds of the requests finished within one minute: in the queue, in prefill until the first token, in "
        "decode until the last, and the rest in the server around the engine; what an engine does not tell is in the "
        "rest. Act on the largest: queue: engines; prefill: prompts and their cache; decode: batches and lengths; "
        "rest: the server's processors.",
        "s",
        [
            Query(asked.mean(names.REC_QUEUE_TIME), "queue"),
            Query(asked.mean(names.REC_PREFILL_TIME), "prefill"),
            Query(asked.mean(names.REC_DECODE_TIME), "decode"),
            Query(asked.mean_rest(), "rest"),
        ],
        stacked=True,
        colours={"rest": "#8E8E8E"},
        panel_links=(links.to_dashboard(names.DASHBOARD_ENGINE, "What the engine does"),),
    )


def mean_by_model() -> Panel:
    """Mean time of a request by stage and model."""
    group = asked.BY_MODEL
    return theme.listing(
        "Mean time by model, now",
        "Mean seconds of the requests finished within the last minute, by model, slowest first. Engines that do not "
        "tell a stage have none there. Compare models of a kind: the one with more queue needs engines, the one with "
        "more prefill has longer prompts or a colder cache.",
        {names.LABEL_MODEL: "Model"},
        (
            Column("Whole answer", "s", asked.mean(names.REC_E2E_TIME, group)),
            Column("Queue", "s", asked.mean(names.REC_QUEUE_TIME, group)),
            Column("Prefill", "s", asked.mean(names.REC_PREFILL_TIME, group)),
            Column("Decode", "s", asked.mean(names.REC_DECODE_TIME, group)),
            Column("First token", "s", asked.mean_first_token(group)),
            Column("Requests/s", "reqps", queries.signal(names.REC_TIMED_RATE, "sum", group), decimals=2),
        ),
        row_links={names.LABEL_MODEL: links.of_cell(names.DASHBOARD_LATENCY, "This model only", "model")},
        footer=False,
    )


def slowest_instances(settings: Settings) -> Panel:
    """Every instance, the slowest first."""
    group = BY_ENGINE
    return theme.listing(
        "The slowest instances, now",
        "Means over the last minute, the latest first token first. One instance far from its neighbours of the same "
        "model: look for throttling, another process on its GPU, or a router that prefers it; drain it. All alike: it "
        "is the load. Missing: an engine that does not tell it, or no requests.",
        {names.LABEL_INSTANCE: "Instance", names.LABEL_MODEL: "Model"},
        (
            Column("First token", "s", asked.mean_first_token(group)),
            Column("Queue", "s", asked.mean(names.REC_QUEUE_TIME, group)),
            Column("Prefill", "s", asked.mean(names.REC_PREFILL_TIME, group)),
            Column(
                "Per output token",
                "s",
                asked.time_per_token(group),
                (Band(settings.alerts.itl_p95_seconds, "broken"),),
            ),
            Column("Whole answer", "s", asked.mean(names.REC_E2E_TIME, group)),
            Column("Running", "short", number(names.REC_RUNNING)),
            Column("Waiting", "short", number(names.REC_WAITING)),
            Column("KV cache", "percentunit", number(names.REC_KV, "max"), _KV, decimals=0),
            Column("Preemptions/min", "short", asked.preemptions(), decimals=1),
        ),
        row_links={
            names.LABEL_INSTANCE: links.of_cell(names.DASHBOARD_ENGINE, "This instance", "instance"),
            names.LABEL_MODEL: links.of_cell(names.DASHBOARD_LATENCY, "This model only", "model"),
        },
        footer=False,
    )


def _worst(title: str, description: str, record: str, promised_seconds: float, alert: str) -> Panel:
    return theme.number(
        title,
        description,
        "s",
        [Query(asked.worst(record))],
        bands=(Band(promised_seconds, "broken"),),
        panel_links=(links.runbook(alert), _SLO),
    )
