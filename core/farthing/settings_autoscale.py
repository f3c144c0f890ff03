"""The section of farthing.yaml that says which deployments scale, between which bounds, and on what."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, field_validator, model_validator

__all__ = ["DEFAULT_COLD_START_SECONDS", "AutoscaleSettings", "PrewarmSettings", "ScaledModelSettings"]

DEFAULT_COLD_START_SECONDS: Final = 180
"""What is taken for a start that was never seen: an 8-billion model from a local disk, its graphs compiled."""

CRON_FIELDS: Final = 5
Text = Annotated[str, Field(min_length=1)]
KubernetesName = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PrewarmSettings(_Strict):
    """Hours in which so many replicas run, whatever the load: they are warm when it comes."""

    timezone: Text
    """As the IANA time zone database names it, for example ``Europe/Berlin``."""
    start: Text
    """Cron expression of five fields; let it be a cold start before the load comes."""
    end: Text
    """Cron expression of five fields."""
    replicas: Annotated[int, Field(ge=1)]
    """Fewest replicas in these hours."""

    @field_validator("timezone")
    @classmethod
    def _known(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"no time zone {timezone!r}; enter one such as Europe/Berlin or Etc/UTC") from error
        return timezone

    @field_validator("start", "end")
    @classmethod
    def _cron(cls, text: str) -> str:
        if len(text.split()) != CRON_FIELDS:
            raise ValueError(f"{text!r} is not a cron expression; enter minute hour day month weekday: 30 7 * * 1-5")
        return text

    @model_validator(mode="after")
    def _lasts(self) -> PrewarmSettings:
        if self.start == self.end:
            raise ValueError(f"start and end are both {self.start!r}; let the end be later")
        return self


class ScaledModelSettings(_Strict):
    """A deployment that serves one model, and may have more or fewer replicas."""

    model: Text
    """The model, as the label ``model`` has it."""
    deployment: KubernetesName
    """Name of the Kubernetes Deployment."""
    namespace: KubernetesName = "default"
    """Where it is."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """Fewest replicas. 0 only together with ``prewarm``: without an engine nobody sees that requests wait."""
    max_replicas: Annotated[int, Field(ge=1)] = 4
    """Most replicas."""
    queue_per_replica: Annotated[Decimal, Field(gt=0, max_digits=9, decimal_places=3)] = Decimal(10)
    """Waiting requests for each replica that there should be; half of the default of ``alerts.queue_requests``."""
    kv_cache_ratio: Annotated[Decimal, Field(gt=0, le=1, max_digits=4, decimal_places=3)] = Decimal("0.8")
    """How full the KV caches of the replicas should be on the mean; beyond, requests are preempted."""
    burn_rate: Annotated[Decimal, Field(gt=0, max_digits=9, decimal_places=3)] = Decimal(1)
    """How fast the error budget of the first token may burn; 1 uses it up exactly at the end of its window."""
    cold_start_seconds: Annotated[int | None, Field(ge=1)] = None
    """How long a replica takes to start. None: what the ledger has booked as ``starting``, and without any, 180."""
    cold_start_penalty_usd: Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=9)] = Decimal(0)
    """What a start costs beyond its GPUs: what it is worth to you that nobody waits for one."""
    prewarm: tuple[PrewarmSettings, ...] = ()

    @model_validator(mode="after")
    def _bounds(self) -> ScaledModelSettings:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"deployment {self.deployment!r}: min_replicas {self.min_replicas} is more than max_replicas "
                f"{self.max_replicas}; lower it"
            )
        if self.min_replicas == 0 and not self.prewarm:
            raise ValueError(
                f"deployment {self.deployment!r}: with min_replicas 0 nothing starts it; add prewarm, or keep 1"
            )
        for prewarm in self.prewarm:
            if prewarm.replicas > self.max_replicas:
                raise ValueError(
                    f"deployment {self.deployment!r}: prewarm of {prewarm.replicas} replicas is more than max_replicas "
                    f"{self.max_replicas}; raise that"
                )
        return self


class AutoscaleSettings(_Strict):
    """What ``farthing autoscale render`` writes for Kubernetes; see [autoscaling.md](autoscaling.md)."""

    prometheus_url: HttpUrl = HttpUrl("http://prometheus.monitoring.svc:9090")
    """Prometheus with Farthing's recording rules, as KEDA reaches it."""
    models: tuple[ScaledModelSettings, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> AutoscaleSettings:
        names = [(entry.namespace, entry.deployment) for entry in self.models]
        for namespace, deployment in names:
            if names.count((namespace, deployment)) > 1:
                raise ValueError(f"deployment {deployment!r} of namespace {namespace!r} is there twice; keep one")
        return self
