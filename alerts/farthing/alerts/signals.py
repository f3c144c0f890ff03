"""One vocabulary for every engine: recording rules that turn an engine's own names into ``llm:`` series.

Scalars keep (instance, model); they are added up, or for utilisations the largest taken, over the
``engine`` label that data-parallel ranks differ by. Histograms become one rate per (model, le): buckets
of many instances add up, quantiles do not, so quantiles are computed from the recorded buckets.

Names: vLLM v1 (0.12 and later), as in tests/fixtures/vllm-0.32-cpu.
"""

from __future__ import annotations

from typing import Final

from farthing.alerts.rules import RecordingRule, RuleGroup
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["vocabulary"]

RANGE: Final = "1m"
"""Of every rate; the records' names say so too. Holds at least four scrapes of 15 s."""

# vLLM calls the model `model_name`.
_MODEL_LABEL: Final = "model_name"
_PER_INSTANCE: Final = f"{names.LABEL_INSTANCE}, {names.LABEL_MODEL}"
_PER_MODEL_BUCKET: Final = f"{names.LABEL_MODEL}, {names.LABEL_LE}"


def vocabulary(_settings: Settings) -> RuleGroup:
    """The ``llm:`` series; a quantile comes after the buckets it reads, so that it is never an evaluation late."""
    return RuleGroup(
        names.GROUP_VOCABULARY,
        (
            _gauge(names.REC_RUNNING, "sum", "vllm:num_requests_running"),
            _gauge(names.REC_WAITING, "sum", "vllm:num_requests_waiting"),
            _gauge(names.REC_KV, "max", "vllm:kv_cache_usage_perc"),
            _rate(names.REC_GENERATION_RATE, "vllm:generation_tokens_total"),
            # Includes tokens taken from the prefix cache.
            _rate(names.REC_PROMPT_RATE, "vllm:prompt_tokens_total"),
            # Counts what the engine finished: vLLM counts neither client aborts nor refused requests.
            _rate(names.REC_REQUEST_RATE, "vllm:request_success_total"),
            _buckets(names.REC_TTFT_BUCKET, "vllm:time_to_first_token_seconds_bucket"),
            _quantile(names.REC_TTFT_P50, 0.5, names.REC_TTFT_BUCKET),
            _quantile(names.REC_TTFT_P95, 0.95, names.REC_TTFT_BUCKET),
            _buckets(names.REC_ITL_BUCKET, "vllm:inter_token_latency_seconds_bucket"),
            _quantile(names.REC_ITL_P50, 0.5, names.REC_ITL_BUCKET),
            _quantile(names.REC_ITL_P95, 0.95, names.REC_ITL_BUCKET),
        ),
    )


def _series(metric: str) -> str:
    return f'{metric}{{{names.LABEL_JOB}="{names.JOB_ENGINES}"}}'


def _named(expr: str) -> str:
    """``expr`` with the engine's model label under our name; an aggregation then drops the engine's."""
    return f'label_replace({expr}, "{names.LABEL_MODEL}", "$1", "{_MODEL_LABEL}", "(.*)")'


def _gauge(record: str, operation: str, metric: str) -> RecordingRule:
    return RecordingRule(record, f"{operation} by ({_PER_INSTANCE}) ({_named(_series(metric))})")


def _rate(record: str, metric: str) -> RecordingRule:
    return RecordingRule(record, f"sum by ({_PER_INSTANCE}) ({_named(f'rate({_series(metric)}[{RANGE}])')})")


def _buckets(record: str, metric: str) -> RecordingRule:
    return RecordingRule(record, f"sum by ({_PER_MODEL_BUCKET}) ({_named(f'rate({_series(metric)}[{RANGE}])')})")


def _quantile(record: str, quantile: float, buckets: str) -> RecordingRule:
    return RecordingRule(record, f"histogram_quantile({quantile}, {buckets})")
