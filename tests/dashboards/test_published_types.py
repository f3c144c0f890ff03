"""Every dashboard has the types that Grafana publishes of dashboards, panels and their options."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.dashboards.panels import dashboards
from tests.dashboards.published_types import EXCEPTIONS, FOLDER, VERSIONS, Complaint, complaints

GOOD = dashboards()
SAMPLES: dict[str, Any] = {}
"""Kind of panel -> the first such panel, alone in its dashboard."""
for _dashboard in GOOD.values():
    for _panel in _dashboard["panels"]:
        SAMPLES.setdefault(_panel["type"], _dashboard | {"panels": [_panel]})

MUTANTS: list[tuple[str, str, Any]] = [
    ("stat", "panels.0.options.graphMode", "bars"),
    ("stat", "panels.0.options.textMode", None),
    ("stat", "panels.0.options.reduceOptions.calcs", "lastNotNull"),
    ("stat", "panels.0.options.colour", "value"),
    ("stat", "panels.0.fieldConfig.defaults.custom.lineWidth", 1),
    ("stat", "panels.0.fieldConfig.defaults.mappings", [{"type": "value", "options": {"0": {"text": 0}}}]),
    ("stat", "panels.0.fieldConfig.defaults.color.mode", "rainbow"),
    ("stat", "panels.0.targets.0.expression", "up"),
    ("stat", "panels.0.targets.0.expr", 1),
    ("timeseries", "panels.0.options.legend.showLegend", "yes"),
    ("timeseries", "panels.0.options.tooltip.mode", "several"),
    ("timeseries", "panels.0.fieldConfig.defaults.custom.drawStyle", "lines"),
    ("timeseries", "panels.0.fieldConfig.defaults.custom.stacking.mode", "stacked"),
    ("timeseries", "panels.0.fieldConfig.defaults.custom.linewidth", 1),
    ("timeseries", "panels.0.gridPos.h", "9"),
    ("table", "panels.0.options.sortBy.0.displayName", 1),
    ("table", "panels.0.fieldConfig.defaults.custom.cellOptions", {"type": "sparks"}),
    (
        "table",
        "panels.0.fieldConfig.overrides",
        [{"matcher": {"id": "byName", "options": "a"}, "properties": [{"id": "custom.width", "value": "9"}]}],
    ),
    (
        "table",
        "panels.0.fieldConfig.overrides",
        [{"matcher": {"id": "byName", "options": "a"}, "properties": [{"id": "units", "value": "s"}]}],
    ),
    ("table", "panels.0.fieldConfig.overrides", [{"matcher": {"id": "byLabel", "options": "a"}, "properties": []}]),
    ("table", "panels.0.transformations", [{"id": "organise", "options": {}}]),
    ("table", "panels.0.transformations", [{"id": "merge", "options": {"by": "model"}}]),
    ("table", "panels.0.transformations.1.options.renameByNames", {"a": "b"}),
    ("stat", "panels.0.fieldConfig.defaults.unit", "seconds"),
    ("heatmap", "panels.0.options.color.steps", "64"),
    ("gauge", "panels.0.options.sizing", "large"),
    ("bargauge", "panels.0.options.displayMode", "simple"),
    ("row", "panels.0.collapsed", "no"),
    ("row", "graphTooltip", 3),
    ("row", "templating.list.0.type", "datasources"),
    ("row", "refreshes", "10s"),
    ("row", "schemaVersion", "39"),
    ("row", "annotations", {"list": [{"name": "a", "enable": True, "iconColor": "red", "query": "up"}]}),
    ("stat", "panels.0.links", [{"title": "a", "href": "b"}]),
    ("stat", "panels.0.fieldConfig.defaults.links", [{"title": "a", "url": "b", "newTab": True}]),
]
"""Kind of panel, path and the value that is wrong there."""


def mutant(kind: str, path: str, value: Any) -> Any:
    """The kind's sample with one value changed, added or, as None, taken out."""
    changed = copy.deepcopy(SAMPLES[kind])
    holder = changed
    *way, last = path.split(".")
    for key in way:
        holder = holder[int(key)] if isinstance(holder, list) else holder.setdefault(key, {})
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return changed


def _named_mutants() -> Iterator[tuple[str, Any]]:
    for index, (kind, path, value) in enumerate(MUTANTS):
        yield f"mutant-{index}", mutant(kind, path, value)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Complaint]:
    """What the compiler says of the dashboards and of their mutants, in one run."""
    return complaints(GOOD | dict(_named_mutants()), tmp_path_factory.mktemp("types"))


@pytest.mark.real
@pytest.mark.parametrize("version", VERSIONS)
def test_every_dashboard_has_the_types_that_grafana_publishes(found, version):
    """Grafana drops what it does not know and shows a panel with other options, or none, without a word."""
    of_dashboards = [str(one) for one in found if not one.subject.startswith("mutant-")]
    assert [text for text in of_dashboards if text.startswith((f"Grafana {version}:", "Grafana :"))] == []


@pytest.mark.real
@pytest.mark.parametrize("index", range(len(MUTANTS)), ids=[f"{kind}.{path}" for kind, path, _ in MUTANTS])
def test_a_dashboard_that_departs_from_the_types_is_noticed_by_every_version(found, index):
    """A wrong type, an unknown value, an unknown key, a missing key."""
    assert {one.version for one in found if one.subject.split()[0] == f"mutant-{index}"} == set(VERSIONS)


@pytest.mark.real
def test_every_exception_is_needed(tmp_path):
    """One that no version complains of any more has to go."""
    told = complaints(GOOD, tmp_path, exceptions=())
    for one in EXCEPTIONS:
        assert len(one.reason) > 40
        versions = {complaint.version for complaint in told if f"'\"{one.path[-1]}\"'" in complaint.text}
        assert versions == set(one.versions), one


def test_the_packages_are_pinned_without_naming_a_registry():
    """Exactly, and a lock made behind a mirror installs everywhere."""
    wanted = json.loads((FOLDER / "package.json").read_text())["devDependencies"]
    lock = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    assert {f"grafana-schema-{version}" for version in VERSIONS} | {"typescript"} == set(wanted)
    for name, version in wanted.items():
        exact = version.removeprefix("npm:@grafana/schema@")
        assert re.fullmatch(r"\d+\.\d+\.\d+", exact)
        assert lock[f"node_modules/{name}"]["version"] == exact
    assert [name for name, entry in lock.items() if name and "integrity" not in entry] == []
    assert "resolved" not in json.dumps(lock)
    assert "://" not in json.dumps(lock)
