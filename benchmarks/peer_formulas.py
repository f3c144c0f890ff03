"""How others split the same engine's cost, from the counters that the same recording ends with.

Each formula gives the share of busy cost that prompts get, and from it a price per prompt and per output token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.costing.oracle import Seconds
from tests.costing.oracle_model import Schedule

from farthing.collectors.engines.exposition import parse_exposition
from farthing.domain import conventions as c
from farthing.replay.recording import Recording

__all__ = ["PeerSplit", "charges", "peer_splits"]

_MULTIPLIER = 2.5
"""OpenCost's ``defaultOutputTokenCostMultiplier``."""


@dataclass(frozen=True, slots=True)
class PeerSplit:
    """One way to split cost between prompts and output."""

    name: str
    source: str
    prompt_share: float
    """0-1, of all busy cost."""


def peer_splits(recording: Recording) -> list[PeerSplit]:
    """The published formulas, on the totals of the recording's last scrape."""
    total = _totals(recording.last_exposition())
    prefill = total["vllm:request_prefill_time_seconds_sum"]
    means = total["vllm:request_time_per_output_token_seconds_sum"]
    decode = total["vllm:request_decode_time_seconds_sum"]
    output = total["vllm:generation_tokens_total"]
    # "effective" input tokens: OpenCost subtracts cache hits where it knows the block size
    computed = total["vllm:prompt_tokens_total"] - total["vllm:prefix_cache_hits_total"]
    opencost = "opencost/opencost pkg/inferencecost"
    return [
        PeerSplit("OpenCost, as published", f"{opencost}/collector.go, calculator.go", prefill / (prefill + means)),
        PeerSplit(
            "the same with decode_time", "its metric replaced by the sum it stands for", prefill / (prefill + decode)
        ),
        PeerSplit(
            "OpenCost's 2.5x fallback",
            f"{opencost}/calculator.go, calculateMultiplierSplit",
            computed / (computed + _MULTIPLIER * output),
        ),
        PeerSplit("all on output tokens", "vllm-cost-meter, arXiv 2606.11690", 0.0),
    ]


def charges(split: PeerSplit, schedule: Schedule) -> Seconds:
    """What each request would pay at the formula's price per computed prompt token and per output token.

    In seconds of busy time, all of it given out: aborted requests pay for what the engine did, which is more
    than a method without their records can do.
    """
    prompt = sum(request.computed for request in schedule.requests.values())
    output = sum(request.last_step - request.first_step + 1 for request in schedule.requests.values())
    busy = schedule.busy_s
    return {
        identity: {
            c.PREFILL: busy * split.prompt_share * request.computed / prompt,
            c.DECODE: busy * (1 - split.prompt_share) * (request.last_step - request.first_step + 1) / output,
            c.VISION: 0.0,
        }
        for identity, request in schedule.requests.items()
    }


def _totals(exposition: str) -> Mapping[str, float]:
    """Sum over label sets, by sample name."""
    totals: dict[str, float] = {}
    for sample in parse_exposition(exposition.encode(), "text/plain; version=0.0.4", "the last scrape"):
        totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals
