"""Each kind of receiver gets a message that says the number, the cost, the owner, and where to look."""

from copy import deepcopy

import pytest
from tests.alerts.notified import SLOW, message_data, rendered, written

from farthing.settings import Settings, StackSettings

pytestmark = pytest.mark.real

TRACES = "search?service=vllm&lookback=custom&start=1795722300000000&end=1795724100000000"


@pytest.fixture
def templates(tmp_path):
    """A folder with the default templates."""
    return written(tmp_path, Settings())


def resolved(alert):
    """The same alert, over after ten minutes."""
    return {**deepcopy(alert), "status": "resolved", "endsAt": "2026-11-26T20:10:00Z"}


def test_the_text_says_number_cost_owner_and_links(templates):
    """What PagerDuty and the text part of an e-mail show."""
    assert rendered(templates, "text", message_data(SLOW)) == (
        "llama <8b> & co: p95 time to first token is 1.9s\n"
        "Promised are 0.5 s. The engines of this model cost $4.79 per hour while it lasts.\n"
        "Owner: llm-serving. Since 2026-11-26 20:00:00 UTC.\n"
        "Dashboard: http://grafana/d/farthing-fleet?var-model=llama&from=now\n"
        "Runbook: https://runbooks/LLMTimeToFirstTokenHigh.md\n"
        f"Traces: http://localhost:16686/{TRACES}\n"
    )


def test_slack_gets_its_own_marks_and_nothing_that_it_would_read_as_one(templates):
    """A model's name must not become a link or a mention."""
    escaped = TRACES.replace("&", "&amp;")
    assert rendered(templates, "slack", message_data(SLOW)) == (
        "*llama &lt;8b&gt; &amp; co: p95 time to first token is 1.9s*\n"
        "Promised are 0.5 s. The engines of this model cost $4.79 per hour while it lasts.\n"
        "Owner: llm-serving. Since 2026-11-26 20:00:00 UTC.\n"
        "<http://grafana/d/farthing-fleet?var-model=llama&amp;from=now|Dashboard> · "
        "<https://runbooks/LLMTimeToFirstTokenHigh.md|Runbook> · "
        f"<http://localhost:16686/{escaped}|Traces>\n"
    )


def test_an_email_is_html_with_every_value_escaped(templates):
    """Names come from outside."""
    text = rendered(templates, "email", message_data(SLOW), kind="html")
    assert "<h2>[critical] llama &lt;8b&gt; &amp; co: p95 time to first token is 1.9s</h2>" in text
    assert "cost $4.79 per hour" in text
    assert "Owner: llm-serving. Since 2026-11-26 20:00:00 UTC." in text
    assert '<a href="http://grafana/d/farthing-fleet?var-model=llama&amp;from=now">Dashboard</a>' in text
    assert '<a href="https://runbooks/LLMTimeToFirstTokenHigh.md">Runbook</a>' in text
    assert ">Traces</a>" in text
    assert "<8b>" not in text


def test_teams_gets_markdown(templates):
    """Its cards show bold and links."""
    assert rendered(templates, "teams", message_data(SLOW)) == (
        "**llama <8b> & co: p95 time to first token is 1.9s**\n\n"
        "Promised are 0.5 s. The engines of this model cost $4.79 per hour while it lasts.\n\n"
        "Owner: llm-serving. Since 2026-11-26 20:00:00 UTC.\n\n"
        "[Dashboard](http://grafana/d/farthing-fleet?var-model=llama&from=now) · "
        "[Runbook](https://runbooks/LLMTimeToFirstTokenHigh.md) · "
        f"[Traces](http://localhost:16686/{TRACES})\n\n"
    )


def test_the_title_of_one_alert_is_its_summary(templates):
    """With how bad it is in front."""
    assert rendered(templates, "title", message_data(SLOW)) == f"[critical] {SLOW['annotations']['summary']}"
    assert rendered(templates, "title", message_data(resolved(SLOW))) == f"[resolved] {SLOW['annotations']['summary']}"


def test_the_title_of_several_counts_them(templates):
    """Instances of one model, of which one is well again."""
    title = rendered(templates, "title", message_data(SLOW, SLOW, resolved(SLOW)))
    assert title == "[critical] LLMTimeToFirstTokenHigh of llama <8b> & co: 2 firing, 1 resolved"


def test_the_title_of_tests_says_so(templates):
    """Nobody shall get up for them; the summary of a single one says so itself."""
    tried = deepcopy(SLOW)
    tried["labels"]["farthing_test"] = "1"
    title = rendered(templates, "title", message_data(tried, tried))
    assert title.startswith("[critical] TEST: LLMTimeToFirstTokenHigh of ")


def test_what_is_over_says_since_when(templates):
    """In a group, beside what still fires."""
    text = rendered(templates, "text", message_data(SLOW, resolved(SLOW)))
    first, second = text.split("\n\n")
    assert not first.startswith("Resolved")
    assert second.startswith("Resolved at 2026-11-26 20:10:00 UTC: llama <8b> & co: p95 time to first token is 1.9s\n")
    slack = rendered(templates, "slack", message_data(resolved(SLOW)))
    assert slack.startswith("*Resolved at 2026-11-26 20:10:00 UTC:* llama &lt;8b&gt;")


@pytest.mark.parametrize(("name", "kind"), [("text", "text"), ("slack", "text"), ("teams", "text"), ("email", "html")])
def test_of_many_alerts_ten_are_told_in_full(templates, name, kind):
    """Receivers cut long messages, at the end, where the links are."""
    text = rendered(templates, name, message_data(*[SLOW] * 11), kind)
    assert text.count("cost $4.79 per hour") == 10
    assert "These are 10 of 11; all: http://alertmanager" in text
    assert "These are" not in rendered(templates, name, message_data(*[SLOW] * 10), kind)


@pytest.mark.parametrize(
    ("alerts", "color"),
    [((SLOW,), "danger"), ((resolved(SLOW),), "good")],
    ids=["critical", "resolved"],
)
def test_slack_shows_how_bad_it_is_by_a_bar(templates, alerts, color):
    """Its own three colours."""
    assert rendered(templates, "slack.color", message_data(*alerts)) == color


def test_slack_shows_a_warning_as_one(templates):
    """And a group of both kinds too."""
    mild = deepcopy(SLOW)
    mild["labels"]["severity"] = "warning"
    assert rendered(templates, "slack.color", message_data(mild)) == "warning"
    assert rendered(templates, "title", message_data(mild, SLOW)).startswith("[warning] ")


def test_an_alert_of_somebody_else_is_told_by_its_name(templates):
    """Alertmanager may be shared; ours are not the only annotations in the world."""
    foreign = {**deepcopy(SLOW), "labels": {"alertname": "DiskFull"}, "annotations": {}}
    assert rendered(templates, "title", message_data(foreign)) == "[firing] DiskFull"
    text = rendered(templates, "text", message_data(foreign))
    assert text.startswith("DiskFull\nOwner: nobody in particular. Since ")
    assert "Dashboard" not in text
    assert rendered(templates, "slack", message_data(foreign)).startswith("*DiskFull*\n")


def test_links_to_traces_lead_where_the_settings_say(tmp_path):
    """Jaeger as readers reach it, and the service that engines report as."""
    settings = Settings.model_validate({"notify": {"jaeger_url": "https://traces.example/", "jaeger_service": "a b"}})
    text = rendered(written(tmp_path, settings), "text", message_data(SLOW))
    assert "Traces: https://traces.example/search?service=a%20b&lookback=custom&start=" in text
    moved = Settings(stack=StackSettings(jaeger_port=16000))
    assert "http://localhost:16000/search" in rendered(written(tmp_path, moved), "text", message_data(SLOW))
