"""Alerts on recorded load: those that each phase deserves fire, as the clients' timings say, and no other does."""

import re
from pathlib import Path

import pytest
from tests.alerts.recorded import WHOLE, spans
from tests.alerts.recorded_clients import quantile, timings

from farthing.alerts.render import alert_rules
from farthing.domain import conventions as names
from farthing.domain.clock import SECOND
from farthing.settings import Settings

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "docs" / "alerts-on-recordings.md"
ALWAYS = "FarthingWatchdog"
LOADED = [
    *[("8b", phase) for phase in ("c1", "c8", "c32", "c128", "prefill", "shared", "abort")],
    *[("7b", phase) for phase in ("text", "one-image", "mixed", "encoder", "repeat", "abort")],
]
BUDGET = 0.05
"""What may miss chat's promises: they are made to 95 % of requests."""
FAST, SLOW = 6, 1
"""How many times too fast a budget of a phase that lasts must burn: over six hours for the page, three days else."""


def told(fired):
    """Alerts that fired, each once, with the promise where it is about one."""
    return {" ".join(filter(None, (one.alert, one.labels.get(names.LABEL_SLO)))) for one in fired}


def deserved(timed):
    """What the clients would have wanted to be told, computed from their own timings alone.

    Of tokens that are late the engine's notes of its steps tell, since clients kept the first and the last token only.
    """
    wanted = {ALWAYS}
    if quantile(timed.first_token, 0.95) > 0.5:
        wanted.add("LLMTimeToFirstTokenHigh")
    # many tokens a minute make a stream; the prefill and encoder phases ask for one token or two
    if sum(weight for _, weight in timed.steps) > 1000 and quantile(timed.steps, 0.95) > 0.05:
        wanted.add("LLMInterTokenLatencyHigh")
    if quantile(timed.total, 0.95) > 10:
        wanted.add("LLMEndToEndLatencyHigh")
    if timed.aborted > 0.1:
        wanted.add("LLMRequestsAborted")
    for slo, missed in timed.missed.items():
        if missed > FAST * BUDGET:
            wanted.add(f"SLOErrorBudgetBurningFast {slo}")
        if missed > SLOW * BUDGET:
            wanted.add(f"SLOErrorBudgetBurningSlowly {slo}")
    return wanted


@pytest.mark.parametrize(("recording", "name"), LOADED)
def test_exactly_the_deserved_alerts_fire(recorded, recording, name):
    """In every phase of load, repeated for 25 minutes: none too many, none missing."""
    phase = recorded.phase(recording, name)
    assert told(recorded.fired(phase)) == deserved(timings(phase))


@pytest.mark.parametrize(
    ("name", "alerts"),
    [
        ("c128", {"LLMTimeToFirstTokenHigh", "LLMInterTokenLatencyHigh", "LLMEndToEndLatencyHigh"}),
        ("prefill", {"LLMTimeToFirstTokenHigh", "SLOErrorBudgetBurningFast chat-first-token"}),
        ("abort", {"LLMRequestsAborted"}),
    ],
)
def test_hard_phases_are_told(recorded, name, alerts):
    """The queue of 128, the long prompts and the hang-ups are, whatever the rule of what is deserved."""
    assert alerts <= told(recorded.fired(recorded.phase("8b", name)))


def test_one_request_at_a_time_is_no_trouble(recorded):
    """For longer than any alert waits, nothing is told of it but that alerts arrive."""
    phase = recorded.phase("8b", "c1")
    assert phase.lasts_seconds > max(alert.for_seconds for alert in alert_rules(Settings()))
    assert told(recorded.fired(phase)) == {ALWAYS}


@pytest.mark.parametrize("recording", ["8b", "7b"])
def test_an_idle_engine_is_told_as_waste_after_half_an_hour_and_as_nothing_else(recorded, recording):
    """A GPU that is paid and does nothing is no trouble of serving; the bill's owner hears of it, not sooner."""
    fired = recorded.fired(recorded.phase(recording, "idle"))
    assert told(fired) == {ALWAYS, "LLMGPUAllocatedIdle"}
    assert min(one.after_seconds for one in fired if one.alert != ALWAYS) >= 1800


@pytest.mark.parametrize(
    ("recording", "quiet", "alerts"),
    [
        ("8b", ("c1",), {"LLMTimeToFirstTokenHigh", "LLMInterTokenLatencyHigh", "LLMEndToEndLatencyHigh"}),
        ("7b", ("text",), {"LLMTimeToFirstTokenHigh", "LLMInterTokenLatencyHigh"}),
    ],
)
def test_the_recording_as_it_passed_fires_what_is_quick_and_nothing_before_the_load(recorded, recording, quiet, alerts):
    """Four minutes, once: latency is told within seconds; whatever needs minutes of evidence waits for it."""
    phase = recorded.phase(recording, WHOLE)
    fired = [one for one in recorded.fired(phase) if one.alert != ALWAYS]
    assert told(fired) == alerts
    quiet_until = max(spans(phase.recording)[name][1] for name in quiet)
    assert min(one.after_seconds for one in fired) > (quiet_until - phase.engine[0].at_ns) / SECOND


def test_the_page_tells_what_fires(recorded):
    """The table of docs/alerts-on-recordings.md is what a Prometheus found, phase by phase."""
    rows = re.findall(r"^\| (\S+) \| (\S+) \| ([^|]*) \|", PAGE.read_text(), flags=re.MULTILINE)
    page = {(recording, phase): {*alerts.split(", ")} - {"-"} for recording, phase, alerts in rows}
    found = {(one.recording, one.name): told(recorded.fired(one)) - {ALWAYS} for one in recorded.phases}
    assert {key: page.get(key) for key in found} == found
