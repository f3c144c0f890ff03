"""What two versions of a dashboard differ in, panel by panel. Pure: JSON in, differences out.

What Grafana itself writes into a dashboard when it saves one does not count: its id and version, a newer version of its
schema, the release that a panel was last edited with, and nulls, which it drops.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Difference", "differences", "shown_differences"]

SAME: Final = ("type", "targets")
"""A panel of another title that has these in common is the same one."""
SCHEMA: Final = "schemaVersion"
OF_GRAFANA: Final = frozenset(("id", "iteration", "version"))
OF_GRAFANA_IN_PANELS: Final = frozenset(("pluginVersion",))
PLACES: Final = frozenset(("gridPos", "id"))
"""They shift for all that follows when a panel comes or goes, and are told once."""
KEYS: Final = ("refId", "name", "id", "matcher")
"""What tells elements of a list apart: queries, variables and annotations, transformations, overrides."""
SHOWN_AT_MOST: Final = 2000

ONLY_HERE: Final = "only here"
ONLY_THERE: Final = "only there"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs; ``panel`` is empty for the dashboard's own, ``path`` where all of it is meant.

    ``there`` and ``here`` are JSON text or plain strings; None is not there at all.
    """

    dashboard: str
    panel: str
    path: str
    there: str | None
    here: str | None


def differences(uid: str, there: Mapping[str, Any] | None, here: Mapping[str, Any] | None) -> list[Difference]:
    """From what is there to what is rendered here; None is a dashboard that is missing."""
    if there is None or here is None:
        whole = (None, ONLY_HERE) if there is None else (ONLY_THERE, None)
        return [Difference(uid, "", "", *whole)]
    skipped = OF_GRAFANA | {"panels"}
    if _schema(there) > _schema(here):
        skipped |= {SCHEMA}
    found = [Difference(uid, "", *change) for change in _compare("", _without(there, skipped), _without(here, skipped))]
    before, after = _panels(there), _panels(here)
    _follow_renamed(before, after)
    moved = 0
    for name in dict.fromkeys((*before, *after)):
        if name not in before or name not in after:
            whole = (None, ONLY_HERE) if name not in before else (ONLY_THERE, None)
            found.append(Difference(uid, name, "", *whole))
            continue
        of_grafana = OF_GRAFANA_IN_PANELS | PLACES
        changes = _compare("", _without(before[name], of_grafana), _without(after[name], of_grafana))
        found += [Difference(uid, name, *change) for change in changes]
        moved += any(before[name].get(key) != after[name].get(key) for key in PLACES)
    # when panels come or go, others move; that is not worth a line
    if moved and before.keys() == after.keys():
        found.append(Difference(uid, "", "places of panels", f"{moved} lie or are numbered otherwise", None))
    return found


def shown_differences(found: Sequence[Difference], titles: Mapping[str, str]) -> str:
    """The differences as text for people: what is there after a minus, what is here after a plus."""
    lines: list[str] = []
    for uid in dict.fromkeys(one.dashboard for one in found):
        of_dashboard = [one for one in found if one.dashboard == uid]
        whole = next((one.there or one.here for one in of_dashboard if not one.panel and not one.path), None)
        lines.append(f"{uid} ({titles.get(uid, 'unknown title')}): {whole or _counted(len(of_dashboard))}")
        for panel in dict.fromkeys(one.panel for one in of_dashboard):
            lines += _of_panel(panel, [one for one in of_dashboard if one.panel == panel and (panel or one.path)])
    return "\n".join(lines)


def _of_panel(panel: str, found: Sequence[Difference]) -> Iterator[str]:
    indent = "  "
    if panel:
        whole = next((one.there or one.here for one in found if not one.path), None)
        yield f"  panel {panel}" + (f": {whole}" if whole else "")
        indent = "    "
    for one in found:
        if one.path:
            yield f"{indent}{one.path}"
            for sign, value in (("-", one.there), ("+", one.here)):
                if value is not None:
                    yield from (f"{indent}  {sign} {line}" for line in _cut(value).splitlines() or [""])


def _schema(dashboard: Mapping[str, Any]) -> int:
    """The version of the schema; one that is no number is the oldest."""
    version = dashboard.get(SCHEMA)
    return version if isinstance(version, int) else 0


def _counted(count: int) -> str:
    return f"{count} difference{'' if count == 1 else 's'}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_AT_MOST else f"{text[:SHOWN_AT_MOST]}… ({len(text)} characters)"


def _panels(dashboard: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Row and title -> panel; those of equal names are numbered in reading order. Rows are panels too."""
    found: dict[str, Mapping[str, Any]] = {}
    seen: Counter[str] = Counter()
    for row, panel in _in_rows(dashboard.get("panels") or ()):
        name = f"{row} / {panel.get('title', '')}" if row else str(panel.get("title", ""))
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name} ({seen[name]})"] = panel
    return found


def _follow_renamed(before: dict[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> None:
    """Give panels that are told apart by their names alone the names that they have here."""
    for old in [name for name in before if name not in after]:
        for new in [name for name in after if name not in before]:
            if all(before[old].get(key) == after[new].get(key) for key in SAME) and before[old].get("targets"):
                before[new] = before.pop(old)
                break


def _in_rows(panels: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each panel with the title of its row; a collapsed row holds its panels, an open one is followed by them."""
    row = ""
    for panel in panels:
        if panel.get("type") == "row":
            row = str(panel.get("title", ""))
            yield "row", _without(panel, frozenset(("panels",)))
            yield from ((row, inner) for inner in panel.get("panels") or ())
        else:
            yield row, panel


def _compare(path: str, there: Any, here: Any) -> Iterator[tuple[str, str | None, str | None]]:
    """(path, there, here) of every leaf that differs."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in dict.fromkeys((*there, *here)):
            yield from _compare(f"{path}.{key}" if path else str(key), there.get(key), here.get(key))
    elif (keyed := _keyed(there, here)) is not None:
        for key in dict.fromkeys((*keyed[0], *keyed[1])):
            yield from _compare(f"{path}.{key}", keyed[0].get(key), keyed[1].get(key))
        orders = [[key for key in side if key in other] for side, other in (keyed, keyed[::-1])]
        if orders[0] != orders[1]:
            yield f"order of {path}", ", ".join(orders[0]), ", ".join(orders[1])
    elif _json(_cleaned(there)) != _json(_cleaned(here)):
        # a string is shown as it is, unless that would hide that the other side is none
        strings = all(value is None or isinstance(value, str) for value in (there, here))
        before, after = (value if strings or value is None else _json(value) for value in (there, here))
        yield path, before, after


def _keyed(there: Any, here: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Both lists by what tells their elements apart; None where nothing does."""
    if not isinstance(there, list) or not isinstance(here, list):
        return None
    for key in KEYS:
        sides = [
            {_name(one[key]): one for one in side if isinstance(one, dict) and key in one} for side in (there, here)
        ]
        if (there or here) and [len(side) for side in sides] == [len(there), len(here)]:
            return sides[0], sides[1]
    return None


def _name(value: Any) -> str:
    """What an element is called by; a matcher by what it matches."""
    return str(value.get("options", value.get("id"))) if isinstance(value, dict) else str(value)


def _cleaned(value: Any) -> Any:
    """The value without nulls."""
    if isinstance(value, dict):
        return {key: _cleaned(inner) for key, inner in value.items() if inner is not None}
    return [_cleaned(inner) for inner in value] if isinstance(value, list) else value


def _without(document: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
