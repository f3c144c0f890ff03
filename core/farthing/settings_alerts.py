"""The section of farthing.yaml that says when somebody is told; each default is justified in the alert's runbook."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, HttpUrl

__all__ = ["AlertSettings"]

Seconds = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, Field(gt=0, le=1)]
Dollars = Annotated[Decimal, Field(gt=0, max_digits=18, decimal_places=9)]


class AlertSettings(BaseModel):
    """Thresholds that the alert rules and dashboards share. What each is for, and why it is what it is, stands in the
    runbooks that [alerts.md](alerts.md) lists.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluation_seconds: Annotated[int, Field(ge=1, le=60)] = 5
    """How often rules are evaluated that follow the moment. Where hundreds of engines are scraped every 15 s, 15."""
    ttft_p95_seconds: Positive = 0.5
    """Interactive chat: 95 % of first tokens within half a second."""
    itl_p95_seconds: Positive = 0.05
    """Streaming: 95 % of tokens within 50 ms of the one before."""
    e2e_p95_seconds: Positive = 10.0
    """95 % of whole answers within ten seconds: what document Q&A promises, the slowest that somebody waits for."""
    for_seconds: Seconds = 15
    """How long a latency must last before its alert fires."""
    failed_ratio: Ratio = 0.02
    """Share of requests that fail, in the engine or with a server error, from which on somebody is told."""
    aborted_ratio: Ratio = 0.1
    """Share of requests whose client hangs up."""
    rejected_ratio: Ratio = 0.01
    """Share of requests that an engine refuses to admit."""
    stalled_seconds: Seconds = 60
    """How long an engine with requests may stand without a token, beyond the minute that a rate looks back."""
    queue_requests: Positive = 20
    """Requests that wait at one instance."""
    kv_cache_ratio: Ratio = 0.95
    """How full the KV cache may be while requests wait."""
    preemptions_per_minute: Positive = 10
    """Requests that one instance throws out of its KV cache, and computes again."""
    spend_jump_ratio: Annotated[float, Field(gt=1)] = 1.5
    """The fleet's hourly cost, by its mean of the last day."""
    unit_cost_jump_ratio: Annotated[float, Field(gt=1)] = 2.0
    """What a million tokens of a model cost in an hour, by their mean of the last day."""
    daily_spend_usd: Dollars = Decimal(1000)
    """What all engines together may cost in a day (UTC)."""
    monthly_spend_usd: Dollars = Decimal(30_000)
    """What all engines together may cost in a calendar month (UTC)."""
    idle_cost_ratio: Ratio = 0.5
    """Share of cost that is idle time, over six hours."""
    asleep_cost_ratio: Ratio = 0.3
    """Share of cost that is of engines asleep: their GPUs are paid for."""
    starting_cost_ratio: Ratio = 0.1
    """Share of cost that is of engines starting."""
    waste_usd: Dollars = Decimal(5)
    """Waste, or an anomaly, of less than this tells nobody."""
    unattributed_ratio: Ratio = 0.005
    """Share of busy cost that no request explains, over an hour."""
    cache_collapse_ratio: Ratio = 0.5
    """What is left of a cache's hit rate, by its mean of the last six hours."""
    gpu_busy_ratio: Ratio = 0.5
    """How busy the engines of a model must be while its requests queue."""
    gpu_idle_seconds: Seconds = 1800
    """How long an engine's GPUs may be paid for without work."""
    gpu_thermal_ratio: Ratio = 0.1
    """Share of five minutes that heat may hold a GPU's clocks down."""
    gpu_power_clock_ratio: Ratio = 0.6
    """What the power limit must leave of a GPU's clock, by its highest of the last day."""
    gpu_memory_left_ratio: Ratio = 0.02
    """Share of a GPU's memory that must be left. vLLM's own share (`--gpu-memory-utilization`) leaves 4 to 7 %."""
    gpu_working_ratio: Ratio = 0.5
    """Share of its power limit from which on a GPU works, so that a utilization of 0 is not believed."""
    watermark_lag_seconds: Positive = 300
    """How far an engine's books may be behind."""
    cold_start_seconds: Seconds = 600
    """How long an engine may take to start."""
    webhook_url: HttpUrl | None = None
    """Where Alertmanager posts; None: alerts are shown in Alertmanager only."""
