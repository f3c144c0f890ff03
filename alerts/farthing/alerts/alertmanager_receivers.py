"""The ways to tell a receiver, as Alertmanager's integrations; every secret is the path of a file.

Keys of Alertmanager's documentation, "Receiver integration settings". Known by 0.25: ``slack_configs.api_url_file``,
``pagerduty_configs.routing_key_file``, ``email_configs.auth_password_file``, ``http_config``'s ``credentials_file``.
Not known: ``webhook_configs.url_file`` (0.26) and ``msteamsv2_configs`` (0.28), which the settings refuse for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from farthing.alerts.alertmanager_templates import message
from farthing.settings_notify import (
    EmailSettings,
    PagerDutySettings,
    ReceiverSettings,
    SlackSettings,
    TeamsSettings,
    WebhookSettings,
)

__all__ = ["integrations"]

Place: TypeAlias = Callable[[Path], str]

_FIRST: Final = "(index .Alerts 0)"
"""All alerts of a message have their name in common, and with it runbook and owner."""


def integrations(receiver: ReceiverSettings, place: Place) -> dict[str, list[dict[str, Any]]]:
    """The receiver's ``*_configs``; ``place`` says where Alertmanager finds the file of a secret."""
    found = {}
    if receiver.slack is not None:
        found["slack_configs"] = [_slack(receiver.slack, place)]
    if receiver.pagerduty is not None:
        found["pagerduty_configs"] = [_pagerduty(receiver.pagerduty, place)]
    if receiver.email is not None:
        found["email_configs"] = [_email(receiver.email, place)]
    if receiver.webhook is not None:
        found["webhook_configs"] = [_webhook(receiver.webhook, place)]
    if receiver.teams is not None:
        found["msteamsv2_configs"] = [_teams(receiver.teams, place)]
    return found


def _slack(slack: SlackSettings, place: Place) -> dict[str, Any]:
    return {
        "api_url_file": place(slack.api_url_file),
        "channel": slack.channel,
        "send_resolved": True,
        "color": message("slack.color"),
        "title": message("title"),
        "title_link": f"{{{{ {_FIRST}.Annotations.dashboard_url }}}}",
        "fallback": message("title"),
        "text": message("slack"),
        "mrkdwn_in": ["text"],
    }


def _pagerduty(pagerduty: PagerDutySettings, place: Place) -> dict[str, Any]:
    return {
        "routing_key_file": place(pagerduty.routing_key_file),
        "send_resolved": True,
        "description": message("title"),
        # PagerDuty knows critical, error, warning and info.
        "severity": f'{{{{ if eq {_FIRST}.Labels.severity "critical" }}}}critical{{{{ else }}}}warning{{{{ end }}}}',
        "class": "{{ .GroupLabels.alertname }}",
        "component": f"{{{{ {_FIRST}.Labels.component }}}}",
        "group": "{{ .CommonLabels.model }}",
        "client": "Farthing",
        "client_url": f"{{{{ {_FIRST}.Annotations.dashboard_url }}}}",
        "details": {
            "owner": f'{{{{ template "farthing.owner" {_FIRST} }}}}',
            "alerts": message("text"),
            "num_firing": "{{ .Alerts.Firing | len }}",
            "num_resolved": "{{ .Alerts.Resolved | len }}",
        },
        "links": [
            {"href": f"{{{{ {_FIRST}.Annotations.dashboard_url }}}}", "text": "Dashboard"},
            {"href": f"{{{{ {_FIRST}.Annotations.runbook_url }}}}", "text": "Runbook"},
            {"href": f'{{{{ template "farthing.traces_url" {_FIRST} }}}}', "text": "Traces"},
        ],
    }


def _email(email: EmailSettings, place: Place) -> dict[str, Any]:
    login = {}
    if email.auth_password_file is not None:
        login = {"auth_username": email.auth_username, "auth_password_file": place(email.auth_password_file)}
    return {
        "to": email.to,
        "from": email.from_address,
        "smarthost": email.smarthost,
        **login,
        "require_tls": email.require_tls,
        "send_resolved": True,
        "headers": {"Subject": message("title")},
        "html": message("email"),
        "text": message("text"),
    }


def _webhook(webhook: WebhookSettings, place: Place) -> dict[str, Any]:
    document: dict[str, Any] = {"send_resolved": True}
    if webhook.url_file is None:
        document["url"] = str(webhook.url)
    else:
        document["url_file"] = place(webhook.url_file)
    if webhook.credentials_file is not None:
        document["http_config"] = {"authorization": {"credentials_file": place(webhook.credentials_file)}}
    return document


def _teams(teams: TeamsSettings, place: Place) -> dict[str, Any]:
    return {
        "webhook_url_file": place(teams.webhook_url_file),
        "send_resolved": True,
        "title": message("title"),
        "text": message("teams"),
    }
