"""`farthing dashboards` lists them, writes them out as Grafana and its sidecar take them, and compares folders."""

import csv
import io
import json
from pathlib import Path

import pytest
import yaml
from tests.cli.commands import farthing, one_line

from farthing.cli.dashboard_configmaps import LIMIT_BYTES, config_maps, config_maps_text
from farthing.cli.dashboards import chosen
from farthing.dashboards.render import render_dashboards
from farthing.domain.errors import ConfigError
from farthing.settings import Settings

ROOT = Path(__file__).parents[2]
ALL = chosen(Settings(), ())
FIRST = ALL[0]


def test_every_dashboard_is_listed_with_its_panels(tmp_path):
    """As JSON, CSV and a table; a row is no panel."""
    rows = json.loads(farthing("dashboards", "list", "-o", "json", cwd=tmp_path).out)["rows"]
    assert [(row["uid"], row["title"]) for row in rows] == [(one.uid, one.title) for one in ALL]
    for row, one in zip(rows, ALL, strict=True):
        inside = [inner for panel in one.document["panels"] for inner in (panel, *panel.get("panels", ()))]
        panels = [panel for panel in inside if panel["type"] != "row"]
        assert row["panels"] == len(panels) > 0
        assert row["queries"] == sum(len(panel.get("targets", ())) for panel in panels)
    listed = csv.DictReader(io.StringIO(farthing("dashboards", "list", "-o", "csv", cwd=tmp_path).out))
    assert [row["uid"] for row in listed] == [one.uid for one in ALL]
    assert all(one.title in farthing("dashboards", "list", cwd=tmp_path).out for one in ALL)


def test_rendering_into_a_directory_writes_what_is_generated(tmp_path):
    """And a diff against it then finds nothing."""
    ran = farthing("dashboards", "render", "-d", "boards/of/grafana", cwd=tmp_path)
    assert ran.out == f"wrote {len(ALL)} files into boards/of/grafana\n"
    folder = tmp_path / "boards" / "of" / "grafana"
    assert {path.name: path.read_text() for path in folder.iterdir()} == render_dashboards(Settings())
    ran = farthing("dashboards", "diff", "--directory", "boards", cwd=tmp_path)
    assert (ran.code, ran.out) == (0, f"{len(ALL)} of {len(ALL)} dashboards are the same in boards\n")


def test_rendering_follows_the_settings(tmp_path):
    """A promise moves the line of its panel, and the diff says so."""
    farthing("dashboards", "render", "-d", "before", cwd=tmp_path)
    (tmp_path / "farthing.yaml").write_text("alerts:\n  ttft_p95_seconds: 0.125\n")
    ran = farthing("dashboards", "diff", "-d", "before", cwd=tmp_path)
    assert ran.code == 1
    assert "0.125" in ran.out


def test_printed_one_is_json_and_several_are_an_array(tmp_path):
    """To be piped into another program."""
    one = farthing("dashboards", "render", FIRST.uid, cwd=tmp_path)
    assert one.out == FIRST.text
    printed = json.loads(farthing("dashboards", "render", "--tag", "team-llm", cwd=tmp_path).out)
    documents = printed if isinstance(printed, list) else [printed]
    assert [document["uid"] for document in documents] == [one.uid for one in ALL]
    assert all(document["tags"][-1] == "team-llm" for document in documents)


def test_config_maps_carry_what_the_sidecar_looks_for(tmp_path):
    """The label, the folder, and JSON that is the dashboard."""
    ran = farthing("dashboards", "render", "--kubernetes", "--namespace", "monitoring", "--folder", "LLM", cwd=tmp_path)
    maps = list(yaml.safe_load_all(ran.out))
    assert [one["metadata"]["name"] for one in maps] == [f"dashboard-{board.uid}" for board in ALL]
    for one, board in zip(maps, ALL, strict=True):
        assert (one["apiVersion"], one["kind"]) == ("v1", "ConfigMap")
        assert one["metadata"]["namespace"] == "monitoring"
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"] == {"grafana_folder": "LLM"}
        assert one["data"] == {board.file: board.text}
        assert len(board.text.encode()) + len(board.file) < LIMIT_BYTES
    assert "  farthing-fleet.json: |\n    {\n" in ran.out


def test_config_maps_without_a_namespace_or_folder_leave_them_to_others(tmp_path):
    """One file each in a directory."""
    farthing("dashboards", "render", "--kubernetes", "--folder", "", "-d", "out", cwd=tmp_path)
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == sorted(f"dashboard-{one.uid}.yaml" for one in ALL)
    metadata = yaml.safe_load(written[0].read_text())["metadata"]
    assert set(metadata) == {"name", "labels"}


def test_json_beyond_the_limit_loses_its_indentation_before_it_is_refused():
    """A ConfigMap holds 1 MiB, keys included."""
    inner = ["x" * 60] * 12_000
    wide = json.dumps({"panels": inner}, indent=40)
    assert len(wide.encode()) > LIMIT_BYTES
    (one,) = config_maps([("u", "u.json", wide)], namespace=None, folder="")
    assert len(one["data"]["u.json"].encode()) < LIMIT_BYTES
    assert json.loads(one["data"]["u.json"]) == {"panels": inner}
    assert yaml.safe_load(config_maps_text([one])) == one
    with pytest.raises(ConfigError, match=r"u: \d+ bytes are more than the 1048576 that a ConfigMap holds"):
        config_maps([("u", "u.json", json.dumps(["x" * 60] * 20_000))], namespace=None, folder="")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("render", "farthing-flet"), 3, "there is no dashboard 'farthing-flet'; one of farthing-"),
        (("render", "-d", "taken"), 3, "taken: cannot be written (File exists); choose another --directory"),
        (("diff", "-d", "nowhere"), 3, "nowhere: is not a directory"),
        (("diff", "-d", "broken"), 1, "broken/a.json: cannot be read as JSON ("),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(tmp_path, arguments, code, said):
    """Naming the input."""
    (tmp_path / "taken").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.json").write_text("{")
    assert one_line(farthing("dashboards", *arguments, cwd=tmp_path), code).startswith(said)


@pytest.mark.parametrize("arguments", [(), ("--url", "http://x", "-d", ".")])
def test_diff_wants_one_place_to_compare_with(tmp_path, arguments):
    """Neither none nor two."""
    ran = farthing("dashboards", "diff", *arguments, cwd=tmp_path)
    assert ran.code == 2
    assert "give --url or --directory" in ran.err


def test_a_folder_with_leftovers_is_told(tmp_path):
    """A dashboard of ours that was renamed stays there; those of others do not count."""
    folder = tmp_path / "boards"
    farthing("dashboards", "render", "-d", "boards", cwd=tmp_path)
    (folder / "old.json").write_text(json.dumps({"uid": "farthing-old", "title": "Old", "tags": ["farthing"]}))
    (folder / "other.json").write_text(json.dumps({"uid": "other", "title": "Other", "tags": []}))
    (folder / "list.json").write_text("[]")
    (folder / f"{FIRST.uid}.json").unlink()
    ran = farthing("dashboards", "diff", "-d", "boards", "-o", "csv", cwd=tmp_path)
    assert ran.out.splitlines()[1:] == [f"{FIRST.uid},,,,only here", "farthing-old,,,only there,"]
    assert farthing("dashboards", "diff", "-d", "boards", FIRST.uid, cwd=tmp_path).out.splitlines() == [
        f"{FIRST.uid} ({FIRST.title}): only here",
        "0 of 1 dashboards are the same in boards",
    ]
