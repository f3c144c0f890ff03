"""Photographs Farthing's page: serve and a replayed H100 on free ports, a minute of life, then Chromium.

``make screenshot`` writes docs/images/page.png; ``python tools/screenshot.py FILE`` writes elsewhere.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "page.png"
RECORDING = "h100-llama8b-vllm0.26"
ENGINE = "replay"
LEAD_SECONDS = 135
"""How much of the recording is delivered at once, so that all concurrencies are in the books."""
LIVE_SECONDS = 92
"""How long the plots fill before the picture is taken: with the lead it ends while clients abort requests."""
START_SECONDS = 30
TENANTS = 4
SIZE = "1400,1610"
MAX_BYTES = 400_000
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


class ScreenshotError(Exception):
    """Why there is no picture, in one line."""


def main() -> int:
    """Exit status: 0 when the picture was taken."""
    parser = argparse.ArgumentParser(description="Photograph Farthing's page on a replayed H100.")
    parser.add_argument("file", nargs="?", type=Path, default=PICTURE, help="where the PNG goes")
    target: Path = parser.parse_args().file
    try:
        take(target)
    except ScreenshotError as error:
        sys.stderr.write(f"screenshot: {error}\n")
        return 1
    sys.stdout.write(f"{target}: {target.stat().st_size // 1000} kB\n")
    return 0


def take(target: Path) -> None:
    """Run the page, wait until it is worth a picture, and take it.

    Raises ScreenshotError when Chromium is missing, the page never fills, or the picture is too large for the
    repository.
    """
    browser = _browser()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        state = Path(folder)
        serve_port, replay_port = _free_ports(2)
        url = f"http://127.0.0.1:{serve_port}/"
        config = state / "farthing.yaml"
        config.write_text(_config(state, serve_port, replay_port), encoding="utf-8")
        running.enter_context(_farthing(state / "serve.log", "serve", "--config", str(config)))
        _wait_for(f"{url}readyz", START_SECONDS, state / "serve.log")
        options = ("--lead", str(LEAD_SECONDS), "--loop", "--port", str(replay_port), "--engine-name", ENGINE)
        replay = ("replay", RECORDING, "--config", str(config), *options)
        running.enter_context(_farthing(state / "replay.log", *replay))
        _wait_for(f"http://127.0.0.1:{replay_port}/health", START_SECONDS, state / "replay.log")
        sys.stderr.write(f"screenshot: {url} is live; its plots fill for {LIVE_SECONDS} s\n")
        time.sleep(LIVE_SECONDS)
        _check(url)
        picture = state / "page.png"
        _photograph(browser, url, picture, state)
        size = picture.stat().st_size
        if size > MAX_BYTES:
            raise ScreenshotError(f"the picture has {size} bytes, more than {MAX_BYTES}; make it smaller")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(picture, target)


def _browser() -> str:
    for name in CHROMIUM:
        if found := shutil.which(name):
            return found
    raise ScreenshotError("Chromium is not on PATH; install it with: apt-get install chromium")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _config(state: Path, serve_port: int, replay_port: int) -> str:
    """farthing.yaml; JSON is YAML."""
    engine = {"name": ENGINE, "url": f"http://127.0.0.1:{replay_port}", "gpu": "H100-SXM", "probe": True}
    settings = {
        "ledger": f"sqlite:///{state / 'ledger.db'}",
        "engines": [engine],
        "serve": {"port": serve_port},
    }
    return json.dumps(settings)


@contextmanager
def _farthing(log: Path, *arguments: str) -> Iterator[None]:
    """A farthing command runs within the block."""
    command = (sys.executable, "-m", "farthing.cli.main", *arguments)
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            yield
        finally:
            process.terminate()


def _wait_for(url: str, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - loopback  # nosec B310
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise ScreenshotError(f"{url} does not answer: {said[-1] if said else 'no log'}") from None
        time.sleep(0.2)


def _check(url: str) -> None:
    """Refuse a page that would mislead: fewer tenants than recorded, a residual, or a red check."""
    with urllib.request.urlopen(f"{url}api/v1/snapshot", timeout=10) as answer:  # noqa: S310 - loopback  # nosec B310
        snapshot: dict[str, Any] = json.load(answer)
    spenders = [tenant["tenant"] for tenant in snapshot["tenants"] if tenant["cost_nano"] > 0]
    red = [check["name"] for engine in snapshot["engines"] for check in engine["checks"] if not check["ok"]]
    if len(spenders) != TENANTS:
        raise ScreenshotError(f"{len(spenders)} tenants have cost ({', '.join(spenders)}), not {TENANTS}")
    if snapshot["fleet"]["residual_nano"] or red:
        raise ScreenshotError(f"the books are not balanced: {', '.join(red) or 'residual'}")


def _photograph(browser: str, url: str, picture: Path, state: Path) -> None:
    command = (
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--hide-scrollbars",
        f"--user-data-dir={state / 'browser'}",
        f"--window-size={SIZE}",
        "--virtual-time-budget=8000",
        f"--screenshot={picture}",
        url,
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode or not picture.is_file():
        said = done.stderr.strip().splitlines()
        raise ScreenshotError(f"Chromium took no picture: {said[-1] if said else done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
