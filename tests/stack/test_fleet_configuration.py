"""A fleet counts as something to watch: nothing is replayed beside it, and its secrets are found from any folder."""

from pathlib import Path

from tests.stack.test_configuration import PROGRAMS

from farthing.settings import Settings, load_settings
from farthing.stack.compose import compose_environment
from farthing.stack.compose_config import compose_files
from farthing.stack.configuration import write_configuration
from farthing.stack.effective import effective_settings
from farthing.stack.layout import StateLayout

FLEET = {"name": "eu", "url": "https://mimir.example/prometheus", "token_file": "secrets/mimir", "ca_file": "~/ca.pem"}


def settings_of():
    return Settings.model_validate({"fleet": [FLEET]})


def test_the_native_service_is_given_the_fleet_and_no_replay(tmp_path):
    """With absolute paths, since it runs in a folder of its own."""
    layout = StateLayout.at(tmp_path / "state")
    layout.create()
    effective = effective_settings(settings_of(), layout)
    write_configuration(effective, layout, PROGRAMS)
    read = load_settings(layout.settings)
    assert read.engines == ()
    assert read.fleet == effective.fleet
    assert (read.fleet[0].token_file, read.fleet[0].ca_file) == (
        Path("secrets/mimir").absolute(),
        Path("~/ca.pem").expanduser(),
    )


def test_containers_are_given_the_fleet_and_no_replay(tmp_path):
    """Its paths are those of the container, where the operator mounts them."""
    environment = compose_environment(settings_of(), StateLayout.at(tmp_path))
    assert "demo" not in environment["COMPOSE_PROFILES"]
    (text,) = [text for path, text in compose_files(settings_of()).items() if path.name == "farthing.yaml"]
    assert "secrets/mimir" in text
    assert "replay" not in text


def test_only_who_watches_nothing_gets_the_demo():
    """Whatever the way in which engines are named."""
    assert Settings().watches_nothing
    assert not settings_of().watches_nothing
    assert not Settings.model_validate({"discovery": {"files": ["engines.d/*.yaml"]}}).watches_nothing
