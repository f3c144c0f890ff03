"""docs/grafana.md says what is provisioned, which releases are checked, and gives files that Grafana takes."""

import json
import re

import yaml
from tests.dashboards.published_types import FOLDER, VERSIONS
from tests.docs.pages import ROOT, blocks, rows, sections

from farthing.cli.dashboard_configmaps import FOLDER_ANNOTATION, SIDECAR_LABEL
from farthing.domain.errors import GrafanaError
from farthing.stack.grafana import SPAN_TAGS, GrafanaSources, render_provider, render_sources

PAGE = (ROOT / "docs" / "grafana.md").read_text()
WANTED = json.loads((FOLDER / "package.json").read_text())["devDependencies"]


def test_the_releases_are_those_whose_types_are_installed():
    """By major and minor number."""
    told = re.search(r"publishes of ((?:\d+\.\d+(?:, | and )?)+)", PAGE)
    assert told is not None
    installed = [WANTED[f"grafana-schema-{version}"].rpartition("@")[2] for version in VERSIONS]
    assert re.findall(r"\d+\.\d+", told[1]) == [".".join(version.split(".")[:2]) for version in installed]


def test_every_data_source_is_told_by_its_uid():
    """And none that there is not."""
    entries = yaml.safe_load(render_sources(GrafanaSources("http://p", "http://a", "http://j", 5)))["datasources"]
    told = [row[0] for row in rows(sections(PAGE)["Data sources"]) if re.fullmatch(r"`[a-z]+`", row[0])]
    assert sorted(told) == sorted(f"`{one['uid']}`" for one in entries)


def test_every_attribute_that_leads_to_a_series_is_told():
    """With the label that it becomes."""
    table = [row for row in rows(sections(PAGE)["Data sources"]) if "." in row[0]]
    assert {row[0].strip("`"): row[1].partition(":")[0].strip("`") for row in table} == dict(SPAN_TAGS)


def test_the_files_to_copy_agree_with_ours():
    """The provider with the one of the stack, the chart's values with the ConfigMaps."""
    provider, values = (yaml.safe_load(block.body) for block in blocks(PAGE) if block.language == "yml")
    ours = yaml.safe_load(render_provider("/x"))["providers"][0]
    (given,) = provider["providers"]
    assert set(given) <= set(ours)
    assert {key: ours[key] for key in given if key != "options"} == {
        key: given[key] for key in given if key != "options"
    }
    assert set(given["options"]) <= set(ours["options"])
    assert values["sidecar"]["dashboards"]["folderAnnotation"] == FOLDER_ANNOTATION
    assert f"`{SIDECAR_LABEL}`" in PAGE


def test_the_exit_status_is_that_of_the_error():
    """Pipelines go by it."""
    assert f"exit status {GrafanaError.exit_code}." in PAGE


def test_every_package_from_npm_is_justified():
    """As those from PyPI are."""
    page = sections((ROOT / "docs" / "dependencies.md").read_text())
    told = {row[0] for row in rows(page["Of development, from npm"])[1:]}
    names = {version.removeprefix("npm:").rpartition("@")[0] or name for name, version in WANTED.items()}
    assert told == names
