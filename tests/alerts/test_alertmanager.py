"""Alertmanager's configuration loads in the real one, tells whom it should, and mutes what it should, no more."""

import json
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.alerts.notified import ALL_KINDS, amtool_check, written
from tests.alerts.real_parts import free_port, program, running, wait_for

from farthing.alerts.alertmanager import NOT_A_TEST, alertmanager_files, render_alertmanager
from farthing.alerts.deadman import WATCHDOG
from farthing.alerts.inhibitions import INHIBITIONS
from farthing.alerts.render import alert_rules
from farthing.domain.errors import ConfigError
from farthing.settings import Settings, parse_settings

WEBHOOK = Settings.model_validate({"alerts": {"webhook_url": "http://127.0.0.1:9/hook?room=gpu"}})
EVERYTHING = Settings.model_validate({"notify": ALL_KINDS})
SECRETS = ["/run/secrets/pagerduty", "/run/secrets/slack", "/run/secrets/mail", "/run/secrets/token"]


def config(settings: Settings) -> dict[str, Any]:
    """alertmanager.yml as data."""
    return dict(yaml.safe_load(render_alertmanager(settings)))


def receiver(settings: Settings, name: str) -> dict[str, Any]:
    """The one receiver of that name."""
    (found,) = [entry for entry in config(settings)["receivers"] if entry["name"] == name]
    return dict(found)


def routed(folder: Path, **labels: str) -> list[str]:
    """The receivers to which the real Alertmanager's routing sends an alert with these labels."""
    arguments = [program("amtool"), "config", "routes", "test", f"--config.file={folder / 'alertmanager.yml'}"]
    arguments += [f"{name}={value}" for name, value in labels.items()]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().split(",")


def test_a_webhook_is_told_when_there_is_one():
    """With resolution, so that whoever was told learns that it is over."""
    assert config(WEBHOOK)["route"]["receiver"] == "webhook"
    hook = receiver(WEBHOOK, "webhook")
    assert hook["webhook_configs"] == [{"url": "http://127.0.0.1:9/hook?room=gpu", "send_resolved": True}]


def test_nobody_is_told_when_there_is_none():
    """The receiver exists, as Alertmanager demands, and sends nothing."""
    assert config(Settings())["receivers"] == [{"name": config(Settings())["route"]["receiver"]}]


def test_alerts_are_grouped_by_name_and_model():
    """One message for one trouble of one model, however many instances it has; a test is a group of its own."""
    assert config(Settings())["route"]["group_by"] == ["alertname", "model", "farthing_test"]


def test_links_to_dashboards_lead_where_readers_reach_grafana():
    """A link to this machine is of no use to whoever is paged."""
    settings = Settings.model_validate({"notify": {"grafana_url": "https://grafana.example/base/"}})
    assert all(rule.dashboard.startswith("https://grafana.example/base/d/") for rule in alert_rules(settings))
    assert all(rule.dashboard.startswith("http://localhost:3000/d/") for rule in alert_rules(Settings()))


def test_waiting_times_come_from_the_settings():
    """Who wants fewer messages waits longer."""
    notify = {"group_wait_seconds": 1, "group_interval_seconds": 2, "repeat_interval_seconds": 60}
    route = config(Settings.model_validate({"notify": notify}))["route"]
    assert (route["group_wait"], route["group_interval"], route["repeat_interval"]) == ("1s", "2s", "60s")


def test_every_kind_of_receiver_has_the_keys_that_its_documentation_names():
    """One message of ours for each, and that it is over."""
    (pagerduty,) = receiver(EVERYTHING, "oncall")["pagerduty_configs"]
    assert pagerduty["routing_key_file"] == "/run/secrets/pagerduty"
    assert [link["text"] for link in pagerduty["links"]] == ["Dashboard", "Runbook", "Traces"]
    serving = receiver(EVERYTHING, "serving")
    assert set(serving) == {"name", "slack_configs", "email_configs", "webhook_configs"}
    (slack,), (email,), (hook,) = (serving[f"{kind}_configs"] for kind in ("slack", "email", "webhook"))
    assert (slack["api_url_file"], slack["channel"]) == ("/run/secrets/slack", "#llm")
    assert slack["text"] == '{{ template "farthing.slack" . }}'
    assert email["auth_password_file"] == "/run/secrets/mail"
    assert (email["html"], email["text"]) == ('{{ template "farthing.email" . }}', '{{ template "farthing.text" . }}')
    assert hook["http_config"] == {"authorization": {"credentials_file": "/run/secrets/token"}}
    assert all(entry["send_resolved"] for entry in (pagerduty, slack, email, hook))


def test_every_template_that_the_configuration_names_is_defined():
    """A misspelt name would fail when the first alert is sent, and not before."""
    files = alertmanager_files(
        Settings.model_validate(
            {"notify": {"target": "current", "receivers": [{"name": "t", "teams": {"webhook_url_file": "/s/t"}}]}}
        )
    )
    text = files["alertmanager.yml"] + alertmanager_files(EVERYTHING)["alertmanager.yml"]
    used = {part.split('"')[0] for part in text.split('template "')[1:]}
    defined = {part.split('"')[0] for part in files["farthing.tmpl"].split('define "')[1:]}
    assert used
    assert used <= defined


@pytest.mark.real
@pytest.mark.parametrize("settings", [Settings(), WEBHOOK, EVERYTHING], ids=["nobody", "webhook", "all kinds"])
def test_amtool_accepts_the_configuration(tmp_path, settings):
    """The oldest Alertmanager that we support checks it."""
    accepted, said = amtool_check(written(tmp_path, settings))
    assert accepted, said


@pytest.mark.real
def test_alerts_go_by_severity_owner_and_tier(tmp_path):
    """As the real Alertmanager routes them."""
    folder = written(tmp_path, EVERYTHING)
    serving = {"team": "llm-serving", "tier": "interactive"}
    assert routed(folder, alertname="A", severity="critical", **serving) == ["oncall", "serving"]
    assert routed(folder, alertname="A", severity="warning", **serving) == ["serving"]
    assert routed(folder, alertname="A", severity="critical", team="platform") == ["oncall", "none"]
    assert routed(folder, alertname="A", severity="warning", team="platform") == ["none"]
    assert routed(folder, alertname="A", severity="warning", team="finops") == ["serving"]
    assert routed(folder, alertname=WATCHDOG, severity="none", team="platform") == ["dead-mans-switch"]


@pytest.mark.real
def test_the_alert_that_always_fires_bothers_nobody_without_a_switch(tmp_path):
    """It would arrive every four hours, for ever."""
    folder = written(tmp_path, WEBHOOK)
    assert routed(folder, alertname=WATCHDOG, severity="none", team="platform") == ["none"]


def test_the_dead_mans_switch_is_told_every_interval():
    """The repetition is a second shorter: as long as the interval it would go out every second time only."""
    (route,) = [entry for entry in config(EVERYTHING)["route"]["routes"] if entry["receiver"] == "dead-mans-switch"]
    assert (route["group_wait"], route["group_interval"], route["repeat_interval"]) == ("0s", "60s", "59s")
    (hook,) = receiver(EVERYTHING, "dead-mans-switch")["webhook_configs"]
    assert hook == {"url": "http://127.0.0.1:9/alive", "send_resolved": False}


def test_a_secret_is_only_ever_the_path_of_a_file(tmp_path):
    """The configuration may be read by anybody."""
    text = render_alertmanager(EVERYTHING)
    for path in SECRETS:
        assert f"_file: {path}\n" in text
    assert [str(path) for path in EVERYTHING.notify.secret_files] == SECRETS
    moved = render_alertmanager(EVERYTHING, lambda path: f"/mnt/{path.name}")
    assert "/run/secrets" not in moved
    assert "api_url_file: /mnt/slack\n" in moved


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("slack: {api_url: hush, channel: c}", "api_url_file"),
        ("pagerduty: {routing_key: hush}", "routing_key_file"),
        ("email: {auth_password: hush, auth_username: u, to: a, from: b, smarthost: 'c:25'}", "auth_password_file"),
        ("teams: {webhook_url: hush}", "webhook_url_file"),
    ],
)
def test_a_secret_in_the_settings_themselves_is_refused(key, instead):
    """With the key that takes its file instead, and without repeating it."""
    text = f"notify:\n  target: current\n  receivers:\n    - name: a\n      {key}\n"
    with pytest.raises(ConfigError, match=instead) as caught:
        parse_settings(text, "farthing.yaml")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("notify", "message"),
    [
        ({"receivers": [{"name": "a", "teams": {"webhook_url_file": "/s"}}]}, "'a': teams needs Alertmanager 0.28"),
        (
            {"receivers": [{"name": "a", "webhook": {"url_file": "/s"}}]},
            "'a': webhook.url_file needs Alertmanager 0.26",
        ),
        ({"dead_mans_switch": {"url_file": "/s"}}, "dead_mans_switch.url_file needs Alertmanager 0.26"),
        ({"receivers": [{"name": "a"}]}, "'a' has no way to be told"),
        ({"receivers": [{"name": "none", "webhook": {"url": "http://x"}}]}, "'none' is one that Farthing makes itself"),
        ({"receivers": [{"name": "a", "webhook": {"url": "http://x"}}] * 2}, "'a' is there twice"),
        ({"receivers": [{"name": "a", "webhook": {}}]}, "enter either url or url_file"),
        ({"routes": [{"receiver": "b"}]}, r"no receiver 'b'; add it \(known: none\)"),
        ({"receiver": "b"}, "no receiver 'b'"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(notify, message):
    """Alertmanager would refuse its whole file, or tell nobody."""
    with pytest.raises(ValueError, match=message):
        Settings.model_validate({"notify": notify})


def test_a_route_to_the_webhook_needs_one():
    """Alertmanager would not start."""
    settings = Settings.model_validate({"notify": {"routes": [{"receiver": "webhook"}]}})
    with pytest.raises(ConfigError, match=r"alerts\.webhook_url is not set"):
        render_alertmanager(settings)


def test_a_current_alertmanager_gets_keys_of_its_own():
    """In the form that its documentation gives: msteamsv2_configs since 0.28, url_file since 0.26."""
    notify = {
        "target": "current",
        "receivers": [
            {"name": "a", "teams": {"webhook_url_file": "/s/teams"}, "webhook": {"url_file": "/s/hook"}},
        ],
        "dead_mans_switch": {"url_file": "/s/alive"},
    }
    settings = Settings.model_validate({"notify": notify})
    assert receiver(settings, "a") == {
        "name": "a",
        "webhook_configs": [{"send_resolved": True, "url_file": "/s/hook"}],
        "msteamsv2_configs": [
            {
                "webhook_url_file": "/s/teams",
                "send_resolved": True,
                "title": '{{ template "farthing.title" . }}',
                "text": '{{ template "farthing.teams" . }}',
            }
        ],
    }
    assert receiver(settings, "dead-mans-switch")["webhook_configs"] == [
        {"url_file": "/s/alive", "send_resolved": False}
    ]


def test_both_targets_agree_on_what_both_can():
    """Only where the older one lacks a key do they differ."""
    current = Settings.model_validate({"notify": {**ALL_KINDS, "target": "current"}})
    assert alertmanager_files(current) == alertmanager_files(EVERYTHING)


@pytest.mark.real
@pytest.mark.parametrize("keys", [{"teams": {"webhook_url_file": "/s"}}, {"webhook": {"url_file": "/s"}}], ids=str)
def test_the_old_alertmanager_does_lack_what_we_refuse_for_it(tmp_path, keys):
    """Otherwise the refusal would be an error of ours. A current one takes it."""
    arguments = [program("amtool"), "--version"]
    version = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    notify = {"target": "current", "receivers": [{"name": "a", **keys}]}
    accepted, said = amtool_check(written(tmp_path, Settings.model_validate({"notify": notify})))
    assert accepted is ("version 0.25" not in version), said


def test_every_inhibition_is_in_the_configuration_and_none_by_a_test():
    """A fault that is only tried out must not silence a real one."""
    rules = config(Settings())["inhibit_rules"]
    assert len(rules) == len(INHIBITIONS)
    for rule, inhibition in zip(rules, INHIBITIONS, strict=True):
        assert rule["source_matchers"] == [*inhibition.source, NOT_A_TEST]
        assert rule["target_matchers"] == list(inhibition.target)
        assert rule["equal"] == list(inhibition.equal)


def test_nothing_holds_the_alert_that_always_fires_back():
    """Its silence means that alerts are lost, and must mean nothing else."""
    (rule,) = [rule for rule in alert_rules(Settings()) if rule.name == WATCHDOG]
    assert rule.severity == "none"
    for inhibition in INHIBITIONS:
        assert not any(WATCHDOG in matcher for matcher in inhibition.target)
        assert any("severity=" in matcher or "alertname=" in matcher for matcher in inhibition.target)


@pytest.mark.real
def test_a_silent_target_mutes_warnings_about_itself_only(tmp_path):
    """A real Alertmanager is asked which of these alerts it holds back."""
    alerts = [
        {"alertname": "FarthingTargetDown", "severity": "critical", "job": "llm-engines", "instance": "a"},
        {"alertname": "QueueLong", "severity": "warning", "instance": "a", "model": "m"},
        {"alertname": "QueueLong", "severity": "warning", "instance": "b", "model": "m"},
        {"alertname": "LLMTimeToFirstTokenHigh", "severity": "warning", "model": "m"},
        {"alertname": "BudgetSpent", "severity": "critical", "model": "m"},
        {"alertname": "BudgetSpent", "severity": "warning", "model": "m"},
        {"alertname": "BudgetSpent", "severity": "warning", "model": "other"},
        {"alertname": "EngineStalled", "severity": "critical", "instance": "a"},
        {"alertname": "BudgetSpent", "severity": "critical", "model": "other", "farthing_test": "1"},
        {"alertname": "FarthingTargetDown", "severity": "critical", "instance": "b", "farthing_test": "1"},
    ]
    folder = written(tmp_path, Settings())
    url = f"http://127.0.0.1:{free_port()}"
    arguments = [
        program("prometheus-alertmanager"),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={tmp_path / 'data'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--cluster.listen-address=",
    ]

    def held() -> Any:
        with urllib.request.urlopen(f"{url}/api/v2/alerts") as response:
            return json.load(response)

    with running(arguments, f"{url}/-/ready", tmp_path / "log"):
        body = json.dumps([{"labels": labels} for labels in alerts]).encode()
        request = urllib.request.Request(
            f"{url}/api/v2/alerts", data=body, headers={"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request).close()
        wait_for(lambda: len(held()) == len(alerts), 10, "all alerts known")
        wait_for(lambda: any(alert["status"]["inhibitedBy"] for alert in held()), 10, "something muted")
        muted = [alert["labels"] for alert in held() if alert["status"]["inhibitedBy"]]
    expected = [alerts[1], alerts[5]]
    assert sorted(muted, key=str) == sorted(expected, key=str)
