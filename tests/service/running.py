"""Real servers on loopback: an application in a thread, and ``farthing serve`` as a process that may be killed."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from tests.stack.scenery import require

from farthing.service.server import bind

__all__ = ["FARTHING", "Serve", "certificate", "served", "wait_until"]

FARTHING = Path(sys.executable).parent / "farthing"
START_SECONDS = 30.0


def wait_until(condition: Any, seconds: float, what: str) -> None:
    """Return as soon as ``condition()`` is true; fail naming ``what`` when it is not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.05)


def certificate(folder: Path, name: str, *options: str) -> tuple[Path, Path]:
    """A certificate that signs itself, in a name that is not this host's, and its key; ``options`` are openssl's."""
    pem, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            require("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", f"/CN={name}.example", "-keyout", str(key), "-out", str(pem), *options,
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return pem, key


@contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    """The base URL at which an ASGI application is served within the block; ``options`` are uvicorn's."""
    listener = bind("127.0.0.1", 0, "no setting")
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, 10, "the server's start")
        yield f"http{'s' if config.is_ssl else ''}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(15)
        listener.close()


class Serve:
    """``farthing serve`` with a configuration file; ``kill`` is kill -9, ``stop`` is SIGTERM."""

    def __init__(self, config: Path, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.tls: ssl.SSLContext | bool = True
        """What is believed of a service that speaks TLS."""
        self._arguments = [str(FARTHING), "serve", "--config", str(config), "--port", str(port)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without waiting for it to be ready."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._arguments, stdout=output, stderr=output, cwd=self.log.parent, env=_plain_environment()
            )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        """Whether it has costed what arrived before its last end; fails when the process has ended."""
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False, verify=self.tls).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_ready(self) -> None:
        """Return once it is ready."""
        wait_until(self.ready, START_SECONDS, "farthing serve ready")

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> int:
        """End it in good order; returns its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(20)

    def close(self) -> None:
        """Make sure that nothing is left running."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def get(self, path: str, **headers: str) -> httpx.Response:
        """An answer of the service."""
        return httpx.get(f"{self.url}{path}", headers=headers, timeout=10, trust_env=False, verify=self.tls)


def _plain_environment() -> dict[str, str]:
    """The environment without what would configure Farthing from outside the test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FARTHING_")}
