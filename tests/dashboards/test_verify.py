"""The script that verifies a stack finds data for every query, asked through Grafana's API of a real Prometheus."""

import json

import httpx
import pytest
from tests.dashboards.test_panels_have_data import MAY_BE_NOTHING, TRUTH_IS_NOTHING
from tests.dashboards.world import world_settings
from tests.stack.grafana_before_prometheus import PASSWORD, GrafanaBeforePrometheus, serving
from tests.stack.verifying import load_verify

from farthing.dashboards.render import render_dashboards

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(900)]


def test_every_query_has_data_but_those_whose_truth_is_nothing(panel_world):
    """The same six hours that every panel is tested with, over the other way: a browser's."""
    verify = load_verify()
    documents = {one["uid"]: one for one in map(json.loads, render_dashboards(world_settings()).values())}
    report = verify.Report()
    with (
        serving(GrafanaBeforePrometheus(panel_world.url, documents)) as url,
        httpx.Client(trust_env=False, timeout=60) as client,
    ):
        grafana = verify.Grafana(client, verify.Target(url, PASSWORD))
        verify.verify_login(grafana, report)
        verify.verify_panels(grafana, report, 0, {}, lambda: panel_world.store().span)
    wrong = {what: detail for what, word, detail in report.lines if word == "FAILED"}
    wrong.pop("panel queries with data", None)
    assert set(wrong) <= set(TRUTH_IS_NOTHING) | set(MAY_BE_NOTHING), wrong
    assert set(wrong.values()) <= {"no data"}
