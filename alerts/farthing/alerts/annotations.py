"""Pieces of annotations that alerts share: what the trouble costs, and which dashboard shows it.

The texts are Go templates as Prometheus expands them (its documentation, "Template reference").
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from farthing.domain.conventions import (
    LABEL_ENGINE,
    LABEL_INSTANCE,
    LABEL_MODEL,
    LABEL_UUID,
    METRIC_GPU_ENGINE,
    METRIC_SPEND_RATE,
    METRIC_TOKENS,
)
from farthing.settings import Settings

__all__ = [
    "DEVICE_SPEND",
    "ENGINE_SPEND",
    "FLEET_SPEND",
    "INSTANCE_SPEND",
    "MODEL_SPEND",
    "amount",
    "amount_of",
    "by_instance",
    "dashboard_url",
    "money_text",
    "percent_text",
    "seconds_text",
]

# `else` matters: without a price, or with Farthing itself down, the cost is unknown, which is not 0.
_SHOW_OR_UNKNOWN: Final = '{{ . | first | value | printf "$%.2f" }} per hour{{ else }}an unknown amount{{ end }}'

_AMOUNT_OR_UNKNOWN: Final = '{{ . | first | value | printf "$%.2f" }}{{ else }}an unknown amount{{ end }}'

# Only the token counter knows which model an engine serves.
_MODEL_QUERY: Final = f"sum({METRIC_SPEND_RATE} and on ({LABEL_ENGINE}) {METRIC_TOKENS}{{{LABEL_MODEL}=%q}})"

MODEL_SPEND: Final = f'{{{{ with printf "{_MODEL_QUERY}" $labels.{LABEL_MODEL} | query }}}}{_SHOW_OR_UNKNOWN}'
"""Template: what all engines of the alert's model cost per hour now."""

FLEET_SPEND: Final = f'{{{{ with query "sum({METRIC_SPEND_RATE})" }}}}{_SHOW_OR_UNKNOWN}'
"""Template: what all engines together cost per hour now."""

_ENGINE_QUERY: Final = f"sum({METRIC_SPEND_RATE}{{{LABEL_ENGINE}=%q}})"

ENGINE_SPEND: Final = f'{{{{ with printf "{_ENGINE_QUERY}" $labels.{LABEL_ENGINE} | query }}}}{_SHOW_OR_UNKNOWN}'
"""Template: what the alert's engine costs per hour now."""

_DEVICE_QUERY: Final = f"sum({METRIC_SPEND_RATE} and on ({LABEL_ENGINE}) {METRIC_GPU_ENGINE}{{{LABEL_UUID}=%q}})"

DEVICE_SPEND: Final = f'{{{{ with printf "{_DEVICE_QUERY}" $labels.{LABEL_UUID} | query }}}}{_SHOW_OR_UNKNOWN}'
"""Template: what the engines on the alert's GPU cost per hour now, with all of their GPUs."""

INSTANCE_SPEND: Final = f'{{{{ with printf "{_ENGINE_QUERY}" $labels.{LABEL_INSTANCE} | query }}}}{_SHOW_OR_UNKNOWN}'
"""Template: the same of an alert that has the engine's name as its instance, as the stack's Prometheus has it."""


def amount(query: str) -> str:
    """Template: the first value of ``query`` as an amount of money, or that it is unknown."""
    quoted = query.replace('"', '\\"')
    return f'{{{{ with query "{quoted}" }}}}{_AMOUNT_OR_UNKNOWN}'


def amount_of(query: str, label: str, *, times: int = 1) -> str:
    """Template: the same for a query that has the alert's ``label`` in the place of ``%q``, so many ``times``."""
    quoted = query.replace('"', '\\"')
    return f'{{{{ with printf "{quoted}"{f" $labels.{label}" * times} | query }}}}{_AMOUNT_OR_UNKNOWN}'


def by_instance(expr: str) -> str:
    """``expr`` by engine, with the engine's name as instance too, so that a silent target can mute it."""
    return f'label_replace({expr}, "{LABEL_INSTANCE}", "$1", "{LABEL_ENGINE}", "(.*)")'


def dashboard_url(settings: Settings, uid: str, by_model: bool = False) -> str:
    """URL of a dashboard, in ``notify.grafana_url`` or the stack's Grafana; ``by_model``: on the alert's model."""
    grafana = settings.notify.grafana_url or f"http://localhost:{settings.stack.grafana_port}"
    url = f"{str(grafana).rstrip('/')}/d/{uid}"
    return f"{url}?var-model={{{{ $labels.{LABEL_MODEL} | urlquery }}}}" if by_model else url


def seconds_text(seconds: float) -> str:
    """A threshold as people read it: ``0.5 s``, ``2 s``."""
    return f"{seconds:.10g} s"


def percent_text(ratio: float) -> str:
    """A share as people read it: ``50 %``, ``0.5 %``."""
    return f"{ratio * 100:.10g} %"


def money_text(dollars: Decimal) -> str:
    """An amount as people read it: ``$1000``, ``$0.5``."""
    return f"${dollars.normalize():f}"
