"""The script that verifies a stack calls well what is, names what is not, and excuses nothing on its own."""

import json
import re
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import yaml
from tests.stack.grafana_before_prometheus import PASSWORD, GrafanaBeforePrometheus, StandInJaeger, serving
from tests.stack.verifying import load_verify

from farthing.dashboards.questions import boards
from farthing.dashboards.render import render_dashboards
from farthing.settings import Settings

verify = load_verify()
DASHBOARDS = {one["uid"]: one for one in map(json.loads, render_dashboards(Settings()).values())}
QUERIES = {asked.id for board in boards(render_dashboards(Settings())) for asked in board.asked}
REASONS = yaml.safe_load(verify.REASONS.read_text())


class StandInPrometheus:
    """Answers every query with one series of two points, but for those that it has nothing for."""

    def __init__(self, empty=lambda _expr: False):
        self.empty = empty

    def send(self, request):
        """As Prometheus' API does."""
        path = request.url.path
        if path.startswith("/api/v1/label/"):
            return httpx.Response(200, json={"status": "success", "data": ["a", "b"]})
        expr = httpx.QueryParams(request.content.decode())["query"]
        points = [] if self.empty(expr) else [{"metric": {}, "values": [[1, "1"], [2, "NaN"]], "value": [2, "1"]}]
        kind = "vector" if path.endswith("/query") else "matrix"
        return httpx.Response(200, json={"status": "success", "data": {"resultType": kind, "result": points}})


@contextmanager
def grafana(prometheus, dashboards=None):
    """A Grafana before it, as the script talks to it, and the stand-in itself."""
    stand_in = GrafanaBeforePrometheus("http://unused", dashboards or DASHBOARDS)
    stand_in.client = httpx.Client(base_url="http://prometheus", transport=httpx.MockTransport(prometheus.send))
    with serving(stand_in) as url, httpx.Client(trust_env=False) as client:
        yield verify.Grafana(client, verify.Target(url, PASSWORD)), stand_in


def failed(report):
    """What it calls wrong."""
    return [what for what, word, _ in report.lines if word == "FAILED"]


def test_a_stack_whose_every_query_has_data_is_well(capsys):
    """All queries of all dashboards are asked, and the count is told."""
    report = verify.Report()
    with grafana(StandInPrometheus()) as (one, _):
        verify.verify_login(one, report)
        verify.verify_panels(one, report, 0, {})
    assert failed(report) == []
    assert f"{len(QUERIES)} of {len(QUERIES)}" in capsys.readouterr().out


def test_queries_without_data_fail_unless_there_is_a_reason():
    """And one that has an error fails in spite of a reason."""
    name = "farthing-batch/Cost, in range/A"
    expr = next(a.expr for b in boards(render_dashboards(Settings())) for a in b.asked if a.id == name)
    metric = re.findall(r"\b(?:farthing|llm)[\w:]+", expr)[0]
    report = verify.Report()
    with grafana(StandInPrometheus(lambda asked: metric in asked)) as (one, stand_in):
        verify.verify_panels(one, report, 0, {})
        assert name in failed(report)
        assert "panel queries with data" in failed(report)
        report = verify.Report()
        verify.verify_panels(one, report, 0, {".*": "nothing is expected"})
        assert failed(report) == []
        assert (name, "empty", "nothing is expected") in report.lines
        stand_in.broken = lambda asked: "many-to-many matching not allowed" if metric in asked else ""
        report = verify.Report()
        verify.verify_panels(one, report, 0, {".*": "nothing is expected"})
        assert (name, "FAILED", "many-to-many matching not allowed") in report.lines


def test_a_dashboard_that_is_not_provisioned_is_named():
    """By its uid."""
    report = verify.Report()
    less = {uid: one for uid, one in DASHBOARDS.items() if uid != "farthing-slo"}
    with grafana(StandInPrometheus(), less) as (one, _):
        verify.verify_panels(one, report, 0, {})
    assert ("every dashboard is provisioned", "FAILED", "farthing-slo") in report.lines


def test_a_grafana_that_asks_for_no_login_is_not_well():
    """It would show everything to everybody."""
    report = verify.Report()
    with grafana(StandInPrometheus()) as (one, _):
        one.status_without_login = lambda _path: 200
        verify.verify_login(one, report)
    assert failed(report) == ["Grafana asks for a login"]


@pytest.mark.parametrize(
    ("tags", "word"),
    [({"farthing.cost.estimate_nano_usd": 7}, "ok"), ({"http.method": "POST"}, "FAILED")],
)
def test_some_trace_has_to_tell_its_cost(tags, word):
    """Not only that there are traces."""
    report = verify.Report()
    with serving(StandInJaeger(tags)) as url, httpx.Client(trust_env=False) as client:
        verify.verify_traces(client, verify.Target("", "", jaeger=url), report, 0)
    assert [line[1] for line in report.lines] == ["ok", word]


def test_an_alert_counts_that_fires_and_was_posted_to_the_secret_path():
    """Not one that is resolved, and nothing that a stranger posts."""
    report = verify.Report()
    firing = {"alerts": [{"status": "firing", "labels": {"alertname": "FarthingBudgetSpent"}}]}
    resolved = {"alerts": [{"status": "resolved", "labels": {"alertname": "Other"}}]}
    with verify.webhook("127.0.0.1") as (posts, port, path), httpx.Client(trust_env=False) as client:
        assert client.post(f"http://127.0.0.1:{port}/guessed", json=firing).status_code == 404
        assert client.post(f"http://127.0.0.1:{port}{path}", json=resolved).status_code == 200
        verify.verify_alert(posts, report, 0)
        assert client.post(f"http://127.0.0.1:{port}{path}", json=firing).status_code == 200
        verify.verify_alert(posts, report, 0)
    assert [line[1:] for line in report.lines] == [("FAILED", "none in 0 s"), ("ok", "FarthingBudgetSpent")]


def test_the_script_ends_with_one_where_anything_is_wrong(tmp_path, capsys):
    """Its table says what, and a part that does not answer is a line of it."""
    (tmp_path / "password").write_text(PASSWORD)
    with ExitStack() as stack:
        stand_in = GrafanaBeforePrometheus("http://unused", DASHBOARDS)
        transport = httpx.MockTransport(StandInPrometheus().send)
        stand_in.client = httpx.Client(base_url="http://prometheus", transport=transport)
        url = stack.enter_context(serving(stand_in))
        jaeger = stack.enter_context(serving(StandInJaeger({"farthing.cost.estimate_nano_usd": 7})))
        words = ["--grafana", url, "--grafana-password-file", str(tmp_path / "password"), "--patience", "0"]
        assert verify.main([*words, "--jaeger", jaeger]) == 0
        assert re.search(r"verified +ok +0 of \d+ failed", capsys.readouterr().out)
        (tmp_path / "password").write_text("another")
        assert verify.main([*words, "--jaeger", jaeger]) == 1
    assert "a part does not answer as it must" in capsys.readouterr().out


def test_every_reason_is_of_queries_that_there_are():
    """A panel that was renamed must not leave its excuse behind."""
    idle = [pattern for pattern in REASONS if not any(re.fullmatch(pattern, name) for name in QUERIES)]
    assert idle == []
    excused = {name for name in QUERIES if any(re.fullmatch(pattern, name) for pattern in REASONS)}
    assert len(excused) < len(QUERIES) / 2
