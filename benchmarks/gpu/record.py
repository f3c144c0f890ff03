"""Records a vLLM server with the probe: a folder that ``farthing replay FOLDER`` plays and costs.

    python benchmarks/gpu/record.py --model FOLDER --probe WHEEL --out FOLDER [--phases NAME:SECONDS,...]
        [--restart NAME:SECONDS,...] [-- VLLM FLAGS]

Runs in vLLM's own environment, with nvidia-ml-py for the device's samples. Under KV pressure, with speculation:

    ... --phases warmup:4,pressure:45,idle:4 --restart after:15,pressure:8,idle:7 --temperature 0 --
        --kv-cache-memory-bytes 10737418240 --speculative-config '{"method": "ngram", "num_speculative_tokens": 4,
        "prompt_lookup_max": 4, "prompt_lookup_min": 2}'

Writes records.jsonl.gz, metrics.jsonl.gz, nvml.jsonl.gz, phases.txt, clients.jsonl.gz, and the server's logs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

if not __package__:
    sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.gpu.intake import running_intake
from benchmarks.gpu.lines import Lines, writing
from benchmarks.gpu.serving import (
    WITH_PROBE,
    probe_environment,
    running_server,
    send_load,
    server_options,
    unpack_probe,
)

PHASES = "warmup:8,c1:25,c8:25,c32:30,c128:40,prefill:20,shared:30,abort:18,idle:10"
COMMON = (
    *("--load-format", "dummy", "--max-model-len", "16384"),
    *("--enable-prompt-tokens-details", "--enable-mfu-metrics", "--kv-cache-metrics"),
)
SAMPLE_SECONDS, SCRAPE_SECONDS = 0.1, 2.0
SETTLE_SECONDS = 3.0
"""Until the last requests are in the engine's metrics."""

__all__ = ["record", "recording_options"]

Row = dict[str, Any]


@contextmanager
def every(seconds: float, do: Callable[[], None]) -> Iterator[None]:
    """Call a function so often, in a thread of its own, until the block ends."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            do()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def device_samples(path: Path) -> Iterator[None]:
    """Samples of the first GPU until the block ends; none, which is said once, where there is no NVML."""
    try:
        import pynvml  # noqa: PLC0415  # absent where there is no GPU

        pynvml.nvmlInit()
    except Exception as error:
        # ImportError, or whatever pynvml raises without a driver
        print(f"no NVML ({error}): the recording has no samples of a device", flush=True)
        yield
        return
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    first = {
        "name": pynvml.nvmlDeviceGetName(device),
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "power_limit_mw": pynvml.nvmlDeviceGetEnforcedPowerLimit(device),
    }
    with writing(path) as lines:
        lines.add(as_line(first))
        with every(SAMPLE_SECONDS, lambda: lines.add(as_line(sample(pynvml, device)))):
            yield


def sample(pynvml: Any, device: Any) -> Row:
    """What the driver says now: millijoules since it was loaded, milliwatts, percent, bytes, MHz, degrees Celsius."""
    utilisation = pynvml.nvmlDeviceGetUtilizationRates(device)
    return {
        "t": round(time.time(), 4),
        "e_mj": pynvml.nvmlDeviceGetTotalEnergyConsumption(device),
        "p_mw": pynvml.nvmlDeviceGetPowerUsage(device),
        "gpu": utilisation.gpu,
        "memu": utilisation.memory,
        "mem": pynvml.nvmlDeviceGetMemoryInfo(device).used,
        "sm": pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM),
        "thr": pynvml.nvmlDeviceGetCurrentClocksEventReasons(device),
        "temp": pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU),
    }


def as_line(row: Row) -> bytes:
    """A row as JSON."""
    return json.dumps(row).encode()


def scrape(url: str, lines: Lines) -> None:
    """One line of metrics; its body is empty when the server did not answer."""
    began = time.time()
    try:
        with urlopen(f"{url}/metrics", timeout=5) as response:
            body = response.read().decode()
    except OSError:
        body = ""
    lines.add(as_line({"t": began, "dt": round(time.time() - began, 4), "body": body}))


def record(options: argparse.Namespace, scratch: Path) -> None:
    """Write the recording, boot by boot."""
    out: Path = options.out
    intake_port = options.port + 2
    environment = probe_environment(unpack_probe(options.probe, scratch / "site"), intake_port, scratch / "spool")
    url = f"http://127.0.0.1:{options.port}"
    more = [] if options.temperature is None else ["--temperature", str(options.temperature)]
    summaries: list[str] = []
    parts: list[bytes] = []
    with (
        running_intake(intake_port, out / "records.jsonl.gz") as intake,
        writing(out / "metrics.jsonl.gz") as metrics,
        device_samples(out / "nvml.jsonl.gz"),
        every(SCRAPE_SECONDS, lambda: scrape(url, metrics)),
    ):
        for boot, phases in enumerate(filter(None, (options.phases, options.restart)), start=1):
            starting = running_server(
                f"boot {boot}", options, port=options.port, log=out / f"server-{boot}.log",
                flags=(*COMMON, *WITH_PROBE), environment=environment,
            )  # fmt: skip
            clients = scratch / f"clients-{boot}.jsonl.gz"
            with starting as server:
                own = ("--seed", str(boot), "--id-prefix", f"r{boot}-")
                summaries += send_load(server, options, phases, clients, *own, *more)
                time.sleep(SETTLE_SECONDS)
                scrape(url, metrics)
            parts.append(clients.read_bytes())
    print(*summaries, sep="\n")
    print(f"{out}: {intake.records} records of the probe")
    (out / "clients.jsonl.gz").write_bytes(b"".join(parts))
    began = [(summary["phase"], summary["began"]) for summary in map(json.loads, summaries)]
    (out / "phases.txt").write_text("".join(f"phase {name} {at}\n" for name, at in began), encoding="utf-8")


def recording_options(parser: argparse.ArgumentParser, phases: str = PHASES) -> None:
    """What a recording wants to know; ``phases`` are its own when none are given."""
    server_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the recording")
    parser.add_argument("--phases", default=phases, help=f"NAME:SECONDS,... ({phases})")
    parser.add_argument("--restart", metavar="PHASES", help="stop the server, start it again, and go on with these")
    parser.add_argument("--temperature", type=float, help="of requests for one answer (the model's own)")


def main() -> None:
    """Make a recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recording_options(parser)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        record(options, Path(name))


if __name__ == "__main__":
    main()
