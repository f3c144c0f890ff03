"""Panels about an engine from inside: its state, its batches and queue, its caches, its speed, what it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from farthing.dashboards import engine_queries, theme
from farthing.dashboards.links import of_cell, runbook, to_dashboard
from farthing.dashboards.look import BROKEN, CALM, COLOURS
from farthing.dashboards.parts import Band, Column, Panel, Query
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = [
    "adapters",
    "answer_lengths",
    "batch_and_queue",
    "batch_now",
    "cache_hits",
    "costs",
    "efficiency",
    "efficiency_now",
    "ends",
    "kv_caches",
    "kv_fullest",
    "kv_moved",
    "kv_use",
    "preemptions",
    "prompt_lengths",
    "restarts",
    "speculation",
    "states",
    "tokens_by_kind",
    "tokens_per_step",
    "waiting",
]

USD: Final = "currencyUSD"
_NAMED: Final = "{{instance}}"
_STATES: Final[Mapping[float, tuple[str, str]]] = {
    names.STATE_DOWN: ("down", BROKEN),
    names.STATE_ASLEEP: ("asleep", COLOURS[names.ASLEEP]),
    names.STATE_UP: ("up", CALM),
    names.STATE_RESTARTED: ("restarted", "purple"),
}


def batch_now() -> Panel:
    """Requests running and waiting now."""
    return theme.number(
        "Requests now",
        "Requests in the batches of the chosen engines together, and the longest queue of one of them. A long queue: "
        "see the runbook of LLMQueueBacklog. Running, and no tokens below: see that of LLMEngineStalled.",
        "short",
        [
            Query(engine_queries.number(names.REC_RUNNING, group=()), "running"),
            Query(engine_queries.number(names.REC_WAITING, "max", ()), "waiting, longest queue"),
        ],
        decimals=0,
        panel_links=(runbook("LLMQueueBacklog"), runbook("LLMEngineStalled")),
    )


def kv_fullest(settings: Settings) -> Panel:
    """How full the fullest KV cache is now."""
    return theme.dial(
        "Fullest KV cache",
        "The fullest of the chosen engines. In the red, new requests wait for memory and running ones are preempted: "
        "see KV cache use for which one it is, and the runbook of LLMKVCacheFull.",
        "percentunit",
        [Query(engine_queries.number(names.REC_KV, "max", ()))],
        full=1,
        bands=_kv_bands(settings),
        panel_links=(runbook("LLMKVCacheFull"),),
    )


def efficiency_now() -> Panel:
    """Model FLOPS and memory bandwidth utilisation now."""
    return theme.dial(
        "Use of the GPU",
        "Mean of the chosen engines: computed operations by the GPU's peak (MFU), and memory traffic by its peak. "
        "Busy and both low: batches are small or the host is slow. Unknown: start vLLM with --enable-mfu-metrics.",
        "percentunit",
        [
            Query(engine_queries.number(names.REC_MFU, "avg", ()), "compute (MFU)"),
            Query(engine_queries.number(names.REC_MBU, "avg", ()), "memory bandwidth"),
        ],
        full=1,
        bands=(),
        panel_links=(to_dashboard(names.DASHBOARD_GPUS, "GPUs and energy"),),
    )


def states() -> Panel:
    """The state of each engine over time."""
    return theme.states(
        "State of each engine",
        "Down: it does not answer, because it is gone or still loads its model; the runbook of FarthingTargetDown "
        "tells which. Asleep: paid for, and its memory is free. Restarted: up, and began anew within a minute; what "
        "ran then is lost.",
        Query(engine_queries.state(), _NAMED),
        _STATES,
        panel_links=(runbook("FarthingTargetDown"), runbook("LLMEngineStartingLong")),
    )


def restarts() -> Panel:
    """Engines that began anew."""
    return theme.number(
        "Engines that restarted, in range",
        "Engines whose counters began anew within the time range. More than you released: look in their logs for "
        "memory errors, and on GPUs and energy for XID errors. None: no engine did.",
        "short",
        [Query(engine_queries.restarted())],
        bands=(Band(1, "careful"),),
        decimals=0,
        unknown="none",
        panel_links=(to_dashboard(names.DASHBOARD_GPUS, "GPUs and energy"),),
    )


def batch_and_queue(settings: Settings) -> Panel:
    """Batch sizes and queues, stacked."""
    return theme.over_time(
        "Batch size and queue depth",
        "Requests running in each engine, and waiting on top. A queue while batches are at their largest: add "
        "engines. While they are small: the KV cache is full, or --max-num-seqs is low. On one engine only: the "
        "router does not balance. See the runbook of LLMQueueBacklog.",
        "short",
        [
            Query(engine_queries.number(names.REC_RUNNING), f"{_NAMED} running"),
            Query(engine_queries.number(names.REC_WAITING), f"{_NAMED} waiting"),
        ],
        bands=(Band(settings.alerts.queue_requests, "careful"),),
        stacked=True,
        panel_links=(runbook("LLMQueueBacklog"), to_dashboard(names.DASHBOARD_LATENCY, "Latency anatomy")),
    )


def tokens_per_step() -> Panel:
    """Tokens that a step handles, by engine."""
    return theme.over_time(
        "Tokens per step",
        "Mean of the tokens that a step generated and of the prompts that it finished. Near the number of running "
        "requests: only decoding. Far above: prefill goes along, which makes every stream wait; "
        "--max-num-batched-tokens bounds it. At 1: one request alone pays for the whole step.",
        "short",
        [Query(engine_queries.tokens_per_step(), _NAMED)],
        panel_links=(to_dashboard(names.DASHBOARD_LATENCY, "Latency anatomy"),),
    )


def waiting() -> Panel:
    """Requests that wait, by reason."""
    return theme.over_time(
        "Waiting, by reason",
        "capacity: no room in the batch or the cache, so add engines or memory. deferred: held back by something "
        "passing, as a LoRA adapter's slot or KV cache on its way; more slots, or look at the transfers. vLLM tells "
        "it from 0.20 on.",
        "short",
        [Query(engine_queries.number(names.REC_WAITING_REASON, group=(names.LABEL_REASON,)), "{{reason}}")],
        stacked=True,
        panel_links=(runbook("LLMQueueBacklog"),),
    )


def kv_use(settings: Settings) -> Panel:
    """How full each KV cache is."""
    return theme.over_time(
        "KV cache use",
        "Share of the KV cache in use, of the fullest data-parallel rank. At the dashed line requests wait for "
        "memory: lower --max-num-seqs or --max-model-len, or give the cache more. Low with a queue: the batch is full "
        "instead.",
        "percentunit",
        [Query(engine_queries.number(names.REC_KV, "max"), _NAMED)],
        bands=_kv_bands(settings),
        full=1,
        panel_links=(runbook("LLMKVCacheFull"),),
    )


def preemptions(settings: Settings) -> Panel:
    """Requests thrown out of the KV cache, per minute."""
    return theme.over_time(
        "Preemptions per minute",
        "Requests that an engine threw out of its KV cache, to compute them again: work that is paid for twice. Above "
        "the dashed line LLMPreemptionsHigh fires: lower --max-num-seqs, or give the cache more memory.",
        "suffix:/min",
        [Query(f"{engine_queries.number(names.REC_PREEMPTION_RATE)} * 60", _NAMED)],
        bands=(Band(settings.alerts.preemptions_per_minute, "careful"),),
        panel_links=(runbook("LLMPreemptionsHigh"),),
    )


def cache_hits() -> Panel:
    """Hit ratios of the prefix, external and multimodal caches."""
    hits = engine_queries.hit_ratio
    return theme.over_time(
        "Cache hits",
        "Part of what each cache was asked for that it had: prompt tokens in the engine's own prefix cache, tokens "
        "behind a KV connector (external: host memory or another engine), images already encoded. A fall with the "
        "same workload: prompts begin otherwise, or requests of one session go to different engines.",
        "percentunit",
        [
            Query(hits(names.REC_PREFIX_HIT_RATE, names.REC_PREFIX_QUERY_RATE), f"{_NAMED} prefix"),
            Query(hits(names.REC_EXTERNAL_HIT_RATE, names.REC_EXTERNAL_QUERY_RATE), f"{_NAMED} external"),
            Query(hits(names.REC_MM_HIT_RATE, names.REC_MM_QUERY_RATE), f"{_NAMED} images"),
        ],
        full=1,
        panel_links=(
            runbook("LLMPrefixCacheCollapsed"),
            runbook("LLMExternalCacheCollapsed"),
            runbook("LLMMultimodalCacheCollapsed"),
        ),
    )


def kv_moved() -> Panel:
    """KV cache that is moved: offloaded, loaded back, received from prefill instances."""
    return theme.over_time(
        "KV cache moved",
        "Bytes per second stored to the host or a disk, loaded back, and received from the engines that compute "
        "prompts. Much stored and little loaded: offloading does not pay. Failed transfers are computed again: look "
        "at the network between the engines. Empty: no engine offloads or transfers.",
        "Bps",
        [
            Query(engine_queries.number(names.REC_KV_STORED_RATE), f"{_NAMED} stored"),
            Query(engine_queries.number(names.REC_KV_LOADED_RATE), f"{_NAMED} loaded"),
            Query(engine_queries.number(names.REC_KV_TRANSFERRED_RATE), f"{_NAMED} received"),
            Query(engine_queries.number(names.REC_KV_TRANSFER_FAILED_RATE), f"{_NAMED} failed transfers/s"),
        ],
        panel_links=(runbook("LLMExternalCacheCollapsed"),),
    )


def kv_caches(settings: Settings) -> Panel:
    """A table of KV caches with their sizes."""
    return theme.listing(
        "KV cache of each engine",
        "How many tokens each engine's KV cache holds (of a data-parallel rank), and how full it is and was at most. "
        "Never more than half full: a larger batch or fewer engines would do. auto: of the model's own type; fp8 "
        "holds twice as many.",
        {
            names.LABEL_INSTANCE: "Engine",
            names.LABEL_KV_TOKENS: "Tokens",
            names.LABEL_BLOCK_SIZE: "Block",
            names.LABEL_DTYPE: "Type",
        },
        (
            Column("Use now", "percentunit", engine_queries.kv_cache(now=True), _kv_bands(settings), decimals=0),
            Column(
                "Fullest in range", "percentunit", engine_queries.kv_cache(now=False), _kv_bands(settings), decimals=0
            ),
        ),
        row_links={names.LABEL_INSTANCE: of_cell(names.DASHBOARD_ENGINE, "This engine alone", "instance")},
        footer=False,
    )


def adapters() -> Panel:
    """A table of LoRA adapters by engine."""
    return theme.listing(
        "LoRA adapters",
        "Which adapters each engine runs and which wait for a slot, as of its latest step with one. Often waiting "
        "ones: raise --max-loras, or send each adapter to engines of its own. Empty: no engine serves adapters.",
        {
            names.LABEL_INSTANCE: "Engine",
            names.LABEL_RUNNING_ADAPTERS: "Running",
            names.LABEL_WAITING_ADAPTERS: "Waiting",
            names.LABEL_MAX_ADAPTERS: "Slots",
        },
        (Column("As of", "dateTimeFromNow", engine_queries.adapters()),),
        footer=False,
    )


def tokens_by_kind() -> Panel:
    """Tokens per second by kind."""
    return theme.over_time(
        "Tokens per second, by kind",
        "Generated tokens, those of prompts, and the part of prompts that a cache had. Falling at a steady batch "
        "size: steps take longer; look at the GPU's clocks and at prefill going along.",
        "suffix: tok/s",
        [
            Query(engine_queries.number(names.REC_GENERATION_RATE), f"{_NAMED} generated"),
            Query(engine_queries.number(names.REC_PROMPT_RATE), f"{_NAMED} prompt"),
            Query(engine_queries.number(names.REC_CACHED_RATE), f"{_NAMED} prompt, cached"),
        ],
        panel_links=(to_dashboard(names.DASHBOARD_GPUS, "GPUs and energy"),),
    )


def efficiency() -> Panel:
    """Model FLOPS and memory bandwidth utilisation over time."""
    return theme.over_time(
        "Use of compute and memory bandwidth",
        "Operations by the GPU's datasheet peak (MFU, of bfloat16), and memory traffic by its peak, as the engine "
        "estimates both. Decoding is bound by memory, prefill by compute: low on both with a full batch is a slow "
        "host or throttled clocks. Needs --enable-mfu-metrics.",
        "percentunit",
        [
            Query(engine_queries.number(names.REC_MFU, "max"), f"{_NAMED} compute (MFU)"),
            Query(engine_queries.number(names.REC_MBU, "max"), f"{_NAMED} memory bandwidth"),
        ],
        full=1,
        panel_links=(to_dashboard(names.DASHBOARD_GPUS, "GPUs and energy"),),
    )


def speculation() -> Panel:
    """Acceptance of drafted tokens, and tokens by draft."""
    return theme.over_time(
        "Speculation",
        "Share of drafted tokens that were accepted, and tokens that a sequence gains in a step with a draft (1 would "
        "be without any). Accepted below a half: fewer drafted tokens, or none in large batches, where rejected ones "
        "cost most. Empty: nothing speculates.",
        "short",
        [
            Query(engine_queries.acceptance(), f"{_NAMED} accepted share"),
            Query(engine_queries.tokens_per_draft(), f"{_NAMED} tokens per step"),
        ],
    )


def prompt_lengths() -> Panel:
    """How long prompts are."""
    return theme.distribution(
        "Prompt lengths",
        "Finished requests per second by the tokens of their prompts, of the chosen models. Two bands are two "
        "workloads: give the long one engines or a tier of its own, since its prefill makes the short one wait.",
        "short",
        Query(engine_queries.lengths(names.REC_PROMPT_LENGTH_BUCKET), "{{le}}"),
        panel_links=(to_dashboard(names.DASHBOARD_LATENCY, "Latency anatomy"),),
    )


def answer_lengths() -> Panel:
    """How long answers are."""
    return theme.distribution(
        "Answer lengths",
        "Finished requests per second by the tokens that were generated for them, of the chosen models. A band at one "
        "length is clients' max_tokens: answers are cut, see how requests end. Longer answers take the batch's places "
        "longer.",
        "short",
        Query(engine_queries.lengths(names.REC_OUTPUT_LENGTH_BUCKET), "{{le}}"),
    )


def ends() -> Panel:
    """How requests end, by the engine's reason."""
    return theme.over_time(
        "How requests end",
        "Requests per second by the engine's own reason, and those that it refused. length: cut at max_tokens or the "
        "context. error: see the runbook of LLMRequestsFailing. Clients that hang up are in none of them: they are on "
        "Tenants.",
        "reqps",
        [
            Query(engine_queries.ended(), "{{reason}}"),
            Query(engine_queries.number(names.REC_REJECTED_RATE, group=()), "refused"),
        ],
        stacked=True,
        panel_links=(
            runbook("LLMRequestsFailing"),
            runbook("LLMRequestsRejected"),
            to_dashboard(names.DASHBOARD_TENANTS, "Tenants"),
        ),
    )


def costs() -> Panel:
    """A table of engines with what they cost and take."""
    unit = names.METRIC_RECENT_UNIT_COST
    full = names.METRIC_SATURATED_UNIT_COST
    joules = names.METRIC_ENERGY_PER_TOKEN
    return theme.listing(
        "What each engine costs",
        "Dollars per hour of its GPUs, per million tokens of late, and what a million output tokens would cost in a "
        "full engine; joules per token. Decode far above its cost when full: the engine is too empty; give it "
        "company, or its requests to another.",
        {names.LABEL_ENGINE: "Engine"},
        (
            Column("Per hour", USD, engine_queries.engine_price(), decimals=2),
            Column("Prefill, per M", USD, engine_queries.engine_phase(unit, names.PREFILL), decimals=3),
            Column("Decode, per M", USD, engine_queries.engine_phase(unit, names.DECODE), decimals=3),
            Column("Decode when full, per M", USD, engine_queries.engine_phase(full, names.DECODE), decimals=3),
            Column("J per prompt token", "joule", engine_queries.engine_phase(joules, names.PREFILL), decimals=3),
            Column("J per output token", "joule", engine_queries.engine_phase(joules, names.DECODE), decimals=3),
        ),
        row_links={names.LABEL_ENGINE: of_cell(names.DASHBOARD_ENGINE, "This engine alone", "instance")},
        panel_links=(to_dashboard(names.DASHBOARD_ECONOMICS, "Token economics"), runbook("LLMGPUAllocatedIdle")),
        footer=False,
    )


def _kv_bands(settings: Settings) -> tuple[Band, ...]:
    return (Band(settings.alerts.kv_cache_ratio, "broken"),)
