"""One vocabulary for every engine: recording rules that turn an engine's own names into ``llm:`` series.

What an engine calls a signal is data (``farthing.vocabulary``); here is how names become one series. Scalars
keep (instance, model); data-parallel ranks and processes are added up, or for utilisations the largest taken.
Histograms become one rate per (model, le): buckets of many instances add up, quantiles do not, so quantiles are
computed from the recorded buckets.

- A name and its successor are never added: an instance is read by the first of a family's names that it has.
- Buckets of different engines have different bounds: a model that several kinds serve is told by the first kind.
- A router sees what its engines see: it tells a signal only of models of which no engine tells it.
- An engine without a signal gives no series of it, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from farthing.alerts.engine_facts import engine_facts
from farthing.alerts.rules import RecordingRule, RuleGroup
from farthing.alerts.selectors import TARGET_DEBIAN, Target, in_seconds, named, selector, with_decimals
from farthing.domain import conventions as names
from farthing.settings import Settings
from farthing.vocabulary.catalogue import Catalogue, Source
from farthing.vocabulary.loading import load_catalogues

__all__ = [
    "BUCKETS",
    "DETAILS",
    "FACTS",
    "RATES",
    "SCALARS",
    "details",
    "record_details",
    "record_vocabulary",
    "vocabulary",
]

RANGE: Final = "1m"
"""Of every rate; the records' names say so too. Holds at least four scrapes of 15 s."""

RESTART_RANGE: Final = "5m"
"""A restart is seen where the last scrape before it and the first one after it lie within."""

SCALARS: Final = {
    names.REC_RUNNING: "requests_running",
    names.REC_WAITING: "requests_waiting",
    names.REC_KV: "kv_cache_utilization",
    names.REC_KV_CAPACITY: "kv_capacity_tokens",
    names.REC_AWAKE: "engine_awake",
    names.REC_WAITING_REASON: "requests_waiting_by_reason",
}
"""Record -> the signal of the catalogues, as it is."""
RATES: Final = {
    names.REC_GENERATION_RATE: "generation_tokens_total",
    # Includes tokens taken from the prefix cache.
    names.REC_PROMPT_RATE: "prompt_tokens_total",
    names.REC_CACHED_RATE: "cached_prompt_tokens_total",
    names.REC_REQUEST_RATE: "requests_completed_total",
    names.REC_FAILED_RATE: "requests_failed_total",
    names.REC_REJECTED_RATE: "requests_rejected_total",
    names.REC_PREEMPTION_RATE: "preemptions_total",
    names.REC_PREFIX_HIT_RATE: "prefix_cache_hits_total",
    names.REC_PREFIX_QUERY_RATE: "prefix_cache_queries_total",
    names.REC_EXTERNAL_HIT_RATE: "external_kv_hits_total",
    names.REC_MM_HIT_RATE: "mm_cache_hits_total",
    names.REC_MM_QUERY_RATE: "mm_cache_queries_total",
    names.REC_DRAFT_RATE: "spec_draft_tokens_total",
    names.REC_ACCEPTED_RATE: "spec_accepted_tokens_total",
    names.REC_DRAFTS_RATE: "spec_drafts_total",
    names.REC_ENDED_RATE: "requests_ended_total",
    names.REC_STEP_RATE: "steps_total",
    names.REC_STEP_TOKEN_RATE: "step_tokens_total",
    names.REC_EXTERNAL_QUERY_RATE: "external_kv_queries_total",
    names.REC_KV_LOADED_RATE: "kv_offload_loaded_bytes_total",
    names.REC_KV_STORED_RATE: "kv_offload_stored_bytes_total",
    names.REC_KV_TRANSFERRED_RATE: "kv_transferred_bytes_total",
    names.REC_KV_TRANSFER_FAILED_RATE: "kv_transfers_failed_total",
    names.REC_TIMED_RATE: "requests_timed_total",
    names.REC_QUEUE_TIME: "queue_time_sum",
    names.REC_PREFILL_TIME: "request_prefill_time_sum",
    names.REC_DECODE_TIME: "request_decode_time_sum",
    names.REC_E2E_TIME: "e2e_latency_sum",
    names.REC_FIRST_TOKEN_RATE: "first_tokens_total",
    names.REC_TTFT_TIME: "time_to_first_token_sum",
    names.REC_FLOPS: "flops_per_gpu_total",
    names.REC_MEMORY_BYTES: "memory_bytes_per_gpu_total",
}
"""Record -> the counter of which it is the rate per second."""
BUCKETS: Final = {
    names.REC_TTFT_BUCKET: ("time_to_first_token_seconds", names.REC_TTFT_P50, names.REC_TTFT_P95),
    names.REC_ITL_BUCKET: ("inter_token_latency_seconds", names.REC_ITL_P50, names.REC_ITL_P95),
    names.REC_TPOT_BUCKET: ("time_per_output_token_seconds", names.REC_TPOT_P50, names.REC_TPOT_P95),
    names.REC_E2E_BUCKET: ("e2e_latency_seconds", names.REC_E2E_P50, names.REC_E2E_P95),
    names.REC_QUEUE_BUCKET: ("queue_time_seconds", names.REC_QUEUE_P50, names.REC_QUEUE_P95),
    names.REC_PREFILL_BUCKET: ("request_prefill_time_seconds", names.REC_PREFILL_P50, names.REC_PREFILL_P95),
    names.REC_DECODE_BUCKET: ("request_decode_time_seconds", names.REC_DECODE_P50, names.REC_DECODE_P95),
    names.REC_PROMPT_LENGTH_BUCKET: ("request_prompt_tokens", names.REC_PROMPT_LENGTH_P50, names.REC_PROMPT_LENGTH_P95),
    names.REC_OUTPUT_LENGTH_BUCKET: ("request_output_tokens", names.REC_OUTPUT_LENGTH_P50, names.REC_OUTPUT_LENGTH_P95),
}
"""Record -> the histogram, and the records of its median and its 95th percentile."""
DETAILS: Final = frozenset(
    (
        *(names.REC_WAITING_REASON, names.REC_ENDED_RATE, names.REC_STEP_RATE, names.REC_STEP_TOKEN_RATE),
        *(names.REC_DRAFTS_RATE, names.REC_EXTERNAL_QUERY_RATE, names.REC_KV_LOADED_RATE, names.REC_KV_STORED_RATE),
        *(names.REC_KV_TRANSFERRED_RATE, names.REC_KV_TRANSFER_FAILED_RATE),
        *(names.REC_PROMPT_LENGTH_BUCKET, names.REC_OUTPUT_LENGTH_BUCKET),
        *(names.REC_TIMED_RATE, names.REC_QUEUE_TIME, names.REC_PREFILL_TIME, names.REC_DECODE_TIME),
        *(names.REC_E2E_TIME, names.REC_FIRST_TOKEN_RATE, names.REC_TTFT_TIME),
        *(names.REC_PREFILL_BUCKET, names.REC_DECODE_BUCKET),
    )
)
"""Of them, those that only people look at: no alert follows them, and they are recorded less often."""
FACTS: Final = (names.REC_RESETS, names.REC_ENGINE)
"""Records beside them that are no signal's."""
DETAIL_SECONDS: Final = 15

_OPERATORS: Final = {"plus": "+", "times": "*", "over": "/"}
_JOBS: Final = {"engines": names.JOB_ENGINES, "routers": names.JOB_ROUTERS}
_PER_INSTANCE: Final = (names.LABEL_INSTANCE, names.LABEL_MODEL)
_PRESENT: Final = "requests_running"
"""The signal that every engine has."""
_OR: Final = "\nor\n"
_PER_BUCKET: Final = (names.LABEL_MODEL, names.LABEL_LE)


def vocabulary(settings: Settings) -> RuleGroup:
    """The ``llm:`` series of every shipped catalogue, for Debian's Prometheus."""
    return record_vocabulary(settings, TARGET_DEBIAN)


def details(settings: Settings) -> RuleGroup:
    """The ``llm:`` series that only dashboards ask for, for Debian's Prometheus."""
    return record_details(settings, TARGET_DEBIAN)


def record_vocabulary(_settings: Settings, target: Target) -> RuleGroup:
    """The ``llm:`` series of every shipped catalogue; a quantile comes after the buckets it reads."""
    return _vocabulary(target)


def record_details(_settings: Settings, target: Target) -> RuleGroup:
    """The ``llm:`` series that only dashboards ask for."""
    return _details(target)


@cache
def _vocabulary(target: Target) -> RuleGroup:
    catalogues = load_catalogues()
    rules = _numbers(catalogues, detail=False)
    rules.append(RecordingRule(names.REC_RESETS, _scalar(catalogues, "generation_tokens_total", _resets)))
    rules.append(RecordingRule(names.REC_ENGINE, _kinds(catalogues)))
    return RuleGroup(names.GROUP_VOCABULARY, (*rules, *_histograms(catalogues, target, detail=False)))


@cache
def _details(target: Target) -> RuleGroup:
    catalogues = load_catalogues()
    rules = (*_numbers(catalogues, detail=True), *engine_facts(catalogues))
    return RuleGroup(
        names.GROUP_DETAILS, (*rules, *_histograms(catalogues, target, detail=True)), interval_seconds=DETAIL_SECONDS
    )


def _numbers(catalogues: Sequence[Catalogue], *, detail: bool) -> list[RecordingRule]:
    """Scalars and rates, those of the details or the others."""
    asked = [(record, signal, _as_it_is) for record, signal in SCALARS.items()]
    asked += [(record, signal, _rate) for record, signal in RATES.items()]
    return [
        RecordingRule(record, _scalar(catalogues, signal, series))
        for record, signal, series in asked
        if (record in DETAILS) == detail
    ]


def _histograms(catalogues: Sequence[Catalogue], target: Target, *, detail: bool) -> list[RecordingRule]:
    rules = []
    for record, (signal, median, high) in BUCKETS.items():
        if (record in DETAILS) == detail:
            rules += [
                RecordingRule(record, _buckets(catalogues, signal, target)),
                RecordingRule(median, f"histogram_quantile(0.5, {record})"),
                RecordingRule(high, f"histogram_quantile(0.95, {record})"),
            ]
    return rules


@dataclass(frozen=True, slots=True)
class _Reading:
    """One source of a signal, and what its catalogue says of all."""

    catalogue: Catalogue
    source: Source
    aggregate: str
    split: str


def _families(catalogues: Sequence[Catalogue], signal: str, job: str) -> list[list[_Reading]]:
    """The readings of the signal by family, in order; a source that two engines of a family share is there once."""
    families: dict[str, list[_Reading]] = {}
    for catalogue in catalogues:
        if catalogue.job != job or signal not in catalogue.signals:
            continue
        readings = families.setdefault(catalogue.family or catalogue.engine, [])
        told = catalogue.signals[signal]
        for source in told.sources:
            if all(_select(catalogue, source) != _select(known.catalogue, known.source) for known in readings):
                readings.append(_Reading(catalogue, source, told.aggregate, told.split))
    return list(families.values())


def _scalar(catalogues: Sequence[Catalogue], signal: str, series: Callable[[str], str]) -> str:
    """The first series that an (instance, model) has, of its engine's names in order."""
    parts = [
        [_per_instance(reading, series) for family in _families(catalogues, signal, job) for reading in family]
        for job in _JOBS
    ]
    return _engines_first([_OR.join(part) for part in parts if part])


def _buckets(catalogues: Sequence[Catalogue], signal: str, target: Target) -> str:
    parts = [
        f"\nor on ({names.LABEL_MODEL})\n".join(
            _per_bucket(family, target) for family in _families(catalogues, signal, job)
        )
        for job in _JOBS
    ]
    return _engines_first([part for part in parts if part])


def _engines_first(parts: list[str]) -> str:
    """What a router tells, only where no engine tells it of the model."""
    if len(parts) == 1:
        return parts[0]
    engines, routers = parts
    return f"{engines}\nor on ({names.LABEL_MODEL}) (\n{routers}\n)"


def _as_it_is(series: str) -> str:
    return series


def _rate(series: str) -> str:
    return f"rate({series}[{RANGE}])"


def _resets(series: str) -> str:
    return f"resets({series}[{RESTART_RANGE}])"


def _kinds(catalogues: Sequence[Catalogue]) -> str:
    """1 per (instance, model) of every engine with its kind; ``engine`` is the instance, as Farthing names engines."""
    parts = []
    for family in _families(catalogues, _PRESENT, "engines"):
        for reading in family:
            there = _aggregated(reading, "group", _select(reading.catalogue, reading.source))
            kind = reading.catalogue.family or reading.catalogue.engine
            parts.append(f'label_replace({there}, "{names.LABEL_ENGINE_KIND}", "{kind}", "", "")')
    return f'label_replace(\n{_OR.join(parts)},\n"{names.LABEL_ENGINE}", "$1", "{names.LABEL_INSTANCE}", "(.*)")'


def _select(catalogue: Catalogue, source: Source, suffix: str = "") -> str:
    bounds = {names.LABEL_LE: "[0-9]+([.]0)?|[+]Inf"} if source.milliseconds and suffix else {}
    return selector(
        source.metric + suffix, _JOBS[catalogue.job], source.where, source.matching | bounds, source.excluding
    )


def _per_instance(reading: _Reading, series: Callable[[str], str]) -> str:
    select = _told(series, reading.source)
    first = _aggregated(reading, reading.aggregate, select(_select(reading.catalogue, reading.source)))
    combined = reading.source.combined
    if combined is None:
        return first
    other = selector(combined.metric, _JOBS[reading.catalogue.job], combined.where)
    # what multiplies is a constant, such as the tokens of a block: it does not grow with what is multiplied
    aggregate = "max" if combined.operation == "times" else reading.aggregate
    return f"{first} {_OPERATORS[combined.operation]} {_aggregated(reading, aggregate, select(other))}"


def _told(series: Callable[[str], str], source: Source) -> Callable[[str], str]:
    """``series`` of what is told: a counter that stands at 0 because a switch is off is unknown, not 0."""
    if not source.silent_at_zero:
        return series
    return lambda select: f"({series(select)} and {select} > 0)"


def _aggregated(reading: _Reading, aggregate: str, series: str) -> str:
    label = reading.catalogue.model.label
    kept = (*_PER_INSTANCE, reading.split) if reading.split else _PER_INSTANCE
    merged = _split(reading, _merged_ranks(reading, series, ()))
    return f"{aggregate} by ({', '.join(kept)}) ({named(merged, label)})"


def _split(reading: _Reading, series: str) -> str:
    """The parts of a split signal under the record's label."""
    theirs = reading.source.split
    if not theirs or theirs == reading.split:
        return series
    return f'label_replace({series}, "{reading.split}", "$1", "{theirs}", "(.*)")'


def _merged_ranks(reading: _Reading, series: str, more: tuple[str, ...]) -> str:
    """One series where ranks repeat one another."""
    if reading.source.distinct is None:
        return series
    kept = (names.LABEL_INSTANCE, reading.catalogue.model.label, *reading.source.distinct, *more)
    return f"max by ({', '.join(kept)}) ({series})"


def _per_bucket(family: Sequence[_Reading], target: Target) -> str:
    """Rates of one family's buckets: of each instance, those of the first name that it has."""
    rates = []
    for reading in family:
        rate = _rate(_select(reading.catalogue, reading.source, "_bucket"))
        rate = _merged_ranks(reading, rate, (names.LABEL_LE,))
        if reading.source.milliseconds:
            rate = in_seconds(rate)
        elif reading.catalogue.whole_bounds:
            rate = with_decimals(rate, target)
        rates.append(rate)
    either = f" or on ({names.LABEL_INSTANCE}) ".join(rates)
    label = family[0].catalogue.model.label
    return f"sum by ({', '.join(_PER_BUCKET)}) ({named(_added_first(either, label), label)})"


def _added_first(buckets: str, label: str) -> str:
    """The buckets of all instances added up, so that few series, not engines times buckets, are given a name.

    A target's own model is kept beside the name that it gets: two series may differ by nothing else.
    """
    if label == names.LABEL_MODEL:
        return buckets
    kept = dict.fromkeys((*_PER_BUCKET, label or names.LABEL_MODEL))
    added = f"sum by ({', '.join(kept)}) ({buckets})"
    return f'label_replace({added}, "target_model", "$1", "{names.LABEL_MODEL}", "(.+)")'
