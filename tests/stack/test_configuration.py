"""What is written for each part is what that part accepts, and says what the settings say."""

import json
import os
import stat
import subprocess
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from supervisor.options import ServerOptions
from tests.stack.scenery import require

from farthing.domain import conventions as names
from farthing.domain.errors import ConfigError
from farthing.settings import EngineSettings, Settings, TracesSettings, load_settings
from farthing.stack.configuration import write_configuration, write_targets
from farthing.stack.effective import effective_settings, shift_ports
from farthing.stack.grafana import GrafanaSources, render_sources
from farthing.stack.jaeger import JaegerPorts, JaegerSite, render_jaeger
from farthing.stack.layout import StateLayout
from farthing.stack.parts import native_parts
from farthing.stack.programs import Programs
from farthing.stack.scrape import render_targets
from farthing.stack.supervision import render_supervisor

PROGRAMS = Programs(
    prometheus=("/p/prometheus",),
    alertmanager=("/p/alertmanager",),
    grafana=("/p/grafana", "server"),
    jaeger=("/p/jaeger",),
    farthing=("/p/python", "-m", "farthing.cli.main"),
)
ENGINES = {
    "engines": [
        {"name": "chat", "url": "http://10.0.0.5:8000", "gpu": "H100-SXM"},
        {"name": "docs", "url": "https://gpu.example/v1?tenant=a", "metrics_path": "/metrics"},
    ]
}


@pytest.fixture
def layout(tmp_path: Path) -> StateLayout:
    """A state folder that exists."""
    created = StateLayout.at(tmp_path / "state")
    created.create()
    return created


def written(layout: StateLayout, **data: object) -> Settings:
    """The effective settings of ``data`` after the configuration was written."""
    settings = effective_settings(Settings.model_validate(data), layout)
    write_configuration(settings, layout, PROGRAMS)
    return settings


@pytest.mark.real
@pytest.mark.parametrize("data", [{}, ENGINES], ids=["replay", "engines"])
def test_promtool_accepts_the_configuration_with_its_rules(layout, data):
    """Targets and rule files are found where the configuration says."""
    written(layout, **data)
    done = subprocess.run(
        [require("promtool"), "check", "config", layout.prometheus / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "SUCCESS: " in done.stdout
    assert "FAILED" not in done.stdout + done.stderr


@pytest.mark.real
@pytest.mark.parametrize("webhook", [None, "https://hooks.example/farthing"])
def test_amtool_accepts_the_configuration(layout, webhook):
    """With and without somebody to notify."""
    written(layout, alerts={"webhook_url": webhook})
    done = subprocess.run(
        [require("amtool"), "check-config", layout.alertmanager / "alertmanager.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_engine_is_a_target_under_its_own_name():
    """Scheme, path and query come from its URL; credentials in it do not leak into labels."""
    engines = [
        EngineSettings.model_validate({"name": "a", "url": "http://10.0.0.5:8000"}),
        EngineSettings.model_validate({"name": "b", "url": "https://u:p@gpu.example/base", "metrics_path": "/m?x=1"}),
    ]
    assert json.loads(render_targets(engines)) == [
        {
            "targets": ["10.0.0.5:8000"],
            "labels": {"instance": "a", "__scheme__": "http", "__metrics_path__": "/metrics"},
        },
        {
            "targets": ["gpu.example"],
            "labels": {
                "instance": "b",
                "__scheme__": "https",
                "__metrics_path__": "/base/m",
                "__param_x": "1",
            },
        },
    ]


def test_exporters_of_gpu_metrics_are_scraped_under_a_job_of_their_own(layout):
    """Their address stays the instance: it names the host where an exporter's labels do not. Without any, no job."""
    exporters = [{"url": "http://10.0.0.5:9400/metrics", "kind": "dcgm"}, {"url": "https://gpu-2/m?x=1", "kind": "amd"}]
    written(layout, gpus={"exporters": exporters})
    config = yaml.safe_load((layout.prometheus / "prometheus.yml").read_text())
    (job,) = [one for one in config["scrape_configs"] if one["job_name"] == names.JOB_GPUS]
    first, second = job["static_configs"]
    assert first == {
        "targets": ["10.0.0.5:9400"],
        "labels": {"__scheme__": "http", "__metrics_path__": "/metrics"},
    }
    assert second["targets"] == ["gpu-2"]
    assert second["labels"] == {"__scheme__": "https", "__metrics_path__": "/m", "__param_x": "1"}
    written(layout)
    assert names.JOB_GPUS not in (layout.prometheus / "prometheus.yml").read_text()


def test_agents_are_scraped_beside_exporters(layout):
    """Under one job, so that one that does not answer is told; a fleet's series come from nowhere else."""
    exporters = [{"url": "http://10.0.0.5:9400/metrics", "kind": "dcgm"}]
    written(layout, gpus={"exporters": exporters, "agents": ["gpu-1:9466", "[fd00::2]:9466"]})
    config = yaml.safe_load((layout.prometheus / "prometheus.yml").read_text())
    (job,) = [one for one in config["scrape_configs"] if one["job_name"] == names.JOB_GPUS]
    assert job["static_configs"][1:] == [{"targets": ["gpu-1:9466", "[fd00::2]:9466"]}]
    written(layout, gpus={"agents": ["gpu-1:9466"]})
    config = yaml.safe_load((layout.prometheus / "prometheus.yml").read_text())
    (job,) = [one for one in config["scrape_configs"] if one["job_name"] == names.JOB_GPUS]
    assert job["static_configs"] == [{"targets": ["gpu-1:9466"]}]


def test_engines_can_be_added_to_what_a_running_prometheus_watches(layout):
    """Without touching its configuration."""
    written(layout)
    config = (layout.prometheus / "prometheus.yml").read_text()
    more = Settings.model_validate(ENGINES)
    write_targets(more, layout)
    targets = json.loads((layout.prometheus / "targets" / "engines.json").read_text())
    assert [target["labels"]["instance"] for target in targets] == ["chat", "docs"]
    assert (layout.prometheus / "prometheus.yml").read_text() == config


def test_the_effective_settings_survive_the_file(layout):
    """What the processes load is what was meant, prices and dates included."""
    settings = written(
        layout,
        prices=[{"gpu": "H100-SXM", "usd_per_hour": "2.990000001", "from": "2026-01-31"}],
        alerts={"webhook_url": "https://hooks.example/x"},
        traces={"endpoint": "https://otlp.example/v1/traces", "sampling": {"costly_usd": "0.25"}},
        **ENGINES,
    )
    assert load_settings(layout.settings) == settings


def test_without_engines_the_replay_is_one(layout):
    """On the port where it is going to listen."""
    (engine,) = written(layout, stack={"replay_port": 9999}).engines
    assert (engine.name, str(engine.url), engine.gpu) == ("replay", "http://127.0.0.1:9999/", "H100-SXM")
    assert engine.probe, "its records bring the cost; scraping must not bring it again"


def test_with_engines_nothing_is_replayed(layout):
    """Their own data is enough."""
    settings = written(layout, **ENGINES)
    parts = native_parts(settings, layout, PROGRAMS, replaying=False)
    assert [part.name for part in parts] == ["alertmanager", "jaeger", "prometheus", "farthing", "grafana"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "sqlite:///{cwd}/.farthing/ledger.db"),
        ("sqlite:///books/l.db", "sqlite:///{cwd}/books/l.db"),
        ("sqlite:////var/l.db", "sqlite:////var/l.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql+psycopg://books.example/f", "postgresql+psycopg://books.example/f"),
    ],
)
def test_the_ledger_is_the_same_from_every_folder(layout, given, expected):
    """Its path is absolute."""
    data = {} if given is None else {"ledger": given}
    settings = effective_settings(Settings.model_validate(data), layout)
    assert settings.ledger == expected.format(cwd=Path.cwd())


def test_a_state_folder_of_its_own_brings_a_ledger_of_its_own(tmp_path):
    """Every command finds it there, not only those of the stack; a ledger that is named stays."""
    stack = {"state_dir": str(tmp_path / "two")}
    assert Settings.model_validate({"stack": stack}).ledger == f"sqlite:///{tmp_path}/two/ledger.db"
    assert Settings.model_validate({"stack": {"state_dir": "two"}}).ledger == "sqlite:///two/ledger.db"
    assert Settings.model_validate({"stack": stack, "ledger": "sqlite:///l.db"}).ledger == "sqlite:///l.db"
    assert Settings.model_validate({"stack": {}}).ledger == Settings().ledger


def test_an_offset_moves_every_port():
    """Those of the stack and that of Farthing."""
    settings = shift_ports(Settings(), 100)
    for name in type(settings.stack).model_fields:
        if name.endswith("_port"):
            assert getattr(settings.stack, name) == getattr(Settings().stack, name) + 100
    assert settings.serve.port == Settings().serve.port + 100


@pytest.mark.parametrize("offset", [60_000, -5_000])
def test_an_offset_out_of_range_is_told_with_the_setting(offset):
    """Before anything is written."""
    with pytest.raises(ConfigError, match=r"--port-offset .*_port would be"):
        shift_ports(Settings(), offset)


def test_secrets_are_generated_once_and_readable_by_their_owner_only(layout):
    """As are the settings, whose URLs may carry passwords."""
    written(layout)
    token = layout.intake_token.read_text()
    assert len(token.strip()) >= 32
    written(layout)
    assert layout.intake_token.read_text() == token
    for path in (layout.intake_token, layout.grafana_password, layout.settings):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.root.stat().st_mode) == 0o700


def test_a_configured_token_file_is_used(layout, tmp_path):
    """None is generated then."""
    settings = written(layout, serve={"token_file": str(tmp_path / "mine")})
    assert settings.serve.token_file == tmp_path / "mine"
    assert not layout.intake_token.exists()


def test_a_rule_file_that_is_no_longer_generated_goes(layout):
    """A renamed group must not be evaluated twice."""
    written(layout)
    stale = layout.prometheus / "rules" / "stale.yml"
    stale.write_text("groups: []\n")
    written(layout)
    assert not stale.exists()


def test_grafana_leads_from_an_exemplar_to_its_trace_only_where_a_jaeger_runs():
    """A link to a missing data source would be an error on every panel."""

    def sources(jaeger: str) -> dict[str, dict[str, Any]]:
        text = render_sources(GrafanaSources("http://p", "http://a", jaeger, 2))
        return {entry["type"]: entry for entry in yaml.safe_load(text)["datasources"]}

    linked = sources("http://j")
    (destination,) = linked["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert (destination["name"], destination["datasourceUid"]) == ("trace_id", linked["jaeger"]["uid"])
    assert linked["prometheus"]["jsonData"]["timeInterval"] == "2s"
    assert "exemplarTraceIdDestinations" not in str(sources(""))
    assert set(sources("")) == {"prometheus", "alertmanager"}


def test_grafana_finds_its_dashboards_where_they_are_written(layout):
    """The provider's path holds the generated files."""
    written(layout)
    provider = yaml.safe_load((layout.grafana / "provisioning" / "dashboards" / "farthing.yml").read_text())
    folder = Path(provider["providers"][0]["options"]["path"])
    assert [json.loads(path.read_text())["uid"] for path in folder.glob("*.json")]
    ini = ConfigParser(interpolation=None)
    ini.read(layout.grafana / "grafana.ini")
    assert (
        json.loads(Path(ini["dashboards"]["default_home_dashboard_path"]).read_text())["uid"] == names.DASHBOARD_FLEET
    )


def test_jaeger_listens_where_it_is_told_and_nowhere_else():
    """Its defaults would clash between two stacks."""
    text = render_jaeger(JaegerPorts(1, 2, 3, 4, 5, 6), JaegerSite("127.0.0.1", "/d"), Settings())
    assert sorted(line.split(": ", 1)[1] for line in text.splitlines() if "endpoint:" in line) == [
        f"127.0.0.1:{port}" for port in (1, 2, 3, 4, 5, 6)
    ]


def test_what_jaeger_counts_of_spans_is_scraped_where_one_runs(layout):
    """A target that is not there would be down for ever."""
    settings = effective_settings(Settings(), layout)
    for programs, expected in ((PROGRAMS, [{"targets": ["127.0.0.1:8889"]}]), (replace(PROGRAMS, jaeger=()), None)):
        write_configuration(settings, layout, programs)
        config = yaml.safe_load((layout.prometheus / "prometheus.yml").read_text())
        jobs = {job["job_name"]: job.get("static_configs") for job in config["scrape_configs"]}
        assert jobs.get(names.JOB_SPANS) == expected


def test_the_service_of_a_native_stack_hands_spans_to_its_jaeger_unless_told_otherwise(layout, monkeypatch, tmp_path):
    """Where none runs, nobody would take them; files are found from any folder."""
    monkeypatch.chdir(tmp_path)

    def traces(programs: Programs, **given: object) -> TracesSettings:
        settings = effective_settings(Settings.model_validate({"traces": given}), layout)
        write_configuration(settings, layout, programs)
        return load_settings(layout.settings).traces

    assert traces(PROGRAMS).url == "http://127.0.0.1:4318/v1/traces"
    assert traces(replace(PROGRAMS, jaeger=())).url is None
    other = traces(PROGRAMS, endpoint="https://otlp.example", headers_file="headers")
    assert (other.url, other.headers_file) == ("https://otlp.example/v1/traces", tmp_path / "headers")


def test_jaeger_of_a_native_stack_keeps_traces_in_the_state_folder(layout):
    """And reads its counts from the Prometheus beside it."""
    written(layout)
    storage = yaml.safe_load((layout.jaeger / "jaeger.yaml").read_text())["extensions"]["jaeger_storage"]
    badger = storage["backends"]["traces"]["badger"]
    assert badger["directories"]["keys"] == str(layout.data / "jaeger/keys")
    assert (layout.data / "jaeger").is_dir()
    assert storage["metric_backends"]["span_metrics"]["prometheus"]["endpoint"] == "http://127.0.0.1:9090"


def test_everything_binds_to_loopback(layout):
    """No command line leaves an address to a default."""
    settings = written(layout)
    for part in native_parts(settings, layout, PROGRAMS, replaying=True):
        assert {port.host for port in part.ports} == {"127.0.0.1"}
        assert part.ready_url.startswith("http://127.0.0.1:")


def test_supervisord_reads_back_the_commands(layout, tmp_path):
    """Through its own parser: percent signs and spaces survive its expansion and its shell rules."""
    programs = Programs(prometheus=("/opt/100%/prom etheus",), alertmanager=("/p/am",), farthing=("/p/py%(x)s",))
    settings = written(layout)
    parts = native_parts(settings, layout, programs, replaying=True)
    layout.write(layout.supervisor_config, render_supervisor(layout, parts, tmp_path))
    options = ServerOptions()
    options.realize(["-c", str(layout.supervisor_config)])
    groups = sorted(options.process_group_configs)
    assert [group.name for group in groups] == ["alertmanager", "prometheus", "farthing", "replay"]
    commands = [group.process_configs[0].command for group in groups]
    assert commands[1].startswith("'/opt/100%/prom etheus' --config.file=")
    assert commands[2].startswith("'/p/py%(x)s' serve --config ")
    assert "--lead 85 --loop --to http://127.0.0.1:9464 --engine-name replay" in commands[3]


@pytest.mark.parametrize("name", ["a #b", "a ;b", 'a"b', "x" * 120])
def test_a_state_folder_that_cannot_work_is_refused(tmp_path, name):
    """Supervisor would read a comment, or the kernel refuse the socket."""
    with pytest.raises(ConfigError, match=r"stack\.state_dir"):
        StateLayout.at(tmp_path / name)


def test_a_state_folder_that_cannot_be_created_is_told(tmp_path):
    """By the name of its setting."""
    blocker = tmp_path / "file"
    blocker.touch()
    with pytest.raises(ConfigError, match=r"stack\.state_dir"):
        StateLayout.at(blocker / "state").create()


def test_writing_leaves_no_draft_behind(layout):
    """Files are replaced at once."""
    written(layout)
    assert list(layout.root.rglob(f"*.{os.getpid()}")) == []
