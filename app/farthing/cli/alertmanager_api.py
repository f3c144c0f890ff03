"""A running Alertmanager, as its API v2 and its own metrics show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from farthing.alerts.sample import SampleAlert
from farthing.domain.conventions import LABEL_TEST
from farthing.domain.errors import StackError

__all__ = ["Alertmanager", "Held", "Tally"]

_REQUESTS: Final = "alertmanager_notification_requests_total"
_FAILED: Final = "alertmanager_notification_requests_failed_total"
_CONFIGS: Final = "_configs"


@dataclass(frozen=True, slots=True)
class Tally:
    """Messages of one integration since Alertmanager started."""

    attempted: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Held:
    """What Alertmanager makes of an alert."""

    receivers: tuple[str, ...]
    silenced: bool
    inhibited: bool


class Alertmanager:
    """Talks to one Alertmanager; StackError when it does not answer or refuses."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self.url = url.rstrip("/")

    def integrations(self) -> dict[str, tuple[str, ...]]:
        """Receiver -> the kinds of messages that it is told by, of the configuration that runs."""
        config = yaml.safe_load(self._get("/api/v2/status").json()["config"]["original"])
        return {
            entry["name"]: tuple(
                key.removesuffix(_CONFIGS) for key, value in entry.items() if key.endswith(_CONFIGS) and value
            )
            for entry in config["receivers"]
        }

    def fire(self, alert: SampleAlert, ends: datetime) -> None:
        """Let the alert fire until ``ends``; a moment that has come resolves it."""
        now = datetime.now(UTC)
        body = {
            "labels": dict(alert.labels),
            "annotations": dict(alert.annotations),
            "startsAt": min(now, ends).isoformat(),
            "endsAt": ends.isoformat(),
        }
        self._call("POST", "/api/v2/alerts", json=[body])

    def held(self, test: str) -> Held:
        """Where the alert of this test goes; StackError when Alertmanager does not have it."""
        found = self._get("/api/v2/alerts", params={"filter": f'{LABEL_TEST}="{test}"'}).json()
        if not found:
            raise StackError(f"{self.url}: Alertmanager took the alert and does not show it; read its log")
        receivers = tuple(sorted({receiver["name"] for alert in found for receiver in alert["receivers"]}))
        return Held(
            receivers=receivers,
            silenced=any(alert["status"]["silencedBy"] for alert in found),
            inhibited=any(alert["status"]["inhibitedBy"] for alert in found),
        )

    def tallies(self) -> dict[str, Tally]:
        """Kind of message -> how many were attempted, and how many of those failed, of all alerts together."""
        attempted: dict[str, int] = {}
        failed: dict[str, int] = {}
        for family in text_string_to_metric_families(self._get("/metrics").text):
            for sample in family.samples:
                for name, counts in ((_REQUESTS, attempted), (_FAILED, failed)):
                    if sample.name == name:
                        kind = sample.labels["integration"]
                        counts[kind] = counts.get(kind, 0) + int(sample.value)
        return {kind: Tally(count, failed.get(kind, 0)) for kind, count in attempted.items()}

    def _get(self, path: str, params: Mapping[str, str] | None = None) -> httpx.Response:
        return self._call("GET", path, params=params)

    def _call(
        self, method: str, path: str, params: Mapping[str, str] | None = None, json: Sequence[Any] | None = None
    ) -> httpx.Response:
        try:
            answer = self._client.request(method, self.url + path, params=params, json=json)
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            said = " ".join(error.response.text.split())[:200]
            raise StackError(f"{self.url}{path}: refused with {error.response.status_code}: {said}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise StackError(
                f"{self.url}: Alertmanager does not answer ({error}); start it, for example with farthing up, or name "
                "another with --alertmanager"
            ) from error
        return answer
