"""The section of farthing.yaml that says who is told of alerts, and how. Secrets are named by file, never written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, model_validator

__all__ = [
    "RECEIVER_DEAD_MAN",
    "RECEIVER_NONE",
    "RECEIVER_WEBHOOK",
    "AlertmanagerTarget",
    "DeadMansSwitchSettings",
    "EmailSettings",
    "NotifyRouteSettings",
    "NotifySettings",
    "PagerDutySettings",
    "ReceiverSettings",
    "SlackSettings",
    "TeamsSettings",
    "WebhookSettings",
]

AlertmanagerTarget: TypeAlias = Literal["debian", "current"]

RECEIVER_WEBHOOK = "webhook"
"""The receiver of ``alerts.webhook_url``."""
RECEIVER_NONE = "none"
"""Sends nothing: alerts are shown in Alertmanager only."""
RECEIVER_DEAD_MAN = "dead-mans-switch"
"""Takes the alert that always fires, and nothing else."""
RESERVED = (RECEIVER_WEBHOOK, RECEIVER_NONE, RECEIVER_DEAD_MAN)

Name = Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")]
OptionalName = Annotated[str | None, Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SlackSettings(_Strict):
    """A Slack channel, by an incoming webhook."""

    api_url_file: Path
    """File that holds the incoming webhook's URL."""
    channel: Text
    """``#channel`` or ``@person``."""


class PagerDutySettings(_Strict):
    """A PagerDuty service, by its Events API v2."""

    routing_key_file: Path
    """File that holds the integration key of the service."""


class EmailSettings(_Strict):
    """E-mail, with a text and an HTML part."""

    to: Text
    """Addresses, separated by commas."""
    from_address: Annotated[str, Field(min_length=1, alias="from")]
    """The sender's address."""
    smarthost: Annotated[str, Field(pattern=r"^.+:\d+$")]
    """Mail server as ``host:port``."""
    auth_username: str = ""
    """Empty: the mail server wants no password."""
    auth_password_file: Path | None = None
    """File that holds the password. Together with ``auth_username``."""
    require_tls: bool = True
    """Send only over STARTTLS."""

    @model_validator(mode="after")
    def _whole_login(self) -> EmailSettings:
        if bool(self.auth_username) != (self.auth_password_file is not None):
            raise ValueError("auth_username and auth_password_file go together; enter both or neither")
        return self


class WebhookSettings(_Strict):
    """A program of your own: Alertmanager posts its JSON."""

    url: HttpUrl | None = None
    """Where Alertmanager posts. Readable in its configuration: keep URLs that hold a secret in ``url_file``."""
    url_file: Path | None = None
    """File that holds the URL; Alertmanager 0.26 or later, so ``target: current``."""
    credentials_file: Path | None = None
    """File that holds a bearer token to send along."""

    @model_validator(mode="after")
    def _one_url(self) -> WebhookSettings:
        _either(self.url, self.url_file)
        return self


class TeamsSettings(_Strict):
    """A Microsoft Teams channel, by a workflow's webhook; Alertmanager 0.28 or later, so ``target: current``."""

    webhook_url_file: Path
    """File that holds the workflow's URL."""


class ReceiverSettings(_Strict):
    """Somebody to tell, in one or several ways."""

    name: Name
    """What routes call it."""
    slack: SlackSettings | None = None
    pagerduty: PagerDutySettings | None = None
    email: EmailSettings | None = None
    webhook: WebhookSettings | None = None
    teams: TeamsSettings | None = None

    @model_validator(mode="after")
    def _reachable(self) -> ReceiverSettings:
        if self.name in RESERVED:
            raise ValueError(f"receiver {self.name!r} is one that Farthing makes itself; choose another name")
        if not self.kinds:
            raise ValueError(f"receiver {self.name!r} has no way to be told; add slack, pagerduty, email or webhook")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """The ways in which it is told."""
        ways = ("slack", "pagerduty", "email", "webhook", "teams")
        return tuple(way for way in ways if getattr(self, way) is not None)


class NotifyRouteSettings(_Strict):
    """Which alerts go to which receiver: the first route that matches takes the alert. What is left out matches all."""

    receiver: Name
    """Name of a receiver, or ``none``: shown in Alertmanager only."""
    severity: Literal["critical", "warning"] | None = None
    """None: both."""
    team: OptionalName = None
    """Owner of the alert: ``llm-serving``, ``platform``, … as ``farthing alerts list`` shows them. None: all."""
    tier: OptionalName = None
    """Tier of the promise that is broken. None: all, and alerts without one."""
    goes_on: Annotated[bool, Field(alias="continue")] = False
    """Later routes may take the alert too."""


class DeadMansSwitchSettings(_Strict):
    """Who is told, again and again, that alerts arrive: a service that raises alarm when it hears nothing."""

    url: HttpUrl | None = None
    """Where Alertmanager posts. Readable in its configuration: keep URLs that hold a secret in ``url_file``."""
    url_file: Path | None = None
    """File that holds the URL; Alertmanager 0.26 or later, so ``target: current``."""
    repeat_seconds: Annotated[int, Field(ge=5)] = 300
    """How often. Let the service wait two or three times as long."""

    @model_validator(mode="after")
    def _one_url(self) -> DeadMansSwitchSettings:
        _either(self.url, self.url_file)
        return self


class NotifySettings(_Strict):
    """Who is told of alerts. Without a receiver they are shown in Alertmanager only; see
    [notifications.md](notifications.md).
    """

    target: AlertmanagerTarget = "debian"
    """Which Alertmanager reads the configuration: Debian 12's 0.25, or a current one (0.28 or later)."""
    receiver: OptionalName = None
    """Who takes what no route takes. None: ``alerts.webhook_url``, and without it nobody."""
    receivers: tuple[ReceiverSettings, ...] = ()
    routes: tuple[NotifyRouteSettings, ...] = ()
    dead_mans_switch: DeadMansSwitchSettings | None = None
    group_wait_seconds: Annotated[int, Field(ge=0)] = 10
    """How long a first message waits for more alerts of its kind: one incident, one message."""
    group_interval_seconds: Annotated[int, Field(ge=1)] = 60
    """How long the next message about the same waits; also the one that it is over."""
    repeat_interval_seconds: Annotated[int, Field(ge=60)] = 14_400
    """When a message that nothing changed about is sent again."""
    grafana_url: HttpUrl | None = None
    """Base URL of Grafana as readers reach it, for links to dashboards. None: the stack's on this machine."""
    jaeger_url: HttpUrl | None = None
    """Base URL of Jaeger as readers reach it, for links to traces. None: the stack's on this machine."""
    jaeger_service: str = "vllm"
    """Service whose traces the links show: what the engines' ``OTEL_SERVICE_NAME`` says."""

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """Every file that holds a secret, each once, in order."""
        ways = [getattr(receiver, kind) for receiver in self.receivers for kind in receiver.kinds]
        ways += [self.dead_mans_switch] if self.dead_mans_switch is not None else []
        keys = [(way, key) for way in ways for key in type(way).model_fields if key.endswith("_file")]
        return tuple(dict.fromkeys(path for way, key in keys if (path := getattr(way, key)) is not None))

    @model_validator(mode="after")
    def _receivers_exist(self) -> NotifySettings:
        names = [receiver.name for receiver in self.receivers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"receiver {twice[0]!r} is there twice; names must differ")
        wanted = [self.receiver] if self.receiver is not None else []
        for name in [*wanted, *(route.receiver for route in self.routes)]:
            if name not in {*names, RECEIVER_NONE, RECEIVER_WEBHOOK}:
                raise ValueError(f"no receiver {name!r}; add it (known: {', '.join(names) or 'none'})")
        return self

    @model_validator(mode="after")
    def _alertmanager_can(self) -> NotifySettings:
        """Alertmanager 0.25 refuses its whole file over one key that it does not know."""
        if self.target == "current":
            return self
        for receiver in self.receivers:
            if receiver.teams is not None:
                raise ValueError(f"receiver {receiver.name!r}: teams needs Alertmanager 0.28; set target: current")
            if receiver.webhook is not None and receiver.webhook.url_file is not None:
                raise ValueError(
                    f"receiver {receiver.name!r}: webhook.url_file needs Alertmanager 0.26; enter url, "
                    "with a secret in credentials_file, or set target: current"
                )
        if self.dead_mans_switch is not None and self.dead_mans_switch.url_file is not None:
            raise ValueError("dead_mans_switch.url_file needs Alertmanager 0.26; enter url or set target: current")
        return self


def _either(url: HttpUrl | None, url_file: Path | None) -> None:
    if (url is None) == (url_file is None):
        raise ValueError("enter either url or url_file")
