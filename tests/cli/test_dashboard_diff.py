"""What differs between two versions of a dashboard is told panel by panel, and nothing else is."""

import copy
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from tests.dashboards.panels import dashboards

from farthing.cli.dashboard_diff import Difference, differences, shown_differences

UID = "farthing-fleet"
FLEET = dashboards()[f"{UID}.json"]


def changed() -> Any:
    """A copy to change."""
    return copy.deepcopy(FLEET)


def panel_of(dashboard: Any, kind: str) -> Any:
    """The first panel of a kind."""
    return next(panel for panel in dashboard["panels"] if panel["type"] == kind)


def row_of(dashboard: Any, panel: Any) -> str:
    """The title of the row above a panel."""
    place = dashboard["panels"].index(panel)
    return next(str(one["title"]) for one in reversed(dashboard["panels"][:place]) if one["type"] == "row")


def test_what_grafana_writes_itself_is_no_difference():
    """Ids, versions, the release of a panel, and nulls that it drops."""
    there = changed() | {"id": 7, "version": 12, "iteration": 1700000000000, "schemaVersion": 42}
    for panel in there["panels"]:
        panel["pluginVersion"] = "12.1.0"
        for step in panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {}).get("steps", ()):
            if step["value"] is None:
                del step["value"]
    assert differences(UID, there, FLEET) == []
    assert [one.path for one in differences(UID, there | {"schemaVersion": 36}, FLEET)] == ["schemaVersion"]


def test_a_changed_query_is_told_with_its_panel_and_letter():
    """Both as they are."""
    there = changed()
    panel = panel_of(there, "timeseries")
    target = panel["targets"][0]
    was, target["expr"] = target["expr"], "up"
    name = f"{row_of(there, panel)} / {panel['title']}"
    assert differences(UID, there, FLEET) == [Difference(UID, name, "targets.A.expr", "up", was)]


def test_variables_and_overrides_are_told_by_their_names():
    """Not by their number in a list."""
    there = changed()
    there["templating"]["list"][1]["label"] = "Modell"
    name = there["templating"]["list"][1]["name"]
    table = panel_of(there, "table")
    title = table["fieldConfig"]["overrides"][0]["matcher"]["options"]
    table["fieldConfig"]["overrides"][0]["properties"][0]["value"] = "bytes"
    found = differences(UID, there, FLEET)
    assert found[0].path == f"templating.list.{name}.label"
    assert f"fieldConfig.overrides.{title}.properties." in found[1].path
    assert len(found) == 2


def test_a_panel_that_comes_or_goes_is_one_line_whatever_moves_because_of_it():
    """Ids and places of all that follow shift with it."""
    there = changed()
    first = panel_of(there, "stat")
    name = f"{row_of(there, first)} / {first['title']}"
    there["panels"].remove(first)
    for panel in there["panels"]:
        panel["id"] += 1
        panel["gridPos"]["y"] += 5
    assert differences(UID, there, FLEET) == [Difference(UID, name, "", None, "only here")]
    assert differences(UID, FLEET, there) == [Difference(UID, name, "", "only there", None)]


def test_a_panel_of_another_title_or_row_is_the_same_one():
    """Its queries tell."""
    there = changed()
    panel = panel_of(there, "timeseries")
    name = f"{row_of(there, panel)} / {panel['title']}"
    title, panel["title"] = panel["title"], "Mine"
    assert differences(UID, there, FLEET) == [Difference(UID, name, "title", "Mine", title)]
    panel["targets"][0]["expr"] = "up"
    assert [one.path for one in differences(UID, there, FLEET)] == ["", ""]


def test_panels_that_only_moved_are_told_in_one_line():
    """Somebody dragged them about."""
    there = changed()
    for panel in there["panels"][:3]:
        panel["gridPos"]["x"] += 1
    (found,) = differences(UID, there, FLEET)
    assert (found.panel, found.path, found.there) == ("", "places of panels", "3 lie or are numbered otherwise")


def test_panels_of_a_collapsed_row_are_compared_too():
    """They lie inside it there, and below it where it is open."""
    there = changed()
    rows = [index for index, panel in enumerate(there["panels"]) if panel["type"] == "row"]
    inner = there["panels"][rows[0] + 1 : rows[1]]
    there["panels"][rows[0]] |= {"collapsed": True, "panels": inner}
    del there["panels"][rows[0] + 1 : rows[1]]
    assert [(one.panel, one.path) for one in differences(UID, there, FLEET)] == [
        (f"row / {there['panels'][rows[0]]['title']}", "collapsed")
    ]


def test_a_missing_dashboard_is_told_as_one():
    """On either side."""
    assert differences(UID, None, FLEET) == [Difference(UID, "", "", None, "only here")]
    assert differences(UID, FLEET, None) == [Difference(UID, "", "", "only there", None)]


def test_the_text_shows_what_is_there_and_what_would_come():
    """Readable without knowing JSON."""
    there = changed() | {"refresh": "1m"}
    panel = panel_of(there, "stat")
    panel["targets"][0]["expr"] = "up"
    del there["panels"][-1]
    text = shown_differences(differences(UID, there, FLEET), {UID: "Fleet"})
    lines = text.splitlines()
    assert lines[0] == f"{UID} (Fleet): 3 differences"
    assert lines[1:4] == ["  refresh", "    - 1m", f"    + {FLEET['refresh']}"]
    assert f"  panel {row_of(there, panel)} / {panel['title']}" in lines
    assert "      - up" in lines
    assert [line for line in lines if line.endswith(": only here")]


documents = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "id", "name"]), inner, max_size=3)
    ),
    max_leaves=8,
)
named = st.lists(st.fixed_dictionaries({"name": st.sampled_from("abc"), "value": documents}), max_size=3)
boards = st.dictionaries(st.sampled_from(["title", "tags", "links", "time"]), documents | named)


def plain(value: Any) -> Any:
    """The value without nulls, which Grafana drops."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items() if inner is not None}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


@given(boards, boards)
@example({"tags": 1}, {"tags": True})
@example({"links": [{"name": "a"}, {"name": "b"}]}, {"links": [{"name": "b"}, {"name": "a"}]})
@example({"links": "1"}, {"links": 1})
def test_there_are_differences_exactly_where_the_json_differs(there, here):
    """None is told of equal ones, and no difference passes."""
    same = json.dumps(plain(there), sort_keys=True) == json.dumps(plain(here), sort_keys=True)
    assert (differences("u", there, here) == []) == same
