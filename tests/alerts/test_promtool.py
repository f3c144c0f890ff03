"""promtool finds every rule sound, and each alert fires when it must and stays silent when it must."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.alerts.real_parts import program

from farthing.alerts.render import alert_rules, render_rules
from farthing.settings import Settings

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "promtool"
ALERTS = [alert.name for alert in alert_rules(Settings())]


def promtool(*arguments: str | Path) -> tuple[bool, str]:
    """Run promtool; returns whether it succeeded, and all it said."""
    done = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout + done.stderr


def checks(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every (test, check) of the alert in its file of cases."""
    for test in yaml.safe_load((CASES / f"{name}.yml").read_text())["tests"]:
        for check in test["alert_rule_test"]:
            assert check["alertname"] == name
            yield test, check


@pytest.mark.real
def test_promtool_finds_the_rules_sound(tmp_path):
    """Of the defaults, and of settings that reach into every expression."""
    for settings in (Settings(), Settings.model_validate({"alerts": {"ttft_p95_seconds": 1e-05, "for_seconds": 0}})):
        files = []
        for name, text in render_rules(settings).items():
            (tmp_path / name).write_text(text)
            files.append(tmp_path / name)
        passed, said = promtool("check", "rules", *files)
        assert passed, said


@pytest.mark.real
@pytest.mark.parametrize("cases", sorted(CASES.glob("*.yml")), ids=lambda path: path.stem)
def test_the_committed_rules_do_what_their_cases_say(cases):
    """Over the files that Prometheus loads, not over a rendering of the moment."""
    passed, said = promtool("test", "rules", cases)
    assert passed, said


@pytest.mark.real
def test_the_cases_notice_a_recording_rule_that_keeps_instances_apart(tmp_path):
    """The model's alert would then fire once per instance. Broken alert rules have tests of their own."""
    generated = tmp_path / "alerts" / "generated"
    cases = tmp_path / "tests" / "promtool"
    generated.mkdir(parents=True)
    cases.mkdir(parents=True)
    rules = render_rules(Settings())
    assert "sum by (model, le" in rules["llm-vocabulary.yml"]
    for name, text in rules.items():
        (generated / name).write_text(text.replace("sum by (model, le", "sum by (instance, model, le"))
    for name in ("LLMTimeToFirstTokenHigh", "llm-vocabulary"):
        (cases / f"{name}.yml").write_text((CASES / f"{name}.yml").read_text())
        passed, _ = promtool("test", "rules", cases / f"{name}.yml")
        assert not passed, name


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_a_case_that_must_fire_and_two_that_must_not(name):
    """A firing case states all labels and annotations, as promtool compares them exactly."""
    firing = [check for _, check in checks(name) if check.get("exp_alerts")]
    silent = [check for _, check in checks(name) if not check.get("exp_alerts")]
    assert len(firing) >= 1
    assert len(silent) >= 2
    for check in firing:
        for alert in check["exp_alerts"]:
            assert {"severity", "team", "component"} <= set(alert["exp_labels"])
            assert set(alert["exp_annotations"]) == {"summary", "description", "runbook_url", "dashboard_url"}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_silent_before_its_wait_is_over(name):
    """Some test that fires later asks earlier too, with the same series."""
    assert any(
        not check.get("exp_alerts") and any(later.get("exp_alerts") for later in test["alert_rule_test"])
        for test, check in checks(name)
    )


def test_every_test_has_a_name_and_every_case_file_its_subject():
    """A failure then names a sentence; a file without an alert or a rule group is left over."""
    for path in CASES.glob("*.yml"):
        assert path.stem in {*ALERTS, "llm-vocabulary", "llm-efficiency"}
        assert all(test["name"] for test in yaml.safe_load(path.read_text())["tests"])
