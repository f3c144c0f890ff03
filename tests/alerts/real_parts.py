"""The real programs that some tests run, and a loopback port for each."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["free_port", "program", "running", "wait_for"]


def program(name: str) -> str:
    """Path of a program; without it the test is skipped, and in CI it fails: nothing is passed over there."""
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Return as soon as ``condition`` holds; fail naming ``what`` when it has not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.2)


@contextmanager
def running(arguments: Sequence[str], ready_url: str, log: Path) -> Iterator[None]:
    """The program runs, and answers at ``ready_url``, within the block."""

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(ready_url, timeout=1) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    with log.open("w") as output, subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            wait_for(ready, 30, f"{arguments[0]} ready")
            yield
        finally:
            process.terminate()
