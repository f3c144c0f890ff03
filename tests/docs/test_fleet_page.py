"""docs/fleet.md gives settings that are valid, and keeps what costing reads when series are written on."""

import re
import subprocess

import pytest
import yaml
from tests.alerts.known_metrics import CAPTURES
from tests.alerts.real_parts import program
from tests.docs.pages import ROOT, blocks

from farthing.alerts.render import render_rules
from farthing.collectors.engines.catalogue import load_catalogue, scraped_metrics
from farthing.collectors.engines.exposition import parse_exposition
from farthing.collectors.fleet.targets import UP
from farthing.settings import Settings, parse_settings

PAGE = (ROOT / "docs" / "fleet.md").read_text()
READ, WRITTEN = (yaml.safe_load(block.body) for block in blocks(PAGE))


def kept(name):
    """Whether a series of this name is written on."""
    (relabelling,) = WRITTEN["remote_write"][0]["write_relabel_configs"]
    return re.fullmatch(relabelling["regex"], name) is not None


def test_the_settings_are_valid():
    """And say what an engine runs on."""
    settings = parse_settings(yaml.safe_dump(READ), "fleet.md")
    gpu = settings.fleet[0].gpu_of("eu-1:llama-70b-0", "meta/llama")
    assert gpu is not None
    assert gpu.gpu_count == 4


def test_what_is_written_on_is_what_costing_reads_and_no_more_of_an_engine():
    """Every counter and gauge of the catalogue; no bucket, and nothing that nobody asks for."""
    names = {
        sample.name
        for capture in CAPTURES.glob("metrics-*.txt")
        for sample in parse_exposition(capture.read_bytes(), "text/plain", capture.name)
    }
    wanted = {*scraped_metrics(load_catalogue()), UP}
    assert {name for name in wanted if not kept(name)} == set()
    assert {name for name in names if kept(name)} <= wanted


def test_everything_that_rules_record_is_written_on():
    """Whatever level it has; dashboards of all clusters read it."""
    documents = [yaml.safe_load(text) for text in render_rules(Settings()).values()]
    records = {
        rule["record"] for one in documents for group in one["groups"] for rule in group["rules"] if "record" in rule
    }
    assert len(records) > 100
    assert {record for record in records if not kept(record)} == set()


def test_rules_record_by_instance_and_not_by_cluster():
    """So they are evaluated where there is one cluster, as the page says."""
    texts = "".join(render_rules(Settings()).values())
    assert "by (instance, model)" in texts
    assert not re.search(r"by \([^)]*\bcluster\b", texts)


@pytest.mark.real
def test_prometheus_takes_the_configuration(tmp_path):
    """As it stands in the page."""
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(WRITTEN))
    command = [program("promtool"), "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.real
def test_vmalert_of_debian_refuses_exactly_what_the_page_says(tmp_path):
    """Rules that keep firing; recording rules, and all others, load."""
    refused = set()
    for name, text in render_rules(Settings()).items():
        (tmp_path / name).write_text(text)
        command = [program("vmalert"), f"-rule={tmp_path / name}", "-dryRun", "-datasource.url=http://127.0.0.1:9"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            assert "unknown fields in rule: keep_firing_for" in done.stderr + done.stdout
            refused.add(name)
    assert refused == {name for name, text in render_rules(Settings()).items() if "keep_firing_for:" in text} != set()
    assert not [name for name in refused if "record:" in (tmp_path / name).read_text()]
