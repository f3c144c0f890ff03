"""The Compose stack, as far as it can be checked without a Docker engine."""

import re
import stat
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.stack.scenery import paper, require

from farthing.domain.errors import ConfigError, StackError
from farthing.settings import Settings, parse_settings
from farthing.stack import compose, container, lifecycle
from farthing.stack.compose import compose_environment, down_compose
from farthing.stack.compose_config import COMPOSE_FILE, compose_configuration, compose_files
from farthing.stack.container import compose_command, docker_engine_answers, wait_for_containers
from farthing.stack.health import PartFailedError
from farthing.stack.layout import StateLayout

ROOT = Path(__file__).parents[2]
FOLDER = (ROOT / COMPOSE_FILE).parent
TEXT = (ROOT / COMPOSE_FILE).read_text()
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def resolved(text: str) -> str:
    """Text with every variable at its default."""
    return VARIABLE.sub(lambda match: match[2] or "", text)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_mounted_folder_is_in_the_repository(name):
    """And every named volume is declared."""
    volumes = yaml.safe_load(TEXT)["volumes"]
    for volume in SERVICES[name].get("volumes", ()):
        source = resolved(volume.split(":/")[0])
        if source.startswith("."):
            assert any((FOLDER / source).iterdir()), source
        else:
            assert source in volumes
    if "build" in SERVICES[name]:
        build = SERVICES[name]["build"]
        assert (FOLDER / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()


def test_env_names_every_variable_with_its_default_and_runs_the_demo():
    """Nobody has to read compose.yaml to move a port; with nothing configured there is something to see."""
    lines = (FOLDER / ".env").read_text().splitlines()
    documented = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert documented.pop("COMPOSE_PROFILES") == "demo"
    assert documented == {match[1]: match[2] or "" for match in VARIABLE.finditer(TEXT)}
    ignored = subprocess.run([require("git"), "check-ignore", "-q", FOLDER / ".env"], cwd=ROOT, check=False)
    assert ignored.returncode == 1, "git would leave it out"


def test_farthing_up_sets_only_variables_that_compose_yaml_has(tmp_path):
    """And all of those that follow from the settings."""
    used = {match[1] for match in VARIABLE.finditer(TEXT)}
    given = compose_environment(Settings(), StateLayout.at(tmp_path))
    assert set(given) - {"COMPOSE_PROFILES"} <= used
    assert {name for name in used if name.endswith("_PORT")} <= set(given)


def notifying(*files: str) -> Settings:
    """Settings that tell somebody over Slack for each of these files."""
    ways = [{"name": f"r{n}", "slack": {"api_url_file": file, "channel": "c"}} for n, file in enumerate(files)]
    return Settings.model_validate({"notify": {"receivers": ways}})


def test_the_folder_of_the_secrets_is_mounted_and_the_configuration_finds_them_there(tmp_path):
    """Their text is copied nowhere."""
    settings = notifying("/srv/secrets/slack", "/srv/secrets/other")
    assert compose_environment(settings, StateLayout.at(tmp_path))["FARTHING_COMPOSE_SECRETS"] == "/srv/secrets"
    text = compose_configuration(settings)[Path("alertmanager/alertmanager.yml")]
    assert "api_url_file: /etc/farthing/secrets/slack\n" in text
    assert "/srv" not in text
    assert any(volume.endswith(":/etc/farthing/secrets:ro") for volume in SERVICES["alertmanager"]["volumes"])


def test_secrets_in_two_folders_are_refused_by_name(tmp_path):
    """One folder is mounted."""
    with pytest.raises(ConfigError, match="/srv/a and /srv/b"):
        compose_environment(notifying("/srv/a/slack", "/srv/b/slack"), StateLayout.at(tmp_path))


def test_the_committed_configuration_is_current():
    """It is generated from the default settings."""
    for path, text in compose_files(Settings()).items():
        assert (ROOT / path).read_text() == text, path


@pytest.mark.real
def test_promtool_accepts_what_the_containers_mount(tmp_path):
    """With rules and targets at the places that compose.yaml gives them."""
    for path, text in compose_configuration(Settings()).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        here = text.replace("/etc/farthing/rules", str(tmp_path / "rules"))
        (tmp_path / path).write_text(here.replace("/run/farthing/secrets", str(tmp_path)))
    for secret in ("farthing-token", "alertmanager-password"):
        (tmp_path / secret).write_text("x\n")
    done = subprocess.run(
        [require("promtool"), "check", "config", tmp_path / "prometheus" / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("SUCCESS") > 1


def test_the_committed_rule_files_are_those_that_prometheus_is_told_to_load():
    """They are mounted from where the alerts room generates them."""
    config = yaml.safe_load((FOLDER / "generated" / "prometheus" / "prometheus.yml").read_text())
    named = {Path(name).name for name in config["rule_files"]}
    assert named == {path.name for path in (ROOT / "alerts" / "generated").glob("*.yml")}


def test_an_engine_on_this_machine_is_reached_through_the_hosts_name():
    """Loopback is the container itself; other addresses stay."""
    settings = Settings.model_validate(
        {
            "engines": [
                {"name": "near", "url": "http://127.0.0.1:8000/base", "gpu": "H100-SXM"},
                {"name": "far", "url": "https://10.1.2.3"},
            ]
        }
    )
    text = compose_configuration(settings)[Path("farthing/farthing.yaml")]
    engines = parse_settings(text, "farthing.yaml").engines
    assert [str(engine.url) for engine in engines] == ["http://host.docker.internal:8000/base", "https://10.1.2.3/"]
    assert engines[0].gpu == "H100-SXM"


def test_an_exporter_on_this_machine_is_reached_through_the_hosts_name():
    """By Farthing and by Prometheus alike."""
    settings = Settings.model_validate(
        {"gpus": {"exporters": [{"url": "http://localhost:9400/metrics", "kind": "dcgm"}]}}
    )
    written = compose_configuration(settings)
    inside = parse_settings(written[Path("farthing/farthing.yaml")], "farthing.yaml").gpus.exporters
    assert [str(one.url) for one in inside] == ["http://host.docker.internal:9400/metrics"]
    assert "host.docker.internal:9400" in written[Path("prometheus/prometheus.yml")]


def test_an_agent_on_this_machine_is_scraped_through_the_hosts_name():
    """Loopback is the container itself there; the settings inside read back."""
    written = compose_configuration(Settings.model_validate({"gpus": {"agents": ["127.0.0.1:9466", "gpu-1:9466"]}}))
    inside = parse_settings(written[Path("farthing/farthing.yaml")], "farthing.yaml").gpus.agents
    assert inside == ("host.docker.internal:9466", "gpu-1:9466")
    config = yaml.safe_load(written[Path("prometheus/prometheus.yml")])
    assert config["scrape_configs"][-1]["static_configs"] == [{"targets": list(inside)}]


def test_the_containers_can_read_what_is_written_for_them(tmp_path):
    """They run as users of their own; the state folder above stays closed."""
    layout = StateLayout.at(tmp_path / "state")
    layout.create()
    compose.write_mounted(layout, Settings())
    assert {stat.S_IMODE(path.stat().st_mode) for path in layout.compose.rglob("*.yml")} == {0o644}
    assert stat.S_IMODE((layout.compose / "rules").stat().st_mode) == 0o755
    assert stat.S_IMODE(layout.root.stat().st_mode) == 0o700


def test_nvidias_exporter_runs_where_the_settings_read_it(tmp_path):
    """Without one in the settings, Prometheus finds it by name wherever the profile is switched on by hand."""
    exporter = {"url": "http://dcgm-exporter:9400/metrics", "kind": "dcgm"}
    settings = Settings.model_validate({"gpus": {"exporters": [exporter]}})
    given = compose_environment(settings, StateLayout.at(tmp_path))
    assert given["COMPOSE_PROFILES"] == "demo,gpu"
    for asked, source in ((settings, "static_configs"), (Settings(), "dns_sd_configs")):
        config = yaml.safe_load(compose_configuration(asked)[Path("prometheus/prometheus.yml")])
        job = config["scrape_configs"][-1]
        assert job["job_name"] == "gpu-exporters"
        assert "dcgm-exporter" in str(job.pop(source))
        assert set(job) == {"job_name"}


def fake(folder: Path, name: str, script: str) -> None:
    """A program that the code under test finds on PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("echo 28.1.0", True),
        ("echo 'Cannot connect' >&2; exit 1", False),
        ("exit 0", False),
        ("exec sleep 30", False),
    ],
    ids=["answers", "refused", "silent", "hangs"],
)
def test_docker_is_used_only_where_its_engine_answers(tmp_path, monkeypatch, script, answer):
    """A client alone, as many machines have, is not enough."""
    fake(tmp_path, "docker", script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert docker_engine_answers(timeout_seconds=1) is answer


def test_without_a_docker_client_nothing_is_asked(tmp_path, monkeypatch):
    """An empty PATH has neither Docker nor Compose."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not docker_engine_answers()
    assert compose_command() is None


def test_the_plugin_is_preferred_to_the_old_command(tmp_path, monkeypatch):
    """Which is used where the plugin is missing."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fake(tmp_path, "docker-compose", "exit 0")
    fake(tmp_path, "docker", "exit 1")
    assert compose_command() == (str(tmp_path / "docker-compose"),)
    fake(tmp_path, "docker", "exit 0")
    assert compose_command() == (str(tmp_path / "docker"), "compose")


def engine(folder: Path, monkeypatch: pytest.MonkeyPatch, *states: str) -> None:
    """A client of Docker that has containers in these states, one inspection after the other."""
    told = folder / "states"
    told.write_text("\n".join(states) + "\n")
    script = f'[ "$1" = ps ] && echo c1 c2 && exit; head -1 {told} | tr " " "\\n"; sed -i 1d {told}'
    fake(folder, "docker", script)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(container, "POLL_SECONDS", 0.01)


def test_containers_are_awaited_until_each_is_healthy_or_has_done_its_work(tmp_path, monkeypatch):
    """What is still missing is named."""
    starting = "secrets|running|0| farthing|created|0|"
    engine(tmp_path, monkeypatch, starting, "secrets|exited|0| farthing|running|0|starting", "secrets|exited|0|")
    said: list[Sequence[str]] = []
    assert wait_for_containers("p", patience_seconds=10, stop=threading.Event(), waiting_for=said.append)
    assert said == [["farthing", "secrets"], ["farthing"], []]


def test_containers_that_do_not_become_well_are_named(tmp_path, monkeypatch):
    """One that ended with an error is not ready, whatever it was for; nor is an engine that says nothing."""
    engine(tmp_path, monkeypatch, "secrets|exited|1| farthing|running|0|unhealthy")
    with pytest.raises(PartFailedError, match="farthing, secrets"):
        wait_for_containers("p", patience_seconds=0, stop=threading.Event(), waiting_for=lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(PartFailedError, match="Docker's engine"):
        wait_for_containers("p", patience_seconds=0, stop=threading.Event(), waiting_for=lambda _: None)


@pytest.mark.parametrize(
    ("native", "engine", "started"),
    [(None, True, "compose"), (None, False, "native"), (True, True, "native"), (False, True, "compose")],
)
def test_up_uses_compose_where_an_engine_answers_unless_told_otherwise(monkeypatch, native, engine, started):
    """The native stack needs no Docker at all."""
    monkeypatch.setattr(lifecycle, "docker_engine_answers", lambda: engine)
    monkeypatch.setattr(lifecycle, "compose_command", lambda: ("docker", "compose"))
    statuses = {"native": 21, "compose": 22}
    monkeypatch.setattr(lifecycle, "up_native", lambda *_, **__: statuses["native"])
    monkeypatch.setattr(lifecycle, "up_compose", lambda *_, **__: statuses["compose"])
    console, _ = paper()
    status = lifecycle.up(Settings(), native=native, detach=True, port_offset=0, console=console)
    assert status == statuses[started]


def test_asking_for_compose_without_an_engine_is_an_error(monkeypatch):
    """That names the way out."""
    monkeypatch.setattr(lifecycle, "docker_engine_answers", lambda: False)
    console, _ = paper()
    with pytest.raises(StackError, match="--native"):
        lifecycle.up(Settings(), native=False, detach=True, port_offset=0, console=console)


def test_up_and_down_call_compose_with_one_project_and_the_demo_profile(tmp_path, monkeypatch):
    """Down knows the project from the state folder, whatever the offset was."""
    log = tmp_path / "calls"
    fake(tmp_path, "docker", f'echo "$COMPOSE_PROFILES $PROMETHEUS_PORT $*" >> {log}')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(compose, "wait_for_containers", lambda *_, **__: True)
    settings = Settings.model_validate({"stack": {"state_dir": tmp_path / "state"}})
    console, text = paper()
    assert compose.up_compose(settings, detach=True, port_offset=100, console=console) == 0
    assert "http://127.0.0.1:9190" in text.getvalue()
    assert down_compose(settings, console=console)
    assert not down_compose(settings, console=console)
    calls = [line for line in log.read_text().splitlines() if "--project-name" in line]
    file = ROOT / COMPOSE_FILE
    assert calls == [
        f"demo 9190 compose --project-name farthing-100 --file {file} up --detach --build --remove-orphans",
        f"demo 9190 compose --project-name farthing-100 --file {file} run --rm --no-deps -T reveal",
        f"demo 9090 compose --project-name farthing-100 --file {file} down --remove-orphans",
    ]


@pytest.mark.real
def test_compose_itself_accepts_the_file():
    """No engine is needed for that."""
    command = container.compose_command()
    if command is None:
        command = (require("docker-compose"),)
    done = subprocess.run([*command, "--file", ROOT / COMPOSE_FILE, "config", "-q"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
