"""Alertmanager's configuration: one route, one receiver, and what silences what.

Loads in Alertmanager 0.25 (Debian 12) and later.
"""

from __future__ import annotations

from typing import Any, Final

from farthing.alerts.documents import to_yaml
from farthing.alerts.pipeline import TARGET_DOWN
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = ["RECEIVER_NONE", "RECEIVER_WEBHOOK", "render_alertmanager"]

RECEIVER_WEBHOOK: Final = "webhook"
RECEIVER_NONE: Final = "none"
"""Sends nothing: alerts are shown in Alertmanager only."""


def render_alertmanager(settings: Settings) -> str:
    """YAML text of alertmanager.yml; notifies ``settings.alerts.webhook_url``, or nobody when it is not set."""
    receiver = _receiver(settings)
    return to_yaml(
        {
            "route": {
                "receiver": receiver["name"],
                "group_by": ["alertname", names.LABEL_MODEL],
                # Long enough for the alerts of one incident to arrive in one message, short enough to act on.
                "group_wait": "10s",
                "group_interval": "1m",
                "repeat_interval": "4h",
            },
            "receivers": [receiver],
            "inhibit_rules": _inhibit_rules(),
        }
    )


def _receiver(settings: Settings) -> dict[str, Any]:
    if settings.alerts.webhook_url is None:
        return {"name": RECEIVER_NONE}
    return {
        "name": RECEIVER_WEBHOOK,
        "webhook_configs": [{"url": str(settings.alerts.webhook_url), "send_resolved": True}],
    }


def _inhibit_rules() -> list[dict[str, Any]]:
    critical, warning = f'{names.LABEL_SEVERITY}="critical"', f'{names.LABEL_SEVERITY}="warning"'
    # A label that both alerts lack counts as equal; one that only one of them has does not.
    return [
        # The page says all that the ticket of the same trouble would.
        {
            "source_matchers": [critical],
            "target_matchers": [warning],
            "equal": ["alertname", names.LABEL_MODEL, names.LABEL_INSTANCE],
        },
        # A target that does not answer has no other news worth reading. Alerts per model carry no instance
        # and stay: the model's other instances may still be slow.
        {
            "source_matchers": [f'alertname="{TARGET_DOWN}"'],
            "target_matchers": [warning],
            "equal": [names.LABEL_INSTANCE],
        },
    ]
