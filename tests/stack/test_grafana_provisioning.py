"""Grafana's provisioning: keys that Grafana reads, UIDs that agree, dollars that survive, links that lead somewhere."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.alerts.known_metrics import captures, farthing_exposition, known_labels, problems
from tests.stack.scenery import require

from farthing.cli.dashboard_commands import FOLDER
from farthing.cli.dashboard_push import folder_uid
from farthing.dashboards.render import render_dashboards
from farthing.domain import conventions as names
from farthing.settings import Settings
from farthing.stack.compose_config import COMPOSE_FILE, compose_files
from farthing.stack.grafana import (
    HOME,
    SPAN_TAGS,
    GrafanaSources,
    grafana_files,
    render_provider,
    render_sources,
    traces_to_metrics,
)

ROOT = Path(__file__).parents[2]
SOURCES = GrafanaSources("http://p:9090", "http://a:9093", "http://j:16686", 5)
TEXTS = {
    "datasources": render_sources(SOURCES),
    "dashboards": render_provider("/etc/farthing/dashboards"),
}

# Keys of the files of version 1: configsV1 and upsertDataSourceFromConfigV1 in Grafana's
# pkg/services/provisioning/datasources/types.go; DashboardAsConfigV1 and DashboardProviderConfigs in types.go of its
# dashboards; the file reader's options in docs/sources/administration/provisioning/index.md.
FILE = {
    "datasources": {"apiVersion", "prune", "deleteDatasources", "datasources"},
    "dashboards": {"apiVersion", "providers"},
}
SOURCE = {
    *("orgId", "orgName", "version", "name", "type", "access", "url", "user", "database", "basicAuth"),
    *("basicAuthUser", "withCredentials", "isDefault", "correlations", "jsonData", "secureJsonData", "editable", "uid"),
}
PROVIDER = {
    *("name", "type", "orgId", "folder", "folderUid", "editable", "options", "disableDeletion"),
    *("updateIntervalSeconds", "allowUiUpdates"),
}
# jsonData: PromOptions in packages/grafana-prometheus/src/types.ts, AlertManagerDataSourceJsonData in
# public/app/plugins/datasource/alertmanager/types.ts, JaegerJsonData in public/app/plugins/datasource/jaeger/types.ts;
# manageAlerts and alertmanagerUid are DataSourceJsonData's in packages/grafana-data/src/types/datasource.ts.
JSON_DATA = {
    "prometheus": {
        *("timeInterval", "queryTimeout", "httpMethod", "customQueryParameters", "disableMetricsLookup"),
        *("exemplarTraceIdDestinations", "prometheusType", "prometheusVersion", "cacheLevel", "defaultEditor"),
        *("incrementalQuerying", "incrementalQueryOverlapWindow", "disableRecordingRules", "manageAlerts"),
        *("alertmanagerUid", "oauthPassThru", "seriesEndpoint"),
    },
    "alertmanager": {"implementation", "handleGrafanaManagedAlerts"},
    "jaeger": {"tracesToLogsV2", "tracesToMetrics", "nodeGraph", "traceIdTimeParams", "spanBar"},
}
EXEMPLAR_DESTINATION = {"name", "url", "urlDisplayLabel", "datasourceUid"}
TRACES_TO_METRICS = {"datasourceUid", "tags", "queries", "spanStartTimeShift", "spanEndTimeShift"}


def as_grafana_reads(text: str) -> Any:
    """The document once Grafana has put files and the environment's variables in: two dollars are one by then.

    ``$__file{path}`` is what the file holds (interpolateValue in pkg/services/provisioning/values/values.go expands as
    in Grafana's own settings); no variable of the environment is left.
    """
    text = re.sub(r"\$__file\{([^}$]+)\}", r"content of \1", text)
    assert re.findall(r"\$", re.sub(r"\$\$", "", text)) == [], text
    return yaml.safe_load(text.replace("$$", "$"))


def sources(jaeger: str = SOURCES.jaeger) -> dict[str, Any]:
    """Type -> data source, as Grafana reads it."""
    text = render_sources(GrafanaSources(SOURCES.prometheus, SOURCES.alertmanager, jaeger, 5))
    return {one["type"]: one for one in as_grafana_reads(text)["datasources"]}


def with_labels(query: str, **labels: str) -> str:
    """The query as Grafana sends it for a span with these labels."""
    return query.replace("$__tags", ", ".join(f'{label}="{value}"' for label, value in labels.items()))


def test_every_key_is_one_that_grafana_reads():
    """It passes over others without a word."""
    assert set(as_grafana_reads(TEXTS["datasources"])) <= FILE["datasources"]
    assert set(as_grafana_reads(TEXTS["dashboards"])) == FILE["dashboards"]
    for kind, source in sources().items():
        assert set(source) <= SOURCE
        assert set(source["jsonData"]) <= JSON_DATA[kind]
        assert source["access"] == "proxy"
    for destination in sources()["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]:
        assert set(destination) <= EXEMPLAR_DESTINATION
    to_metrics = sources()["jaeger"]["jsonData"]["tracesToMetrics"]
    assert set(to_metrics) == TRACES_TO_METRICS
    assert all(set(tag) == {"key", "value"} for tag in to_metrics["tags"])
    assert all(set(query) == {"name", "query"} for query in to_metrics["queries"])
    for shift in (to_metrics["spanStartTimeShift"], to_metrics["spanEndTimeShift"]):
        assert re.fullmatch(r"-?\d+(ms|s|m|h|d|w|M|y)", shift)
    (provider,) = as_grafana_reads(TEXTS["dashboards"])["providers"]
    assert set(provider) <= PROVIDER
    assert set(provider["options"]) == {"path", "foldersFromFilesStructure"}


def test_sources_name_each_other_by_uids_that_exist():
    """A link to a source that is missing is an error in every panel."""
    for jaeger in ("", SOURCES.jaeger):
        found = sources(jaeger)
        uids = [one["uid"] for one in found.values()]
        assert len(set(uids)) == len(uids) == (3 if jaeger else 2)
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", uid) for uid in uids)
        named = re.findall(r"'(?:datasourceUid|alertmanagerUid)': '([^']*)'", str(found))
        assert set(named) <= set(uids)
        assert named
        assert [kind for kind, one in found.items() if one.get("isDefault")] == ["prometheus"]
    kinds = {one["uid"]: kind for kind, one in sources().items()}
    assert kinds[sources()["jaeger"]["jsonData"]["tracesToMetrics"]["datasourceUid"]] == "prometheus"
    (destination,) = sources()["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert kinds[destination["datasourceUid"]] == "jaeger"
    assert kinds[sources()["prometheus"]["jsonData"]["alertmanagerUid"]] == "alertmanager"


def test_dashboards_ask_a_source_that_is_provisioned():
    """By their variable, whose kind is there, or by a UID that is; Grafana's own annotations are always there."""
    kinds = {one["type"] for one in sources().values()}
    uids = {one["uid"] for one in sources().values()} | {"-- Grafana --", "grafana"}
    for text in render_dashboards(Settings()).values():
        document = json.loads(text)
        variables = {
            f"${{{one['name']}}}": one for one in document["templating"]["list"] if one["type"] == "datasource"
        }
        assert {one["query"] for one in variables.values()} <= kinds
        for reference in re.findall(r'"uid": "([^"]*)"', text):
            assert reference in {*variables, *uids, document["uid"]}


def test_the_folder_is_the_one_that_push_finds():
    """Two folders of one name would hold half of the dashboards each."""
    (provider,) = as_grafana_reads(TEXTS["dashboards"])["providers"]
    assert (provider["folder"], provider["folderUid"]) == (FOLDER, folder_uid(FOLDER))


def test_grafana_opens_with_a_dashboard_that_is_there():
    """In Compose at the place where they are mounted, in a native stack at the place where they are written."""
    assert HOME in render_dashboards(Settings())
    service = yaml.safe_load((ROOT / COMPOSE_FILE).read_text())["services"]["grafana"]
    home = Path(service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.name == HOME
    assert any(volume.endswith(f":{home.parent}:ro") for volume in service["volumes"])
    (provider,) = as_grafana_reads(TEXTS["dashboards"])["providers"]
    assert provider["options"]["path"] == str(home.parent)


def test_queries_reach_grafana_as_they_are_meant():
    """A dollar that is not doubled would be a variable of the environment, which is empty."""
    read = sources()["jaeger"]["jsonData"]["tracesToMetrics"]["queries"]
    assert {one["name"]: one["query"] for one in read} == traces_to_metrics()
    assert all("$__tags" in query for query in traces_to_metrics().values())
    assert any("$1" in query for query in traces_to_metrics().values())
    password = GrafanaSources("http://u:pa$$word$1@p", "http://a", "", 5)
    assert as_grafana_reads(render_sources(password))["datasources"][0]["url"] == password.prometheus
    assert as_grafana_reads(render_provider("/srv/$x"))["providers"][0]["options"]["path"] == "/srv/$x"


def test_spans_lead_to_series_that_have_their_labels():
    """With all of them, with one, and with none."""
    known = known_labels(captures(), farthing_exposition())
    assert set(SPAN_TAGS.values()) == {names.LABEL_INSTANCE, names.LABEL_MODEL}
    for query in traces_to_metrics().values():
        for labels in ({}, {"instance": "a"}, {"model": "m"}, {"instance": "a", "model": "m"}):
            assert problems(with_labels(query, **labels), known) == []


@pytest.mark.real
def test_a_span_leads_to_the_engine_that_served_it_and_to_no_other(tmp_path):
    """Its model's latency and its own cost, by joins that promtool evaluates."""
    series = {
        'llm:engine:info{instance="a", model="m", engine_kind="vllm"}': 1,
        'llm:engine:info{instance="b", model="n", engine_kind="vllm"}': 1,
        **{f'{names.METRIC_SPEND_RATE}{{engine="{engine}"}}': value for engine, value in (("a", 2.5), ("b", 7))},
        **{f'{names.REC_TTFT_P95}{{model="{model}"}}': value for model, value in (("m", 0.25), ("n", 9))},
        **{
            f'{metric}{{instance="{instance}", model="{model}"}}': value
            for metric in (names.REC_RUNNING, names.REC_WAITING, names.REC_KV, names.REC_GENERATION_RATE)
            for instance, model, value in (("a", "m", 3), ("b", "n", 8))
        },
    }
    own = {"Time to first token of the model, p95": 0.25, "Cost of the engine per hour": 2.5}
    labels = {
        "Time to first token of the model, p95": f'{names.REC_TTFT_P95}{{model="m"}}',
        "Cost of the engine per hour": f'{names.METRIC_SPEND_RATE}{{engine="a"}}',
    }
    checks = [
        {
            "expr": with_labels(query, instance="a"),
            "eval_time": "1m",
            "exp_samples": [{"labels": labels.get(name, '{instance="a", model="m"}'), "value": own.get(name, 3)}],
        }
        for name, query in traces_to_metrics().items()
    ]
    test = {"input_series": [{"series": name, "values": f"{value}x5"} for name, value in series.items()]}
    file = tmp_path / "spans.yml"
    file.write_text(yaml.safe_dump({"tests": [{"interval": "1m", **test, "promql_expr_test": checks}]}))
    done = subprocess.run([require("promtool"), "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_committed_files_of_compose_are_these(tmp_path):
    """With the names that containers have for each other."""
    files = compose_files(Settings())
    folder = Path("deploy/compose/generated/grafana/provisioning")
    read = as_grafana_reads(files[folder / "datasources/farthing.yml"])["datasources"]
    for one in read:
        file = f"/run/farthing/secrets/{one['uid']}-password"
        assert (one["basicAuth"], one["basicAuthUser"]) == (True, "farthing")
        assert one["secureJsonData"] == {"basicAuthPassword": f"content of {file}"}
        assert set(one) <= SOURCE
    assert [one["url"] for one in read] == ["http://prometheus:9090", "http://alertmanager:9093", "http://jaeger:16686"]
    assert as_grafana_reads(files[folder / "dashboards/farthing.yml"])["providers"][0]["folderUid"] == "farthing"
    written = grafana_files(SOURCES, {"a.json": "{}"}, "/x")
    assert sorted(path.as_posix() for path in written) == [
        "dashboards/a.json",
        "provisioning/dashboards/farthing.yml",
        "provisioning/datasources/farthing.yml",
    ]
