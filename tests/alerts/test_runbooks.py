"""Every alert has a runbook that a tired person can follow."""

import re
from pathlib import Path

import pytest

from farthing.alerts.render import alert_rules
from farthing.domain.conventions import RUNBOOK_BASE
from farthing.settings import Settings

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "alerts" / "runbooks"
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation", "What it costs while it lasts"]
ALERTS = [alert.name for alert in alert_rules(Settings())]


@pytest.mark.parametrize("name", ALERTS)
def test_a_runbook_has_its_headings_in_order_and_says_something_below_each(name):
    """Meaning, impact, diagnosis, mitigation, cost."""
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    sections = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    assert sections[1::2] == HEADINGS
    assert all(len(body.strip()) > 80 for body in sections[2::2])


@pytest.mark.parametrize("name", ALERTS)
def test_a_runbook_has_queries_to_paste(name):
    """For diagnosis, and for the cost."""
    sections = re.split(r"^## (.+)$", (RUNBOOKS / f"{name}.md").read_text(), flags=re.MULTILINE)
    by_heading = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert "```promql\n" in by_heading["Diagnosis"]
    assert "farthing_" in by_heading["What it costs while it lasts"]


def test_there_is_no_runbook_without_its_alert():
    """A renamed alert takes its runbook along."""
    assert sorted(path.stem for path in RUNBOOKS.glob("*.md")) == sorted(ALERTS)


def test_the_runbook_url_leads_into_the_folder_of_runbooks():
    """The base is a folder of this repository."""
    assert RUNBOOK_BASE.endswith("/" + RUNBOOKS.relative_to(ROOT).as_posix() + "/")
