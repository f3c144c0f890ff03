"""The native stack with the real Prometheus, Alertmanager and supervisord, and stand-ins for Farthing itself."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from tests.stack.scenery import free_offset, paper, shifted, stand_in_programs

from farthing.domain.errors import PortBusyError, StackError
from farthing.settings import Settings
from farthing.stack.health import PartFailedError
from farthing.stack.native import down_native, native_status, up_native
from farthing.stack.processes import find_processes

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]


def start(settings: Settings, **options: Any) -> str:
    """Start a detached stack of stand-ins; returns what it printed."""
    console, text = paper()
    assert (
        up_native(settings, detach=True, port_offset=0, console=console, programs=stand_in_programs(), **options) == 0
    )
    return text.getvalue()


def stop(settings: Settings) -> str:
    """Stop the stack; returns what was printed."""
    console, text = paper()
    assert down_native(settings, console=console) == 0
    return text.getvalue()


def eventually(question: Callable[[], bool], seconds: float = 20) -> None:
    """Fail unless the answer becomes yes in time."""
    until = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.1)


def supervisor(settings: Settings) -> int:
    """Process id of the supervisord of a running stack."""
    pid = native_status(settings).supervisor_pid
    assert pid is not None
    return pid


def read_until(output: IO[str], words: str) -> None:
    """Read on until a line has the words in it."""
    for line in output:
        if words in line:
            return
    raise AssertionError(f"the output ended without {words!r}")


@contextlib.contextmanager
def foreground(
    state: Path, offset: int, seconds: float = 60, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """A stack that runs until it is told to stop, in a process of its own; and what it says, and its errors."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.stack.run_stack", str(state), str(offset), str(seconds)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process, process.stdout, process.stderr
        finally:
            if process.poll() is None:
                process.kill()
            stop(shifted(state, offset))


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a stack that is gone after the test, whatever happened."""
    chosen = shifted(tmp_path / "state", free_offset(2000))
    yield chosen
    stop(chosen)


def get(url: str) -> Any:
    """The JSON behind a URL."""
    return httpx.get(url, trust_env=False).raise_for_status().json()


def test_a_started_stack_scrapes_the_replay_and_farthing_and_reaches_alertmanager(settings):
    """One detached up; Prometheus itself says whom it scrapes and whom it would tell."""
    said = start(settings)
    prometheus = f"http://127.0.0.1:{settings.stack.prometheus_port}"

    def healthy() -> bool:
        targets = get(f"{prometheus}/api/v1/targets")["data"]["activeTargets"]
        return {(t["labels"]["job"], t["labels"]["instance"], t["health"]) for t in targets} == {
            ("llm-engines", "replay", "up"),
            ("farthing", "farthing", "up"),
        }

    eventually(healthy)
    managers = get(f"{prometheus}/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    assert [m["url"] for m in managers] == [f"http://127.0.0.1:{settings.stack.alertmanager_port}/api/v2/alerts"]
    rules = get(f"{prometheus}/api/v1/rules")["data"]["groups"]
    assert {rule["type"] for group in rules for rule in group["rules"]} == {"recording", "alerting"}
    assert f"Prometheus    {prometheus}" in said
    assert "Grafana       not installed" in said
    assert "stop it with: farthing down" in said


def test_down_leaves_no_process_and_may_be_repeated(settings):
    """The second down says that nothing runs."""
    start(settings)
    state = settings.stack.state_dir
    assert len(find_processes(state)) == 5
    assert "stopped" in stop(settings)
    assert find_processes(state) == ()
    assert not (state / "supervisor.sock").exists()
    assert "no stack runs" in stop(settings)


def test_status_tells_each_part_and_its_page(settings):
    """Before, during and after."""
    assert native_status(settings).supervisor_pid is None
    start(settings)
    running = dict.fromkeys(("alertmanager", "prometheus", "farthing", "replay"), "RUNNING")
    eventually(lambda: {part.name: part.state for part in native_status(settings).parts} == running)
    assert supervisor(settings) > 0
    assert {part.page for part in native_status(settings).parts} >= {f"http://127.0.0.1:{settings.serve.port}/"}
    stop(settings)
    assert native_status(settings).parts == ()


def test_a_second_up_from_the_same_folder_is_refused(settings):
    """Naming the folder and how to stop what runs there."""
    start(settings)
    with pytest.raises(StackError, match=r"already runs from .*farthing down"):
        start(settings)
    assert native_status(settings).supervisor_pid is not None


def test_two_stacks_run_side_by_side(settings, tmp_path):
    """With folders and ports of their own."""
    start(settings)
    other = shifted(tmp_path / "other", free_offset(8000))
    try:
        start(other)
        for one in (settings, other):
            assert httpx.get(f"http://127.0.0.1:{one.serve.port}/readyz", trust_env=False).is_success
        stop(settings)
        assert httpx.get(f"http://127.0.0.1:{other.serve.port}/readyz", trust_env=False).is_success
    finally:
        stop(other)


def test_a_busy_port_is_told_before_anything_starts(settings):
    """With the part that needs it and the setting that moves it."""
    with socket.create_server(("127.0.0.1", settings.stack.alertmanager_port)):
        with pytest.raises(PortBusyError, match=rf"{settings.stack.alertmanager_port}.*stack\.alertmanager_port"):
            start(settings)
        assert find_processes(settings.stack.state_dir) == ()


def test_up_works_again_after_supervisord_was_killed(settings):
    """The orphans hold every port, and the pid file and the socket are stale."""
    start(settings)
    orphaned = native_status(settings)
    os.kill(supervisor(settings), signal.SIGKILL)
    eventually(lambda: native_status(settings).supervisor_pid is None)
    assert set(native_status(settings).strays) == {part.pid for part in orphaned.parts}
    said = start(settings)
    assert "lost its supervisor" in said
    assert supervisor(settings) != orphaned.supervisor_pid


def test_a_part_that_dies_is_started_again(settings):
    """Supervised, not merely launched."""
    start(settings)

    def prometheus() -> int:
        return next(part.pid for part in native_status(settings).parts if part.name == "prometheus")

    earlier = prometheus()
    os.kill(earlier, signal.SIGKILL)
    eventually(lambda: prometheus() not in (0, earlier))


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_foreground_stack_cleanly(tmp_path, kind):
    """With status 0, nothing left, and Prometheus' data closed properly."""
    state = tmp_path / "state"
    with foreground(state, free_offset(4000)) as (process, output, _):
        read_until(output, "Ctrl-C")
        process.send_signal(kind)
        assert process.wait(60) == 0
        assert "stopped" in output.read()
    assert find_processes(state) == ()
    assert "See you next time!" in (state / "logs" / "prometheus.log").read_text()


def test_a_signal_while_starting_stops_what_has_started(tmp_path):
    """Before the table was shown."""
    state = tmp_path / "state"
    with foreground(state, free_offset(4000), STAND_IN_FAILS="replay") as (process, output, _):
        assert "waiting for" in output.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert find_processes(state) == ()


def test_a_part_that_never_gets_ready_is_named_with_the_end_of_its_log(tmp_path):
    """And everything else is stopped again."""
    state = tmp_path / "state"
    with foreground(state, free_offset(4000), seconds=4, STAND_IN_FAILS="replay") as (process, _, _):
        output, errors = process.communicate(timeout=60)
    assert process.returncode == StackError.exit_code
    assert "the stand-in was told to fail" in output
    assert errors.startswith("not ready after 4 s: replay (")
    assert errors.count("\n") == 1
    assert find_processes(state) == ()


def test_a_killed_supervisord_ends_the_foreground_stack_with_an_error(tmp_path):
    """Its orphans are stopped too."""
    state = tmp_path / "state"
    offset = free_offset(4000)
    with foreground(state, offset) as (process, output, errors):
        read_until(output, "Ctrl-C")
        os.kill(supervisor(shifted(state, offset)), signal.SIGKILL)
        assert process.wait(60) == StackError.exit_code
        assert "supervisord ended unexpectedly" in errors.read()
    assert find_processes(state) == ()


def test_a_configuration_that_supervisord_refuses_shows_its_words(settings, monkeypatch):
    """What it says before its log is open is not lost."""
    monkeypatch.setattr("farthing.stack.native.render_supervisor", lambda *_: "[supervisord]\nnodaemon=perhaps\n")
    with pytest.raises(PartFailedError, match="supervisord ended") as caught:
        start(settings)
    assert caught.value.log is not None
    assert "perhaps" in caught.value.log.read_text()
