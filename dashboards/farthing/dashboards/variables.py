"""The choices at the top of every dashboard."""

from __future__ import annotations

from typing import Final

from farthing.dashboards.parts import Variable
from farthing.domain.conventions import LABEL_INSTANCE, LABEL_MODEL, REC_RUNNING

__all__ = ["INSTANCE", "MODEL"]

MODEL: Final = Variable("model", "Model", f"label_values({REC_RUNNING}, {LABEL_MODEL})")

INSTANCE: Final = Variable(
    "instance", "Instance", f'label_values({REC_RUNNING}{{{LABEL_MODEL}=~"${MODEL.name}"}}, {LABEL_INSTANCE})'
)
