"""The stack in containers discovers engines in a folder that is mounted, and where the settings say."""

from pathlib import Path

import pytest
import yaml

from farthing.domain.errors import ConfigError
from farthing.settings import Settings, parse_settings
from farthing.stack.compose import compose_environment
from farthing.stack.compose_config import compose_configuration
from farthing.stack.effective import effective_settings
from farthing.stack.layout import StateLayout

MOUNTED = "/run/farthing/engines.d"


def configured(**discovery):
    """The discovery of the containers' farthing.yaml, and the job of engines of their prometheus.yml."""
    files = compose_configuration(Settings.model_validate({"discovery": discovery}))
    inside = parse_settings(files[Path("farthing/farthing.yaml")], "farthing.yaml")
    jobs = yaml.safe_load(files[Path("prometheus/prometheus.yml")])["scrape_configs"]
    return inside, jobs[0]


def test_without_settings_a_line_in_the_mounted_folder_is_an_engine():
    """For both of them, and beside the replay."""
    inside, job = configured()
    assert [str(path) for path in inside.discovery.files] == [f"{MOUNTED}/*.yaml", f"{MOUNTED}/*.json"]
    assert job["file_sd_configs"][0]["files"][1:] == [f"{MOUNTED}/*.yaml", f"{MOUNTED}/*.json"]
    assert [engine.name for engine in inside.engines] == ["replay"]


def test_both_services_mount_the_folder_of_the_files_for_reading(tmp_path):
    """And where engines are discovered nothing is replayed."""
    services = yaml.safe_load((Path(__file__).parents[2] / "deploy/compose/compose.yaml").read_text())["services"]
    for name in ("prometheus", "farthing"):
        assert f"${{FARTHING_COMPOSE_ENGINES:-./engines.d}}:{MOUNTED}:ro" in services[name]["volumes"]
    settings = Settings.model_validate({"discovery": {"files": [f"{tmp_path}/mine/*.yml", f"{tmp_path}/mine/a.json"]}})
    environment = compose_environment(settings, StateLayout.at(tmp_path))
    assert environment["FARTHING_COMPOSE_ENGINES"] == f"{tmp_path}/mine"
    assert environment["COMPOSE_PROFILES"] == ""
    inside, job = configured(files=[f"{tmp_path}/mine/*.yml", f"{tmp_path}/mine/a.json"])
    assert [str(path) for path in inside.discovery.files] == [f"{MOUNTED}/*.yml", f"{MOUNTED}/a.json"]
    assert job["file_sd_configs"][0]["files"][1:] == [f"{MOUNTED}/*.yml", f"{MOUNTED}/a.json"]
    assert inside.engines == ()


def test_files_in_two_folders_are_refused_by_name(tmp_path):
    """One folder is mounted."""
    settings = Settings.model_validate({"discovery": {"files": ["/srv/a/*.yaml", "/srv/b/*.yaml"]}})
    with pytest.raises(ConfigError, match=r"discovery\.files lie in /srv/a and /srv/b"):
        compose_environment(settings, StateLayout.at(tmp_path))


def test_docker_is_reached_through_a_proxy_and_never_by_its_socket():
    """Who reaches the socket is root on the machine; a proxy on this machine has the host's name inside."""
    with pytest.raises(ConfigError, match=r"do not reach unix:///var/run/docker\.sock"):
        configured(docker=[{}])
    inside, job = configured(docker=[{"host": "tcp://127.0.0.1:2375"}, {"host": "tcp://proxy:2375"}])
    hosts = ["tcp://host.docker.internal:2375", "tcp://proxy:2375"]
    assert [one.host for one in inside.discovery.docker] == hosts
    assert [one["host"] for one in job["docker_sd_configs"]] == hosts


def test_a_native_stack_finds_its_files_from_any_folder(tmp_path, monkeypatch):
    """Paths are relative to where `farthing up` was called, and nothing is replayed."""
    monkeypatch.chdir(tmp_path)
    settings = Settings.model_validate({"discovery": {"files": ["engines.d/*.yaml"]}})
    effective = effective_settings(settings, StateLayout.at(tmp_path / "state"))
    assert effective.discovery.files == (tmp_path / "engines.d/*.yaml",)
    assert effective.engines == ()
