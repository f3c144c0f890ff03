"""What is deployed on GPU hosts is a command that exists, and what its page says of it."""

import shlex

import pytest
import yaml
from tests.docs.pages import ROOT, blocks, rows, sections
from typer.core import TyperGroup
from typer.main import get_command

from farthing.cli.gpu_commands import AGENT_PORT
from farthing.cli.main import app
from farthing.domain.conventions import FAULTS
from farthing.domain.gpu import ENERGY_METHODS
from farthing.settings import TOKEN_VARIABLE, parse_settings
from farthing.settings_gpu import HOST_VARIABLE

PAGE = (ROOT / "docs" / "gpu-agent.md").read_text()
UNIT = ROOT / "deploy" / "systemd" / "farthing-gpu-agent.service"
MANIFEST = ROOT / "deploy" / "kubernetes" / "gpu-agent.yaml"


def unit_command():
    (line,) = (line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.partition("=")[2])[1:]


def container():
    (only,) = yaml.safe_load(MANIFEST.read_text())["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("words", [unit_command(), container()["args"]], ids=["systemd", "kubernetes"])
def test_what_is_deployed_is_a_command_with_options_that_it_has(words):
    """Parsed as the command line would be, without running it."""
    name, *arguments = words
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    command = group.commands[name]
    given = command.make_context(name, list(arguments)).params
    assert given["agent"]
    assert given["url"].startswith("http://")
    assert given["port"] == AGENT_PORT


def test_the_daemon_set_is_probed_and_scraped_where_it_listens():
    """On a port that Prometheus reaches."""
    spec = yaml.safe_load(MANIFEST.read_text())["spec"]["template"]
    assert spec["metadata"]["annotations"]["prometheus.io/port"] == str(AGENT_PORT)
    assert [port["containerPort"] for port in container()["ports"]] == [AGENT_PORT]
    assert {one["name"] for one in container()["env"]} >= {HOST_VARIABLE, TOKEN_VARIABLE}
    assert "nvidia.com/gpu" not in str(container()["resources"])


def test_the_page_tells_prometheus_where_agents_are():
    """By a setting that is one, on the port where they listen."""
    (block,) = (block for block in blocks(PAGE) if "agents:" in block.body)
    assert parse_settings(block.body, "farthing.yaml").gpus.agents == (f"gpu-1:{AGENT_PORT}", f"gpu-2:{AGENT_PORT}")


def test_the_page_explains_every_method_and_every_fault():
    """A new one needs its sentence."""
    found = sections(PAGE)
    assert [row[0].strip("`") for row in rows(found["Energy"])[1:]] == list(ENERGY_METHODS)
    assert {row[0].strip("`") for row in rows(found["What is not believed"])[1:]} == set(FAULTS)
    assert f":{AGENT_PORT}/metrics" in found["Run the agent"]
