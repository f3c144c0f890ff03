"""What is committed is what the code generates, and whoever forgets is told which file and how to mend it."""

from pathlib import Path

import pytest

from farthing.alerts.render import render_rules
from farthing.cli.generate import check, generate, generated_files, write
from farthing.dashboards.render import render_dashboards
from farthing.domain.errors import ConfigError
from farthing.domain.metric_reference import METRICS
from farthing.settings import Settings

ROOT = Path(__file__).parents[2]
RULES = Path("alerts/generated/farthing-latency.yml")


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose generated files are current."""
    write(tmp_path, generated_files(Settings()))
    return tmp_path


def test_the_committed_files_are_current():
    """They are the golden files of rules, dashboards and the metric reference."""
    assert check(ROOT, generated_files(Settings())) == []


def test_the_files_are_rules_dashboards_compose_configuration_and_references():
    """Where deployments and readers look for them."""
    paths = [path.as_posix() for path in generated_files(Settings())]
    assert [path for path in paths if not path.startswith("deploy/")] == [
        *(f"alerts/generated/{name}" for name in render_rules(Settings())),
        *(f"alerts/generated/current/{name}" for name in render_rules(Settings())),
        *(f"dashboards/generated/{name}" for name in render_dashboards(Settings())),
        "docs/alerts.md",
        "docs/metrics.md",
        "docs/cli.md",
        "docs/configuration.md",
    ]
    assert "deploy/compose/generated/prometheus/prometheus.yml" in paths
    assert "deploy/kubernetes/autoscaling/keda/scaledobjects.yaml" in paths


def test_the_metric_reference_has_a_row_per_metric():
    """Every metric, its type, unit, labels and meaning."""
    page = generated_files(Settings())[Path("docs/metrics.md")]
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) == len(METRICS)
    for metric, row in zip(METRICS, rows, strict=True):
        assert row.startswith(f"| `{metric.name}` | {metric.type} | {metric.unit} |")
        assert row.endswith(f"| {metric.help} |")


def test_writing_twice_changes_nothing(checkout):
    """Only files that differ are touched."""
    assert write(checkout, generated_files(Settings())) == []


def test_an_edited_file_is_stale_and_its_lines_are_counted(checkout, capsys):
    """A hand-made change would be lost with the next run."""
    file = checkout / RULES
    file.write_text(file.read_text().replace("for: 15s", "for: 99s", 1))
    assert check(checkout, generated_files(Settings())) == ["stale: alerts/generated/farthing-latency.yml (+1 -1)"]
    assert generate(check=True, root=checkout) == 1
    shown = capsys.readouterr()
    assert "-        for: 99s\n+        for: 15s\n" in shown.out
    assert "stale: alerts/generated/farthing-latency.yml (+1 -1)\nrun `farthing generate`" in shown.err


def test_different_line_endings_are_stale(checkout):
    """Byte for byte, or two machines would take turns."""
    file = checkout / RULES
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert [line.split(" (")[0] for line in check(checkout, generated_files(Settings()))] == [f"stale: {RULES}"]


def test_a_missing_file_is_named_and_written_again(checkout, capsys):
    """With the folders that it needs."""
    pages = ["docs/alerts.md", "docs/metrics.md", "docs/cli.md", "docs/configuration.md"]
    for page in pages:
        (checkout / page).unlink()
    (checkout / "docs").rmdir()
    assert check(checkout, generated_files(Settings())) == [f"missing: {page}" for page in pages]
    assert generate(check=False, root=checkout) == 0
    assert capsys.readouterr().out.startswith("".join(f"wrote {page}\n" for page in pages))
    assert generate(check=True, root=checkout) == 0


def test_an_orphan_is_named_and_removed(checkout, capsys):
    """Prometheus would go on loading rules that nothing defines any more."""
    orphan = checkout / "alerts" / "generated" / "old.yml"
    orphan.write_text("groups: []\n")
    assert check(checkout, generated_files(Settings())) == ["orphan: alerts/generated/old.yml"]
    assert generate(check=True, root=checkout) == 1
    assert generate(check=False, root=checkout) == 0
    assert "removed alerts/generated/old.yml\n" in capsys.readouterr().out
    assert not orphan.exists()


def test_one_target_writes_its_own_rules_and_nothing_else(tmp_path, capsys):
    """Whoever runs a newer Prometheus needs no dashboards again, and loses no file of the other target."""
    (tmp_path / "alerts").mkdir()
    assert generate(check=False, root=tmp_path, target="debian") == 0
    assert generate(check=False, root=tmp_path, target="current") == 0
    folder = tmp_path / "alerts" / "generated"
    assert {path.name for path in folder.glob("*.yml")} == {path.name for path in (folder / "current").glob("*.yml")}
    assert (folder / "llm-vocabulary.yml").is_file()
    assert not (tmp_path / "docs").exists()
    assert generate(check=True, root=tmp_path, target="current") == 0
    (folder / "current" / "llm-vocabulary.yml").unlink()
    capsys.readouterr()
    assert generate(check=True, root=tmp_path, target="current") == 1
    assert "missing: alerts/generated/current/llm-vocabulary.yml" in capsys.readouterr().err


def test_a_target_that_is_not_catered_for_is_refused(tmp_path):
    """With those that are."""
    (tmp_path / "alerts").mkdir()
    with pytest.raises(ConfigError, match=r"--target 2\.x: .*; one of debian, current"):
        generate(check=False, root=tmp_path, target="2.x")


def test_documents_beside_the_reference_are_left_alone(checkout):
    """Only the folders of generated files are owned."""
    guide = checkout / "docs" / "guide.md"
    guide.write_text("by hand\n")
    assert write(checkout, generated_files(Settings())) == []
    assert guide.exists()


def test_elsewhere_than_in_a_checkout_nothing_is_written(tmp_path):
    """Rules scattered over some other folder help nobody."""
    with pytest.raises(ConfigError, match="no alerts folder"):
        generate(check=False, root=tmp_path)
    assert list(tmp_path.iterdir()) == []
