"""Who grew: only what is known of both periods is compared."""

import re
import subprocess

import pytest
import yaml
from tests.alerts.real_parts import program
from tests.dashboards.panels import filled

from farthing.dashboards import tenant_queries as tenants
from farthing.domain import conventions as names

pytestmark = pytest.mark.real

COST = f'{names.METRIC_TENANT_COST}{{tenant="%s", model="m", tier="t", phase="decode"}}'
BUILD = f'{names.METRIC_BUILD}{{version="1", currency="USD"}}'


def asked_after_two_hours(folder, expr, series):
    """promtool's answer to a query with a range of one hour, by tenant; series are given by the minute."""
    rules = folder / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": []}))
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {"expr": filled(expr, "1h"), "eval_time": "120m", "exp_samples": [{"labels": "never", "value": 1}]}
        ],
    }
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run([program("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    (got,) = re.findall(r"got: *(.*)", done.stdout + done.stderr)
    return {tenant: float(value) for tenant, value in re.findall(r'\{tenant="(\w+)"\} (\S+)', got)}


def test_a_tenant_that_doubled_is_told_by_dollars_and_times(tmp_path):
    """A dollar a minute in the first hour, two in the second."""
    series = {COST % "acme": "0+1x60 62+2x59", BUILD: "1x120"}
    assert asked_after_two_hours(tmp_path, tenants.change(), series) == {"acme": pytest.approx(60, rel=0.02)}
    assert asked_after_two_hours(tmp_path, tenants.times(), series) == {"acme": pytest.approx(2, rel=0.02)}


def test_a_tenant_that_is_new_has_no_growth(tmp_path):
    """What it was before is not 0 but unknown to Prometheus, which cannot tell one from the other."""
    series = {COST % "acme": "_x70 0+2x50", BUILD: "1x120"}
    assert asked_after_two_hours(tmp_path, tenants.change(), series) == {}


def test_a_prometheus_that_is_younger_than_both_periods_compares_nothing(tmp_path):
    """Its first quarter of an hour would make everybody a mover."""
    series = {COST % "acme": "_x45 0+1x75", BUILD: "_x45 1x75"}
    assert asked_after_two_hours(tmp_path, tenants.change(), series) == {}
    assert asked_after_two_hours(tmp_path, tenants.times(), series) == {}
    assert asked_after_two_hours(tmp_path, tenants.before(), series) == {}


def test_without_the_guard_it_would_have_been_a_mover(tmp_path):
    """The query can fail: the quarter of an hour alone is growth."""
    series = {COST % "acme": "_x45 0+1x75", BUILD: "1x120"}
    assert asked_after_two_hours(tmp_path, tenants.change(), series) != {}
