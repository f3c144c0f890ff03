"""A Docker engine of the test's own: Debian's dockerd, its data in one folder, gone with all its containers at the end.

It shares the kernel's packet filter with an engine that the machine may have already; as any dockerd does when it
starts, it empties the chains that both use, so that ports which the other publishes beyond loopback are closed until
that one starts again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from tests.alerts.real_parts import program, wait_for

__all__ = ["DockerEngine", "docker_engine", "needs_root"]

START_SECONDS = 60.0
STOP_SECONDS = 30.0
ROUTES = Path("/proc/net/route")


@dataclass(frozen=True)
class DockerEngine:
    """A running engine."""

    host: str
    """What DOCKER_HOST is to say."""
    data: Path
    """Where it keeps images and volumes."""
    gateway: str
    """This machine's address, as containers reach it."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which every client asks this engine."""
        foreign = ("DOCKER_", "COMPOSE_", "BUILDKIT_", "FARTHING_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return kept | {"DOCKER_HOST": self.host}

    def docker(self, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``docker``; fail with what it says."""
        done = subprocess.run(
            [program("docker"), *words], env=self.environment, capture_output=True, text=True, check=False, **options
        )
        if check and done.returncode != 0:
            pytest.fail(f"docker {' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done

    def inspect(self, *names: str) -> list[dict[str, Any]]:
        """All that the engine knows of containers."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", *names).stdout)
        return found


def needs_root() -> None:
    """Skip without root, and fail in CI: an engine mounts and makes networks."""
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("a Docker engine needs root")
        pytest.skip("a Docker engine needs root")


@contextlib.contextmanager
def docker_engine() -> Iterator[DockerEngine]:
    """The engine runs within the block; its log is shown when it does not start."""
    needs_root()
    dockerd, setpriv = program("dockerd"), program("setpriv")
    # short, for the sockets inside it
    folder = Path(tempfile.mkdtemp(prefix="farthing-docker-"))
    network = _free_network()
    engine = DockerEngine(f"unix://{folder}/sock", folder / "data", str(network.network_address + 1))
    try:
        with _bridge(network), (folder / "log").open("w") as log:
            command = [
                # whatever becomes of the test, the engine does not outlive it
                *(setpriv, "--pdeathsig", "TERM", dockerd),
                *("--host", engine.host, "--pidfile", f"{folder}/pid"),
                *("--data-root", str(engine.data), "--exec-root", f"{folder}/exec"),
                *("--bridge", _bridge_name(), "--default-address-pool", f"base={_pool(network)},size=24"),
            ]
            with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process:
                try:
                    _await_engine(engine, process, folder / "log")
                    yield engine
                finally:
                    _stop(engine, process)
    finally:
        _end_leftovers(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _await_engine(engine: DockerEngine, process: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        if process.poll() is not None:
            pytest.fail(f"dockerd ended:\n{log.read_text()[-3000:]}")
        return bool(engine.docker("info", "--format", "{{.ServerVersion}}", check=False).stdout.strip())

    wait_for(answers, START_SECONDS, "dockerd's first answer")


def _stop(engine: DockerEngine, process: subprocess.Popen[bytes]) -> None:
    """End containers and networks by the engine, as it alone knows what it made, and then the engine itself."""
    if process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if containers := engine.docker("ps", "--all", "--quiet", check=False, timeout=STOP_SECONDS).stdout.split():
                engine.docker("rm", "--force", *containers, check=False, timeout=STOP_SECONDS)
            engine.docker("network", "prune", "--force", check=False, timeout=STOP_SECONDS)
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _end_leftovers(folder: Path) -> None:
    """Kill what an engine that was killed itself has left, all of which names this folder; release its mounts."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if str(folder).encode() in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)
    time.sleep(0.2)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((one for one in mounts if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run([program("umount"), "--lazy", mount], capture_output=True, check=False)


def _bridge_name() -> str:
    return f"frt{os.getpid()}"


@contextlib.contextmanager
def _bridge(network: IPv4Network) -> Iterator[None]:
    """A bridge for containers that no network of their own is named for, such as a build's."""
    address = f"{network.network_address + 1}/24"
    name, ip = _bridge_name(), program("ip")
    subprocess.run([ip, "link", "add", "name", name, "type", "bridge"], check=True)
    try:
        subprocess.run([ip, "address", "add", address, "dev", name], check=True)
        subprocess.run([ip, "link", "set", name, "up"], check=True)
        yield
    finally:
        subprocess.run([ip, "link", "delete", name], check=False)


def _pool(network: IPv4Network) -> IPv4Network:
    """The upper half, for the networks that Compose makes."""
    return list(network.subnets(1))[1]


def _free_network() -> IPv4Network:
    """A private network that this machine has no route to, but its default one."""
    taken = []
    for line in ROUTES.read_text().splitlines()[1:]:
        fields = line.split()
        destination, mask = (IPv4Address(bytes.fromhex(fields[index])[::-1]) for index in (1, 7))
        if int(mask):
            taken.append(IPv4Network(f"{destination}/{mask}", strict=False))
    first = 200 + os.getpid() % 50
    for number in (*range(first, 250), *range(200, first)):
        network = IPv4Network(f"10.{number}.0.0/16")
        if not any(network.overlaps(other) for other in taken):
            return network
    raise AssertionError("no free network for containers")
