"""Starts and stops the servers of these benchmarks: vLLM as it comes, or with the probe."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

__all__ = ["WITH_PROBE", "Server", "probe_environment", "running_server", "send_load", "server_options", "unpack_probe"]

WITH_PROBE = ("--middleware", "farthing_probe.RequestMeter", "--enable-logging-iteration-details")
STOPS_WITHIN_SECONDS = 30
TAIL = 3000
LOAD = Path(__file__).with_name("load.py")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers at ``url``."""

    name: str
    url: str
    pid: int

    def get(self, path: str) -> str:
        """What the server answers."""
        with urlopen(f"{self.url}{path}", timeout=10) as response:
            text: str = response.read().decode()
        return text

    def post(self, path: str) -> None:
        """Send an empty POST; raises when it is refused."""
        with urlopen(Request(f"{self.url}{path}", b"", method="POST"), timeout=120):
            pass


def server_options(parser: argparse.ArgumentParser) -> None:
    """What both benchmarks want to know about servers."""
    parser.add_argument("--model", type=Path, required=True, help="folder of the model (make_model.py makes one)")
    parser.add_argument("--probe", type=Path, required=True, help="the probe's wheel")
    parser.add_argument("--port", type=int, default=8100, help="first of four free ports (8100)")
    parser.add_argument("--scale", type=float, default=1.0, help="shortens prompts and outputs (1)")
    parser.add_argument("--healthy-within", type=float, default=600, help="seconds that a server may take (600)")
    parser.add_argument("flags", nargs="*", help="after --: flags of vLLM, which win over those that are set here")


def unpack_probe(wheel: Path, folder: Path) -> Path:
    """The folder that PYTHONPATH has to name for the probe.

    It must not be installed in the environment itself: vLLM would load it into the server without it, too.
    """
    if importlib.util.find_spec("farthing_probe") is not None:
        raise SystemExit("farthing-probe is installed in this environment; uninstall it, --probe brings it")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def probe_environment(site: Path, intake_port: int, spool: Path) -> dict[str, str]:
    """The environment of a server with the probe, which delivers to this machine."""
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "FARTHING_PROBE_URL": f"http://127.0.0.1:{intake_port}",
        "FARTHING_PROBE_ENGINE": "engine",
        "FARTHING_PROBE_SPOOL": str(spool),
    }


@contextmanager
def running_server(
    name: str, options: argparse.Namespace, *, port: int, log: Path, flags: Sequence[str], environment: dict[str, str]
) -> Iterator[Server]:
    """A server that is healthy inside the block, and gone after it."""
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(options.model), "--served-model-name", "m"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *flags,
        *options.flags,
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", **environment}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        server = Server(name, f"http://127.0.0.1:{port}", process.pid)
        taken = _await_health(server, process, log, options.healthy_within)
        print(f"{name}: healthy after {taken:.0f} s", flush=True)
        yield server
    finally:
        _stop(process)


def _await_health(server: Server, process: subprocess.Popen[bytes], log: Path, within: float) -> float:
    """Seconds until the server answered; ends the program when it never does."""
    began = time.monotonic()
    while time.monotonic() - began < within:
        with suppress(OSError):
            server.get("/health")
            return time.monotonic() - began
        if process.poll() is not None:
            raise SystemExit(f"{server.name} ended; its log {log} ends with\n{log.read_text(errors='replace')[-TAIL:]}")
        time.sleep(0.2)
    raise SystemExit(f"{server.name} was not healthy within {within:g} s; see {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server as an operator does; what is left of its session is killed."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOPS_WITHIN_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def send_load(server: Server, options: argparse.Namespace, phases: str, clients: Path, *more: str) -> list[str]:
    """The summaries, JSON lines, of a load that a process of its own sends to the server."""
    command = [
        *(sys.executable, str(LOAD), "--url", server.url, "--model", str(options.model)),
        *("--phases", phases, "--clients", str(clients), "--server-pid", str(server.pid)),
        *("--scale", str(options.scale), *more),
    ]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
