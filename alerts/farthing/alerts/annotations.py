"""Pieces of annotations that alerts share: what the trouble costs, and which dashboard shows it.

The texts are Go templates as Prometheus expands them (its documentation, "Template reference").
"""

from __future__ import annotations

from typing import Final

from farthing.domain.conventions import LABEL_ENGINE, LABEL_MODEL, METRIC_SPEND_RATE, METRIC_TOKENS
from farthing.settings import Settings

__all__ = ["FLEET_SPEND", "MODEL_SPEND", "dashboard_url", "seconds_text"]

# `else` matters: without a price, or with Farthing itself down, the cost is unknown, which is not 0.
_SHOW_OR_UNKNOWN: Final = '{{ . | first | value | printf "$%.2f" }} per hour{{ else }}an unknown amount{{ end }}'

# Only the token counter knows which model an engine serves.
_MODEL_QUERY: Final = f"sum({METRIC_SPEND_RATE} and on ({LABEL_ENGINE}) {METRIC_TOKENS}{{{LABEL_MODEL}=%q}})"

MODEL_SPEND: Final = f'{{{{ with printf "{_MODEL_QUERY}" $labels.{LABEL_MODEL} | query }}}}{_SHOW_OR_UNKNOWN}'
"""Template: what all engines of the alert's model cost per hour now."""

FLEET_SPEND: Final = f'{{{{ with query "sum({METRIC_SPEND_RATE})" }}}}{_SHOW_OR_UNKNOWN}'
"""Template: what all engines together cost per hour now."""


def dashboard_url(settings: Settings, uid: str, by_model: bool = False) -> str:
    """URL of a dashboard in the stack's Grafana; ``by_model`` opens it on the alert's model."""
    url = f"http://localhost:{settings.stack.grafana_port}/d/{uid}"
    return f"{url}?var-model={{{{ $labels.{LABEL_MODEL} | urlquery }}}}" if by_model else url


def seconds_text(seconds: float) -> str:
    """A threshold as people read it: ``0.5 s``, ``2 s``."""
    return f"{seconds:.10g} s"
