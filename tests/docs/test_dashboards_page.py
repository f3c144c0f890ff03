"""docs/dashboards.md names our dashboards and panels as they are, and tells of no panel that there is not."""

import re
from functools import cache
from pathlib import Path

import pytest
from tests.dashboards.panels import dashboards
from tests.docs.pages import ROOT, anchors, rows, sections

from farthing.dashboards.render import DASHBOARDS
from farthing.domain import conventions as names

PAGE = (ROOT / "docs" / "dashboards.md").read_text()
UIDS = {value for name, value in vars(names).items() if name.startswith("DASHBOARD_")}
QUESTIONS = [row for row in rows(sections(PAGE)["Question by question"]) if len(row) == 5 and row[0] != "question"]
OTHERS = ("vLLM", "production-stack", "llm-d")
_OURS = re.compile(r"`(farthing-[a-z]+)`: ([^;]+)")


@cache
def shown():
    """(dashboard, title) of every panel."""
    return {
        (Path(file).stem, panel["title"])
        for file, dashboard in dashboards().items()
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    }


def named(cell):
    """(dashboard, title) of every panel that a cell names as ours."""
    return _OURS.findall(cell)


def test_every_dashboard_is_told_with_who_asks_what():
    """The first table has each of them once, and no other."""
    table = rows(PAGE.partition("## Open them")[0])[1:]
    assert sorted(row[0].strip("`") for row in table) == sorted(UIDS)
    assert all(row[2] and row[3].endswith("?") for row in table)
    assert {uid for uid, _ in DASHBOARDS} <= UIDS


def test_every_dashboard_has_the_title_that_it_has_in_grafana():
    """People look for it by that."""
    told = {row[0].strip("`"): row[1] for row in rows(PAGE.partition("## Open them")[0])[1:]}
    titles = {Path(file).stem: dashboard["title"] for file, dashboard in dashboards().items()}
    assert {uid: f"Farthing / {told[uid]}" for uid in titles} == titles


@pytest.mark.parametrize("row", QUESTIONS, ids=lambda row: row[0][:60])
def test_a_panel_that_answers_a_question_is_on_its_dashboard(row):
    """By its title; where there is none, the page says no."""
    ours = named(row[1])
    assert set(ours) <= shown()
    assert bool(ours) != row[1].startswith("no")
    assert len(ours) == row[1].count("`farthing-")


def test_every_dashboard_answers_some_question():
    """One that answers none is not needed, or the tables are old."""
    answering = {uid for row in QUESTIONS for uid, _ in named(row[1])}
    assert {uid for uid, _ in DASHBOARDS} <= answering


def test_others_are_told_where_they_answer_and_we_do_not():
    """A comparison that only flatters is none."""
    assert len(QUESTIONS) >= 45
    alone = [row for row in QUESTIONS if row[1].startswith("no")]
    assert len(alone) >= 5
    for row in alone:
        assert any(not cell.startswith("no") or "OpenCost" in cell for cell in row[2:]), row[0]


def test_every_answer_of_others_is_given():
    """A panel, or that there is none."""
    for row in QUESTIONS:
        assert all(row), row


@pytest.mark.parametrize("other", range(2, 5), ids=OTHERS)
def test_a_panel_that_does_not_answer_is_explained(other):
    """Whoever reads a dagger finds why: each board and panel with one is in the section that it leads to."""
    reasons = [row[:2] for row in rows(sections(PAGE)["Panels of others that do not answer"])[1:]]
    for row in QUESTIONS:
        for board, panel in daggers(row[other]):
            told = [panels for told_board, panels in reasons if board in told_board]
            assert any(panels == "all" or panel in panels for panels in told), (board, panel)


def daggers(cell):
    """(board, panel) of every panel with a dagger."""
    for part in cell.split("; "):
        board, _, panels = part.removeprefix("partly: ").partition(": ")
        for panel in panels.split(", "):
            if "†" in panel:
                yield board, panel.partition("†")[0]


def test_a_dagger_leads_to_its_reasons():
    """By the link that explains it."""
    assert "](#panels-of-others-that-do-not-answer)" in PAGE
    assert "panels-of-others-that-do-not-answer" in anchors(PAGE)


def test_every_dashboard_has_its_picture_with_a_caption():
    """Under its own heading, in the order of the table."""
    order = [row[:2] for row in rows(PAGE.partition("## Open them")[0])[1:]]
    parts = re.findall(r"^### (.+)\n\n(.+)\n\n(.+)$", sections(PAGE)["Pictures"], re.MULTILINE)
    assert [title for title, _, _ in parts] == [title for _, title in order]
    for (uid, _), (title, caption, picture) in zip(order, parts, strict=True):
        path = f"images/dashboards/{uid.strip('`')}.jpg"
        assert caption.endswith(".")
        assert picture == f"![{title}: {caption}]({path})"
        assert (ROOT / "docs" / path).read_bytes().startswith(b"\xff\xd8\xff")
