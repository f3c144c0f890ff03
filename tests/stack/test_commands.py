"""``farthing up`` and ``down`` as people run them, with nothing stood in for."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main
import yaml
from tests.stack.scenery import free_offset, require

from farthing.cli.main import app
from farthing.domain.conventions import JOB_ENGINES, JOB_FARTHING, METRIC_INTAKE, REC_RUNNING
from farthing.domain.errors import StackError
from farthing.settings import Settings
from farthing.stack.compose_config import COMPOSE_FILE
from farthing.stack.effective import effective_settings
from farthing.stack.layout import StateLayout
from farthing.stack.parts import native_parts
from farthing.stack.processes import find_processes
from farthing.stack.programs import Programs

ROOT = Path(__file__).parents[2]
READY_SECONDS = 60


def farthing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "farthing.cli.main", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def query(base: str, expression: str) -> dict[str, float]:
    """Value by instance of an instant query."""
    answer = httpx.get(f"{base}/api/v1/query", params={"query": expression}, trust_env=False).raise_for_status().json()
    return {sample["metric"].get("instance", ""): float(sample["value"][1]) for sample in answer["data"]["result"]}


def accepts(arguments: tuple[str, ...]) -> None:
    """Fail unless the command line parses these arguments; nothing is run."""
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while hasattr(command, "commands"):
        name = rest.pop(0)
        command = command.commands[name]
    command.make_context(command.name, rest).close()


def test_the_command_line_takes_what_the_native_stack_gives_it(tmp_path):
    """A renamed flag is noticed here, not at the next `farthing up`."""
    layout = StateLayout.at(tmp_path)
    programs = Programs(prometheus=("p",), alertmanager=("a",), farthing=())
    parts = native_parts(effective_settings(Settings(), layout), layout, programs, replaying=True)
    commands = [part.command for part in parts if part.name in {"farthing", "replay"}]
    assert [command[0] for command in commands] == ["serve", "replay"]
    for command in commands:
        accepts(command)


def test_the_command_line_takes_what_compose_gives_it():
    """Each service of the image, with its variables at their defaults."""
    services = yaml.safe_load((ROOT / COMPOSE_FILE).read_text())["services"]
    # the image's own entry point is farthing; what restore is given is up to the person
    ours = {
        name: [*service.get("entrypoint", ["farthing"])[1:], *service["command"]]
        for name, service in services.items()
        if "build" in service and not name.startswith("demo") and service["command"] != ["--help"]
    }
    assert ours.keys() >= {"secrets", "reveal", "backup", "farthing", "replay"}
    for command in ours.values():
        accepts(tuple(word.replace("${REPLAY_LEAD_SECONDS:-85}", "85") for word in command))


@pytest.mark.real
def test_up_shows_real_data_within_a_minute_and_down_ends_it(tmp_path):
    """From nothing but the command: records accepted with the generated token, both jobs up, rules evaluated."""
    for program in ("prometheus", "prometheus-alertmanager"):
        require(program, program.removeprefix("prometheus-"))
    state, offset = tmp_path / "state", free_offset(6000)
    config = tmp_path / "farthing.yaml"
    config.write_text(f"stack:\n  state_dir: {state}\n")
    started = time.monotonic()
    try:
        up = farthing("up", "--native", "--detach", "--port-offset", str(offset), "--config", config)
        assert up.returncode == 0, up.stderr
        ports = Settings()
        prometheus = f"http://127.0.0.1:{ports.stack.prometheus_port + offset}"
        page = f"http://127.0.0.1:{ports.serve.port + offset}/"
        while not query(prometheus, f'{METRIC_INTAKE}{{result="accepted"}} > 0') or not query(prometheus, REC_RUNNING):
            assert time.monotonic() - started < READY_SECONDS, "no real data within a minute"
            time.sleep(0.5)
        up_now = query(prometheus, f'up{{job=~"{JOB_ENGINES}|{JOB_FARTHING}"}}')
        assert up_now == {"replay": 1.0, "farthing": 1.0}
        assert httpx.get(page, trust_env=False).raise_for_status().headers["content-type"].startswith("text/html")
        again = farthing("up", "--native", "--detach", "--config", config)
        assert again.returncode == StackError.exit_code
        assert again.stderr.splitlines()[-1].startswith("farthing: a stack already runs from ")
    finally:
        down = farthing("down", "--config", config)
    assert down.returncode == 0, down.stderr
    assert find_processes(state) == ()
