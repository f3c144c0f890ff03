"""When deployments scale: KEDA's ScaledObject, the HorizontalPodAutoscaler and prometheus-adapter's rules, per model.

All three ask the same questions of the one vocabulary. Fields are those of KEDA 2.18 (keda.sh/v1alpha1; scalers
"prometheus" and "cron"), Kubernetes' autoscaling/v2, and prometheus-adapter 0.12 (docs/externalmetrics.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

from farthing.alerts.documents import HEADER, to_yaml
from farthing.alerts.scale_down import Hold
from farthing.domain import conventions as names
from farthing.settings import Settings
from farthing.settings_autoscale import PrewarmSettings, ScaledModelSettings

__all__ = ["Signal", "adapter_rules", "documents", "horizontal_pod_autoscaler", "scaled_object", "signals"]

MetricType: TypeAlias = Literal["AverageValue", "Value"]

POLL_SECONDS: Final = 15
"""How often KEDA asks; the rules behind are evaluated every 5 to 30 s."""
MOST_GROWTH: Final = 2
"""A promise that is broken asks for at most twice the replicas: more of them may not be the cure."""
TRAFFIC_FLOOR: Final = 20
"""Requests in five minutes below which a broken promise is a few requests' bad luck."""
LONGEST_PERIOD_SECONDS: Final = 1800
"""Of ``periodSeconds`` in autoscaling/v2."""

_HEADER: Final = "# Written by `farthing autoscale render`; change autoscale: in farthing.yaml instead.\n"


@dataclass(frozen=True, slots=True)
class Signal:
    """One question, and the answer that is right.

    ``AverageValue``: replicas = answer / target. ``Value``: replicas change by the ratio of answer to target.
    """

    name: str
    query: str
    """Gives one number, or none where the model's engines are not seen: the replicas then stay as they are."""
    series: str
    """A series that is there whenever the question can be asked."""
    target: Decimal
    type: MetricType


def signals(settings: Settings, scaled: ScaledModelSettings) -> tuple[Signal, ...]:
    """Queue depth, KV pressure and, where a first token is promised for the model, how fast its error budget burns."""
    model = f"{names.LABEL_MODEL}={_quoted(scaled.model)}"
    waiting, cache = f"{names.REC_WAITING}{{{model}}}", f"{names.REC_KV}{{{model}}}"
    found = [
        Signal("queue", f"sum({waiting})", waiting, scaled.queue_per_replica, "AverageValue"),
        Signal("kv-cache", f"avg({cache})", cache, scaled.kv_cache_ratio, "Value"),
    ]
    promises = [one.name for one in settings.objectives if one.signal == names.SLO_TTFT and _is_for(one.model, scaled)]
    if promises:
        running = f"{names.REC_RUNNING}{{{model}}}"
        burn = _burn(f'{names.LABEL_SLO}=~"{"|".join(promises)}",{model}', scaled.burn_rate)
        found.append(Signal("first-token", f"{burn}\nor 0 * max({running})", running, scaled.burn_rate, "Value"))
    return tuple(found)


def _burn(selector: str, target: Decimal) -> str:
    """The fastest burn rate of the promises, where there is traffic enough to tell.

    What follows in ``signals`` makes it 0 where there is none but the engines are seen: an empty answer would keep
    every replica through the night.
    """
    return (
        f"(clamp_max(max({names.REC_SLO_BURN_5M}{{{selector}}}), {MOST_GROWTH * target:f})\n"
        f"  and on () sum({names.REC_SLO_EVENTS}{{{selector}}}) * 300 >= {TRAFFIC_FLOOR})"
    )


def scaled_object(settings: Settings, scaled: ScaledModelSettings, hold: Hold) -> dict[str, Any]:
    """KEDA's object for one deployment; KEDA makes the HorizontalPodAutoscaler itself."""
    triggers = [
        _prometheus_trigger(signal, str(settings.autoscale.prometheus_url)) for signal in signals(settings, scaled)
    ]
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": scaled.deployment, "namespace": scaled.namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": scaled.deployment},
            "pollingInterval": POLL_SECONDS,
            # only for the step from one replica to none
            "cooldownPeriod": hold.seconds,
            "minReplicaCount": scaled.min_replicas,
            "maxReplicaCount": scaled.max_replicas,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(hold)}},
            "triggers": [*triggers, *(_cron_trigger(prewarm) for prewarm in scaled.prewarm)],
        },
    }


def horizontal_pod_autoscaler(settings: Settings, scaled: ScaledModelSettings, hold: Hold) -> dict[str, Any]:
    """The same without KEDA: external metrics from prometheus-adapter; no schedule, and at least one replica."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": scaled.deployment, "namespace": scaled.namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": scaled.deployment},
            "minReplicas": max(1, scaled.min_replicas),
            "maxReplicas": scaled.max_replicas,
            "metrics": [_external_metric(signal, scaled) for signal in signals(settings, scaled)],
            "behavior": _behavior(hold),
        },
    }


def adapter_rules(settings: Settings, models: Iterable[ScaledModelSettings]) -> dict[str, Any]:
    """prometheus-adapter's configuration: one external metric per deployment and signal.

    The model stands in the query and not in a selector: Kubernetes' selectors take no ``/``, and models have one.
    """
    rules = [
        {
            "seriesQuery": signal.series,
            "resources": {"namespaced": False},
            "name": {"matches": ".*", "as": _metric_name(scaled, signal)},
            "metricsQuery": signal.query,
        }
        for scaled in models
        for signal in signals(settings, scaled)
    ]
    return {"externalRules": rules}


def documents(found: Iterable[tuple[dict[str, Any], str]]) -> str:
    """YAML text of several documents, each below a comment of one line."""
    texts = []
    for document, comment in found:
        texts.append(f"# {comment}\n{to_yaml(document).removeprefix(HEADER)}")
    return _HEADER + "---\n".join(texts)


def _is_for(model: str | None, scaled: ScaledModelSettings) -> bool:
    return model is None or model == scaled.model


def _prometheus_trigger(signal: Signal, url: str) -> dict[str, Any]:
    return {
        "type": "prometheus",
        "name": signal.name,
        "metricType": signal.type,
        "metadata": {
            "serverAddress": url.rstrip("/"),
            "query": signal.query,
            "threshold": f"{signal.target:f}",
            # An engine that is not seen is not an engine without work: rather keep what runs.
            "ignoreNullValues": "false",
        },
    }


def _cron_trigger(prewarm: PrewarmSettings) -> dict[str, Any]:
    return {
        "type": "cron",
        "metadata": {
            "timezone": prewarm.timezone,
            "start": prewarm.start,
            "end": prewarm.end,
            "desiredReplicas": str(prewarm.replicas),
        },
    }


def _external_metric(signal: Signal, scaled: ScaledModelSettings) -> dict[str, Any]:
    value = "averageValue" if signal.type == "AverageValue" else "value"
    return {
        "type": "External",
        "external": {
            "metric": {"name": _metric_name(scaled, signal)},
            "target": {"type": signal.type, value: _quantity(signal.target)},
        },
    }


def _metric_name(scaled: ScaledModelSettings, signal: Signal) -> str:
    return f"{scaled.namespace}-{scaled.deployment}-{signal.name}"


def _behavior(hold: Hold) -> dict[str, Any]:
    """Up at most twofold per cold start, since what is starting helps nobody yet; down one by one, when it pays."""
    period = min(hold.start_seconds, LONGEST_PERIOD_SECONDS)
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "policies": [
                {"type": "Percent", "value": 100, "periodSeconds": period},
                {"type": "Pods", "value": 2, "periodSeconds": period},
            ],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": hold.seconds,
            "selectPolicy": "Min",
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
        },
    }


def _quantity(value: Decimal) -> str:
    """A number as Kubernetes writes it: ``10``, ``800m``; targets have at most three decimals."""
    thousandths = int(value * 1000)
    return f"{thousandths // 1000}" if thousandths % 1000 == 0 else f"{thousandths}m"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
