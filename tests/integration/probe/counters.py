"""An engine's own counters: what every account of its work has to add up to."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

__all__ = ["EngineCounts", "read_counts", "read_series", "wait_until_idle"]

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]

BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting")
QUIET_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """Totals since the engine started, over its ranks and API servers."""

    prompt: int
    computed: int
    cached: int
    output: int
    finished: int
    """Sequences that the engine finished; a client's abort is in none."""
    first_tokens: int
    """Sequences that got a first token, whatever became of them."""

    def __sub__(self, earlier: EngineCounts) -> EngineCounts:
        return EngineCounts(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)))


def read_series(url: str) -> Series:
    """Every sample of an exposition: (name, sorted labels) -> value."""
    text = httpx.get(f"{url}/metrics", timeout=30, trust_env=False, follow_redirects=True).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def read_counts(url: str) -> EngineCounts:
    """The engine's counters now."""
    return _counts(read_series(url))


def wait_until_idle(url: str) -> EngineCounts:
    """The engine's counters once it runs nothing and they stand still."""
    deadline = time.monotonic() + QUIET_SECONDS
    before = None
    while time.monotonic() < deadline:
        series = read_series(url)
        # several API servers show these two once one of them has run something
        busy = sum(value for (name, _), value in series.items() if name in BUSY)
        counts = _counts(series)
        if not busy and counts == before:
            return counts
        before = None if busy else counts
        time.sleep(0.25)
    pytest.fail(f"the engine was not idle within {QUIET_SECONDS:g} s")


def _counts(series: Series) -> EngineCounts:
    return EngineCounts(
        prompt=_sum(series, "vllm:prompt_tokens_total"),
        computed=_sum(series, "vllm:prompt_tokens_by_source_total", source="local_compute"),
        cached=_sum(series, "vllm:prompt_tokens_cached_total"),
        output=_sum(series, "vllm:generation_tokens_total"),
        finished=_sum(series, "vllm:request_success_total"),
        first_tokens=_sum(series, "vllm:time_to_first_token_seconds_count"),
    )


def _sum(series: Series, name: str, **labels: str) -> int:
    found = [value for (known, at), value in series.items() if known == name and labels.items() <= dict(at).items()]
    assert found, f"the engine has no {name}"
    return int(sum(found))
