"""Which series the reader's choices at the top of a dashboard select, for each family of series.

All of a variable is the regular expression ``.*``, which also takes series without the label. What is chosen and is
no label of a series is taken away by a set operation whose right side is empty while All is chosen: engines known to
serve another model, or to be of another kind, drop out; one that nobody knows more of stays, or the money it burns
would be hidden.

Engine series of Farthing carry ``engine``, the name in farthing.yaml; the scrape gives each engine's target the same
name as ``instance``, so that one variable selects both.
"""

from __future__ import annotations

from typing import Final

from farthing.domain import conventions as names
from farthing.promql.scope import Scope

__all__ = [
    "BOOKS",
    "BUDGETS",
    "ENGINES",
    "ENGINE_MODELS",
    "GPUS",
    "INSTANCES",
    "INTERVAL",
    "MODELS",
    "PROMISES",
    "RANGE",
    "REQUESTS",
    "SLOS",
    "TARGETS",
    "TENANTS",
    "TENANT_SUMS",
]

INTERVAL: Final = "$__rate_interval"
"""Window of a rate: at least four scrapes, wider where the graph has fewer points."""
RANGE: Final = "$__range"
"""The dashboard's whole time range."""

_CLUSTER: Final = f'{names.LABEL_CLUSTER}=~"$cluster"'
_MODEL: Final = f'{names.LABEL_MODEL}=~"$model"'
_INSTANCE: Final = f'{names.LABEL_INSTANCE}=~"$instance"'
_ENGINE: Final = f'{names.LABEL_ENGINE}=~"$instance"'
_TENANT: Final = f'{names.LABEL_TENANT}=~"$tenant"'
_TIER: Final = f'{names.LABEL_TIER}=~"$tier"'
_SLO: Final = f'{names.LABEL_SLO}=~"$slo"'
_HOST: Final = f'{names.LABEL_HOST}=~"$hostname"'

_OTHER_KIND: Final = f'{names.REC_ENGINE}{{{names.LABEL_ENGINE_KIND}!~"$engine_kind"}}'
_THIS_KIND: Final = f'{names.REC_ENGINE}{{{names.LABEL_ENGINE_KIND}=~"$engine_kind"}}'
_OTHER_MODEL: Final = f'{names.METRIC_TOKENS}{{{names.LABEL_MODEL}!~"$model"}}'
_CHOSEN_DEVICE: Final = (
    f"{names.METRIC_GPU_ENGINE}{{{_ENGINE}}} unless on ({names.LABEL_ENGINE}) "
    f'{names.REC_ENGINE}{{{names.LABEL_MODEL}!~"$model"}} unless on ({names.LABEL_ENGINE}) {_OTHER_KIND}'
)
_OTHER_DEVICE: Final = f"{names.METRIC_GPU_ENGINE} unless on ({names.LABEL_UUID}) ({_CHOSEN_DEVICE})"

INSTANCES: Final = Scope((_CLUSTER, _MODEL, _INSTANCE), f"unless on ({names.LABEL_INSTANCE}) {_OTHER_KIND}")
"""``llm:`` series by instance and model."""
MODELS: Final = Scope(
    (_CLUSTER, _MODEL),
    f"unless on ({names.LABEL_MODEL}) ({_OTHER_KIND} unless on ({names.LABEL_MODEL}) {_THIS_KIND})",
)
"""``llm:`` series of histograms, whose instances' buckets are added up already: by model."""
TARGETS: Final = Scope((_CLUSTER, _INSTANCE), INSTANCES.less)
"""``up``, which knows instances and no models."""
ENGINES: Final = Scope(
    (_CLUSTER, _ENGINE),
    f"unless on ({names.LABEL_ENGINE}) {_OTHER_MODEL} unless on ({names.LABEL_ENGINE}) {_OTHER_KIND}",
)
"""Series of Farthing by engine."""
ENGINE_MODELS: Final = Scope((_CLUSTER, _ENGINE, _MODEL), f"unless on ({names.LABEL_ENGINE}) {_OTHER_KIND}")
"""Series of Farthing by engine and model."""
TENANTS: Final = Scope((_CLUSTER, _MODEL, _TENANT, _TIER), MODELS.less)
"""Series of Farthing by tenant, model and tier: of all instances."""
TENANT_SUMS: Final = Scope((_CLUSTER, _TENANT))
"""Series of Farthing by tenant alone: spend of today, anomalies; and budgets, those of all tenants among them."""
REQUESTS: Final = Scope((_CLUSTER, _MODEL, _TIER), MODELS.less)
"""Farthing's histograms and counts of requests, by model and tier."""
PROMISES: Final = Scope((_CLUSTER, _SLO))
"""``slo:`` series of what farthing.yaml promises, by promise alone."""
SLOS: Final = Scope((_CLUSTER, _MODEL, _SLO, _TIER), MODELS.less)
"""``slo:`` series by promise and model, and by tier where the promise is to one."""
BUDGETS: Final = Scope((_CLUSTER,))
"""Amounts of the whole bill, budgets, forecasts: a budget's own labels say what it is for."""
BOOKS: Final = Scope((_CLUSTER,))
"""What Farthing says of itself."""
GPUS: Final = Scope((_CLUSTER, _HOST), f"unless on ({names.LABEL_UUID}) ({_OTHER_DEVICE})")
"""``gpu:`` and ``farthing_gpu_`` series by device: those that a chosen engine has, and those that no engine has."""
