"""Alertmanager's configuration: who is told of what, in which words, and what silences what.

``debian`` is what Alertmanager 0.25 (Debian 12) reads, and later ones too; ``current`` may use keys of 0.28.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from farthing.alerts.alertmanager_receivers import integrations
from farthing.alerts.alertmanager_templates import TEMPLATE_FILE, render_templates
from farthing.alerts.deadman import WATCHDOG
from farthing.alerts.documents import to_yaml
from farthing.alerts.inhibitions import INHIBITIONS
from farthing.domain import conventions as names
from farthing.domain.errors import ConfigError
from farthing.settings import Settings
from farthing.settings_notify import (
    RECEIVER_DEAD_MAN,
    RECEIVER_NONE,
    RECEIVER_WEBHOOK,
    DeadMansSwitchSettings,
    NotifyRouteSettings,
)

__all__ = [
    "CONFIG_FILE",
    "RECEIVER_DEAD_MAN",
    "RECEIVER_NONE",
    "RECEIVER_WEBHOOK",
    "alertmanager_files",
    "render_alertmanager",
]

CONFIG_FILE: Final = "alertmanager.yml"

NOT_A_TEST: Final = f'{names.LABEL_TEST}=""'
"""Of alerts that silence others: one that is only tried out silences nothing. It holds where the label is missing."""


def alertmanager_files(settings: Settings, locate: Callable[[Path], str] | None = None) -> dict[str, str]:
    """File name -> text of all that Alertmanager reads; they lie in one folder.

    ``locate`` says where Alertmanager finds a secret's file; by default, where this process does.
    Raises ConfigError when a route leads to ``alerts.webhook_url`` and there is none.
    """
    return {CONFIG_FILE: render_alertmanager(settings, locate), TEMPLATE_FILE: render_templates(settings)}


def render_alertmanager(settings: Settings, locate: Callable[[Path], str] | None = None) -> str:
    """YAML text of alertmanager.yml, which needs the template file beside it; see ``alertmanager_files``."""
    place = locate or _here
    notify = settings.notify
    root = notify.receiver or (RECEIVER_NONE if settings.alerts.webhook_url is None else RECEIVER_WEBHOOK)
    routes = [_watchdog_route(notify.dead_mans_switch), *(_route(route) for route in notify.routes)]
    used = {root, *(str(route["receiver"]) for route in routes)}
    if RECEIVER_WEBHOOK in used and settings.alerts.webhook_url is None:
        raise ConfigError("notify: a route leads to webhook, but alerts.webhook_url is not set; set it or name another")
    return to_yaml(
        {
            "templates": [TEMPLATE_FILE],
            "route": {
                "receiver": root,
                # A test is in a group of its own, so that it waits for nothing and holds nothing up.
                "group_by": ["alertname", names.LABEL_MODEL, names.LABEL_TEST],
                # Long enough for the alerts of one incident to arrive in one message, short enough to act on.
                "group_wait": f"{notify.group_wait_seconds}s",
                "group_interval": f"{notify.group_interval_seconds}s",
                "repeat_interval": f"{notify.repeat_interval_seconds}s",
                "routes": routes,
            },
            "receivers": _receivers(settings, used, place),
            "inhibit_rules": [_inhibition(rule.document()) for rule in INHIBITIONS],
        }
    )


def _watchdog_route(switch: DeadMansSwitchSettings | None) -> dict[str, Any]:
    """The alert that always fires: to its own receiver, and never to people."""
    matchers = [f'alertname="{WATCHDOG}"']
    if switch is None:
        return {"matchers": matchers, "receiver": RECEIVER_NONE}
    return {
        "matchers": matchers,
        "receiver": RECEIVER_DEAD_MAN,
        "group_wait": "0s",
        "group_interval": f"{switch.repeat_seconds}s",
        # A message is repeated when the last one is older than this at the end of a group interval; as long as the
        # interval itself, it would be younger by the time that sending took, and only every second one would go out.
        "repeat_interval": f"{switch.repeat_seconds - 1}s",
    }


def _route(route: NotifyRouteSettings) -> dict[str, Any]:
    wanted = (
        (names.LABEL_SEVERITY, route.severity),
        (names.LABEL_TEAM, route.team),
        (names.LABEL_TIER, route.tier),
    )
    document: dict[str, Any] = {
        "matchers": [f"{label}={_quoted(value)}" for label, value in wanted if value is not None],
        "receiver": route.receiver,
    }
    if route.goes_on:
        document["continue"] = True
    return document


def _receivers(settings: Settings, used: set[str], place: Callable[[Path], str]) -> list[dict[str, Any]]:
    """Every receiver of the settings, and of our own those that a route leads to."""
    notify, url = settings.notify, settings.alerts.webhook_url
    found: list[dict[str, Any]] = [{"name": r.name, **integrations(r, place)} for r in notify.receivers]
    if url is not None:
        found.append({"name": RECEIVER_WEBHOOK, "webhook_configs": [{"url": str(url), "send_resolved": True}]})
    if notify.dead_mans_switch is not None:
        switch = notify.dead_mans_switch
        where = {"url": str(switch.url)} if switch.url_file is None else {"url_file": place(switch.url_file)}
        found.append({"name": RECEIVER_DEAD_MAN, "webhook_configs": [{**where, "send_resolved": False}]})
    if RECEIVER_NONE in used:
        found.append({"name": RECEIVER_NONE})
    return found


def _inhibition(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "source_matchers": [*document["source_matchers"], NOT_A_TEST]}


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _here(path: Path) -> str:
    return str(path.expanduser().absolute())
