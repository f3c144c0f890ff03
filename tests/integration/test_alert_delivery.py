"""A real Alertmanager with the generated configuration delivers: what people read, grouped, held back, and resolved."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import yaml
from tests.alerts.notified import written
from tests.alerts.real_parts import free_port, program, running, wait_for
from tests.integration.mailbox import Mailbox, mailbox

from farthing.alerts.deadman import WATCHDOG
from farthing.alerts.render import alert_rules
from farthing.alerts.sample import sample_alert
from farthing.cli.alerts import run_alert_test
from farthing.domain.conventions import LABEL_TEST
from farthing.domain.errors import FarthingError, StackError
from farthing.settings import Settings

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

SLOW, DOWN = "LLMTimeToFirstTokenHigh", "FarthingTargetDown"


@dataclass
class Delivery:
    """An Alertmanager that delivers into a mailbox."""

    url: str
    box: Mailbox

    def fire(self, name: str, resolved: bool = False, **labels: str) -> None:
        """Give it an alert of ours with these labels, as Prometheus would."""
        (rule,) = [rule for rule in alert_rules(Settings()) if rule.name == name]
        sample = sample_alert(rule, "", labels)
        now = datetime.now(UTC)
        body = {
            "labels": {key: value for key, value in sample.labels.items() if key != LABEL_TEST},
            "annotations": dict(sample.annotations),
            "startsAt": now.isoformat(),
            "endsAt": (now if resolved else now + timedelta(minutes=5)).isoformat(),
        }
        httpx.post(f"{self.url}/api/v2/alerts", json=[body], trust_env=False).raise_for_status()

    def told(self, path: str, **labels: str) -> list[dict[str, Any]]:
        """Messages of Alertmanager's own form that have these labels in common."""
        return [body for body in self.box.at(path) if labels.items() <= body["commonLabels"].items()]


@pytest.fixture(scope="module")
def delivery(tmp_path_factory) -> Iterator[Delivery]:
    """Everybody is told of everything: Slack, PagerDuty, e-mail and a webhook, all of them this mailbox."""
    folder = tmp_path_factory.mktemp("alertmanager")
    with mailbox() as box:
        (folder / "slack").write_text(box.url("/slack"))
        (folder / "pagerduty").write_text("a-routing-key")
        mail = {"to": "b@x.org", "from": "a@x.org", "smarthost": f"127.0.0.1:{box.smtp_port}", "require_tls": False}
        notify = {
            "group_wait_seconds": 1,
            "group_interval_seconds": 2,
            "receiver": "everybody",
            "receivers": [
                {
                    "name": "everybody",
                    "webhook": {"url": box.url("/hook")},
                    "slack": {"api_url_file": str(folder / "slack"), "channel": "#llm"},
                    "email": mail,
                    "pagerduty": {"routing_key_file": str(folder / "pagerduty")},
                },
                {"name": "finance", "webhook": {"url": box.url("/finance")}},
                {"name": "broken", "webhook": {"url": f"http://127.0.0.1:{free_port()}"}},
            ],
            "routes": [
                {"team": "finance", "receiver": "finance"},
                {"tier": "broken", "receiver": "broken"},
                {"tier": "unheard", "receiver": "none"},
            ],
            "dead_mans_switch": {"url": box.url("/alive"), "repeat_seconds": 5},
        }
        file = written(folder, Settings.model_validate({"notify": notify})) / "alertmanager.yml"
        config = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump({"global": {"pagerduty_url": box.url("/pagerduty")}, **config}))
        url = f"http://127.0.0.1:{free_port()}"
        arguments = [
            program("prometheus-alertmanager"),
            f"--config.file={file}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address={url.removeprefix('http://')}",
            "--cluster.listen-address=",
        ]
        with running(arguments, f"{url}/-/ready", folder / "log"):
            yield Delivery(url, box)


def test_one_incident_is_one_readable_message_to_everybody_and_a_second_one_when_it_is_over(delivery):
    """Two instances of one model that do not answer; every kind of receiver says what, and that it is resolved."""
    for instance in ("gpu-1:8000", "gpu-2:8000"):
        delivery.fire(DOWN, model="grouped", instance=instance)
    wait_for(lambda: bool(delivery.told("/hook", model="grouped")), 15, "a message")
    (message,) = delivery.told("/hook", model="grouped")
    assert message["status"] == "firing"
    assert sorted(alert["labels"]["instance"] for alert in message["alerts"]) == ["gpu-1:8000", "gpu-2:8000"]
    summary = message["alerts"][0]["annotations"]["summary"]
    assert "llm-engines target gpu-" in summary
    assert "does not answer its scrapes" in summary

    title = f"[critical] {DOWN} of grouped: 2 firing, 0 resolved"
    wait_for(lambda: bool(delivery.box.mails), 10, "an e-mail")
    wait_for(lambda: bool(delivery.box.at("/pagerduty")), 10, "a page")
    (slack,) = (
        body["attachments"][0] for body in delivery.box.at("/slack") if title in body["attachments"][0]["title"]
    )
    assert (slack["color"], slack["fallback"]) == ("danger", title)
    assert "*TEST: llm-engines target gpu-1:8000 does not answer its scrapes*\n" in slack["text"]
    assert "the fleet costs an unknown amount" in slack["text"]
    assert "Owner: platform. Since " in slack["text"]
    assert f"/alerts/runbooks/{DOWN}.md|Runbook> · <http://localhost:16686/search?service=vllm" in slack["text"]
    (page,) = (body for body in delivery.box.at("/pagerduty") if body["payload"]["summary"] == title)
    assert (page["routing_key"], page["payload"]["severity"]) == ("a-routing-key", "critical")
    assert "Runbook: https://" in page["payload"]["custom_details"]["alerts"]
    assert [link["text"] for link in page["links"]] == ["Dashboard", "Runbook", "Traces"]
    (mail,) = (mail for mail in delivery.box.mails if mail["Subject"] == title)
    text, page_of_html = (mail.get_body((kind,)).get_content() for kind in ("plain", "html"))
    assert "llm-engines target gpu-1:8000 does not answer its scrapes" in text
    assert "<h2>[critical] FarthingTargetDown of grouped: 2 firing, 0 resolved</h2>" in page_of_html

    for instance in ("gpu-1:8000", "gpu-2:8000"):
        delivery.fire(DOWN, resolved=True, model="grouped", instance=instance)
    wait_for(lambda: len(delivery.told("/hook", model="grouped")) == 2, 15, "that it is over")
    assert delivery.told("/hook", model="grouped")[-1]["status"] == "resolved"
    wait_for(lambda: "resolve" in {body["event_action"] for body in delivery.box.at("/pagerduty")}, 10, "no more page")
    over = f"[resolved] {DOWN} of grouped: 0 firing, 2 resolved"
    wait_for(lambda: over in {body["attachments"][0]["title"] for body in delivery.box.at("/slack")}, 10, "Slack told")


def test_what_another_alert_explains_is_held_back(delivery):
    """A warning about a target that does not answer is no news; one about another target is."""
    delivery.fire(DOWN, instance="gpu-8:8000")
    wait_for(lambda: bool(delivery.told("/hook", instance="gpu-8:8000")), 15, "that the target is down")
    for instance in ("gpu-8:8000", "gpu-9:8000"):
        delivery.fire(SLOW, instance=instance, model=f"held-{instance}")
    wait_for(lambda: bool(delivery.told("/hook", model="held-gpu-9:8000")), 15, "the other warning")
    assert not delivery.told("/hook", model="held-gpu-8:8000")


def test_the_dead_mans_switch_hears_every_interval_and_nobody_else_does(delivery):
    """Twice within two intervals and a little, on its own way."""
    delivery.fire(WATCHDOG)
    wait_for(lambda: len(delivery.told("/alive")) == 2, 14, "a second sign of life")
    assert {body["commonLabels"]["alertname"] for body in delivery.box.at("/alive")} == {WATCHDOG}
    assert not delivery.told("/hook", alertname=WATCHDOG)


def test_an_alert_that_is_tried_out_arrives_marked_and_is_resolved(delivery, capsys):
    """`farthing alerts test` says whom it reached."""
    code = run_alert_test(Settings(), SLOW, ["tier=chat"], url=delivery.url, wait_seconds=20, output="json")
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert sorted((row["receiver"], row["kind"], row["result"]) for row in rows) == [
        ("everybody", kind, "sent") for kind in ("email", "pagerduty", "slack", "webhook")
    ]
    assert code == 0
    (message,) = delivery.told("/hook", alertname=SLOW, tier="chat")
    assert message["commonLabels"][LABEL_TEST]
    assert message["commonAnnotations"]["summary"].startswith("TEST: farthing-test-model: p95 time to first token")
    titles = [body["attachments"][0]["title"] for body in delivery.box.at("/slack")]
    assert any(title.startswith("[warning] TEST: farthing-test-model") for title in titles)
    wait_for(lambda: len(delivery.told("/hook", alertname=SLOW, tier="chat")) == 2, 15, "that the test is over")
    assert delivery.told("/hook", alertname=SLOW, tier="chat")[-1]["status"] == "resolved"


def test_a_test_that_reaches_nobody_says_so(delivery, capsys):
    """A route to nobody is meant; a receiver that does not answer, or a silence, is not."""
    assert run_alert_test(Settings(), SLOW, ["tier=unheard"], url=delivery.url, wait_seconds=20, output="table") == 0
    said = capsys.readouterr().out
    assert "shown in Alertmanager only" in said
    assert "see notify in farthing.yaml" in said
    assert run_alert_test(Settings(), SLOW, ["tier=broken"], url=delivery.url, wait_seconds=20, output="table") == 1
    said = capsys.readouterr().out
    assert "failed" in said
    assert "Alertmanager's log has the reason" in said
    now = datetime.now(UTC)
    silence = {
        "matchers": [{"name": "tier", "value": "quiet", "isRegex": False, "isEqual": True}],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(minutes=5)).isoformat(),
        "createdBy": "a test",
        "comment": "for a test",
    }
    httpx.post(f"{delivery.url}/api/v2/silences", json=silence, trust_env=False).raise_for_status()
    assert run_alert_test(Settings(), SLOW, ["tier=quiet"], url=delivery.url, wait_seconds=20, output="table") == 1
    assert "held back by a silence" in capsys.readouterr().out


def test_an_alertmanager_that_is_away_and_a_name_that_is_unknown_are_one_clear_line():
    """With what to do."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StackError, match=r"Alertmanager does not answer .*--alertmanager"):
        run_alert_test(Settings(), SLOW, [], url=url, wait_seconds=1, output="table")
    with pytest.raises(FarthingError, match=f"did you mean {SLOW}"):
        run_alert_test(Settings(), "llmTimeToFirstToken", [], url=url, wait_seconds=1, output="table")
    with pytest.raises(FarthingError, match="see farthing alerts list"):
        run_alert_test(Settings(), "zzz", [], url=url, wait_seconds=1, output="table")
    with pytest.raises(FarthingError, match="'tier': enter NAME=VALUE"):
        run_alert_test(Settings(), SLOW, ["tier"], url=url, wait_seconds=1, output="table")
