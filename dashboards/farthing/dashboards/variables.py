"""The choices at the top of dashboards. Each lists what is left by the choices before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from farthing.dashboards.parts import Variable
from farthing.domain import conventions as names

__all__ = ["BATCH_TIER", "CLUSTER", "ENGINE_KIND", "HOST", "INSTANCE", "MODEL", "OF_ENGINES", "SLO", "TENANT", "TIER"]

_OF_CLUSTER: Final = f'{names.LABEL_CLUSTER}=~"$cluster"'
_OF_KIND: Final = f'{_OF_CLUSTER}, {names.LABEL_ENGINE_KIND}=~"$engine_kind"'
_OF_MODEL: Final = f'{names.LABEL_MODEL}=~"$model"'

CLUSTER: Final = Variable("cluster", "Cluster", f"label_values({names.REC_ENGINE}, {names.LABEL_CLUSTER})")
"""Empty on a Prometheus by itself: its external labels are there for those that collect several."""

ENGINE_KIND: Final = Variable(
    "engine_kind", "Engine kind", f"label_values({names.REC_ENGINE}{{{_OF_CLUSTER}}}, {names.LABEL_ENGINE_KIND})"
)

MODEL: Final = Variable("model", "Model", f"label_values({names.REC_ENGINE}{{{_OF_KIND}}}, {names.LABEL_MODEL})")

INSTANCE: Final = Variable(
    "instance", "Instance", f"label_values({names.REC_ENGINE}{{{_OF_KIND}, {_OF_MODEL}}}, {names.LABEL_INSTANCE})"
)

TENANT: Final = Variable(
    "tenant",
    "Tenant",
    f"label_values({names.METRIC_TENANT_REQUESTS}{{{_OF_CLUSTER}, {_OF_MODEL}}}, {names.LABEL_TENANT})",
)

TIER: Final = Variable(
    "tier",
    "Tier",
    f"label_values({names.METRIC_REQUESTS}{{{_OF_CLUSTER}, {_OF_MODEL}}}, {names.LABEL_TIER})",
)

BATCH_TIER: Final = replace(TIER, label="Batch tier", chosen="batch")
"""Which tier's work can wait: those of other names are chosen instead."""

SLO: Final = Variable("slo", "Promise", f"label_values({names.REC_SLO_OBJECTIVE}{{{_OF_CLUSTER}}}, {names.LABEL_SLO})")

HOST: Final = Variable(
    "hostname", "Host", f"label_values({names.METRIC_GPU_INFO}{{{_OF_CLUSTER}}}, {names.LABEL_HOST})"
)

OF_ENGINES: Final = (CLUSTER, ENGINE_KIND, MODEL, INSTANCE)
"""What selects engines; every dashboard begins with them."""
