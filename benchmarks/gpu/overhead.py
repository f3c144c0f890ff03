"""What the probe costs a vLLM server: the same load on one without and on one with it, in turns.

    python benchmarks/gpu/overhead.py --model FOLDER --probe WHEEL --out FOLDER [--rounds 6] [-- VLLM FLAGS]
    python benchmarks/gpu/overhead.py … --traces 0.1
    python -m benchmarks.gpu.overhead --evaluate FILE.jsonl

Runs in vLLM's own environment. Both servers are up, and one sleeps (level 2) while the other is loaded, so that they
can share a GPU; the order alternates, because a GPU at its power cap drifts with its temperature. Round 0 warms both
up and is left out. Writes ``ab.jsonl``, one line a phase of a load, and prints the ratios; ``--evaluate`` prints them
of a file that is there.

With ``--traces RATE`` both servers have the probe, and the second one's hands spans to a collector on this machine:
clients send trace contexts, so large a share of them sampled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:
    sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.gpu.intake import running_intake
from benchmarks.gpu.serving import (
    WITH_PROBE,
    Server,
    probe_environment,
    running_server,
    send_load,
    server_options,
    unpack_probe,
)
from benchmarks.gpu.tracing import WITHOUT_TRACES, running_collector, traces_environment

VANILLA, PROBED = "A", "B"
PHASE = "c128"
COMMON = ("--load-format", "dummy", "--max-model-len", "16384")
ASLEEP = ("--enable-sleep-mode", "--kv-cache-memory-bytes", "58978205696")
"""vLLM sizes its cache by what is free, which a sleeping server would change; these bytes are the recordings'."""
NAMES = {
    "req_s": "requests/s",
    "gap_p50": "gap between chunks, p50, s",
    "gap_p99": "gap between chunks, p99, s",
    "ttft_mean": "time to first token, mean, s",
    "ttft_p99": "time to first token, p99, s",
    "e2e_mean": "time to last token, mean, s",
    "server_cpu_s": "CPU time of the server, s",
}
# two-sided 95 % points of Student's t for 1 to 30 degrees of freedom; beyond, the last is a little too wide
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ratio:
    """With the probe, or its traces, over without: by round, and the 95 % interval of their mean."""

    pairs: tuple[tuple[float, float], ...]
    """Without, with."""
    rounds: tuple[float, ...]
    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of independent values, and its two-sided 95 % interval by Student's t; without bounds of one value."""
    centre = statistics.fmean(values)
    if len(values) < 2:
        return centre, float("-inf"), float("inf")
    point = STUDENT[min(len(values) - 1, len(STUDENT)) - 1]
    half = point * statistics.stdev(values) / len(values) ** 0.5
    return centre, centre - half, centre + half


def evaluate(lines: Iterable[Mapping[str, Any]]) -> dict[str, Ratio]:
    """The ratios of each quantity of NAMES that was measured in both halves of all rounds but round 0.

    Lines are the load's summaries, labelled ``A.1`` (without, round 1) and ``B.1``. A round that lacks a half is left
    out; raises ValueError when a request failed, and when no round is whole.
    """
    halves: dict[int, dict[str, Mapping[str, Any]]] = {}
    for line in lines:
        side, _, number = line["label"].partition(".")
        if line["phase"] != PHASE or int(number) == 0:
            continue
        if line["ok"] != line["n"]:
            raise ValueError(
                f"{line['label']}: {line['n'] - line['ok']} of {line['n']} requests failed: {line['errs']}"
            )
        halves.setdefault(int(number), {})[side] = line
    whole = [halves[number] for number in sorted(halves) if len(halves[number]) == 2]
    if not whole:
        raise ValueError("no round has both halves")
    ratios = {}
    for key in NAMES:
        if all(half[side].get(key) for half in whole for side in (VANILLA, PROBED)):
            pairs = tuple((float(half[VANILLA][key]), float(half[PROBED][key])) for half in whole)
            rounds = tuple(with_it / without for without, with_it in pairs)
            ratios[key] = Ratio(pairs, rounds, *interval(rounds))
    return ratios


def table(ratios: Mapping[str, Ratio]) -> str:
    """The ratios for people to read."""
    parts = []
    for key, ratio in ratios.items():
        parts.append(f"{NAMES[key]}\n{'round':>8}{'without':>12}{'with':>12}{'ratio':>10}")
        for number, ((without, with_it), quotient) in enumerate(zip(ratio.pairs, ratio.rounds, strict=True), start=1):
            parts.append(f"{number:>8}{without:>12.4f}{with_it:>12.4f}{quotient:>10.4f}")
        parts.append(f"{'mean':>8}{ratio.mean:>34.4f}   95 % interval {ratio.low:.4f} to {ratio.high:.4f}\n")
    return "\n".join(parts)


def measure(options: argparse.Namespace, scratch: Path) -> None:
    """Load both servers in turns; the summaries go to ``ab.jsonl``."""
    site = unpack_probe(options.probe, scratch / "site")
    intake_port, collector_port = options.port + 2, options.port + 3
    developer = {"VLLM_SERVER_DEV_MODE": "1"}  # has the routes to sleep and to wake up
    probed = {**developer, **probe_environment(site, intake_port, scratch / "spool")}
    without: tuple[tuple[str, ...], dict[str, str]] = ((), developer)
    if options.traces is not None:
        without = (WITH_PROBE, {**probed, "FARTHING_PROBE_SPOOL": str(scratch / "spool-of-other"), **WITHOUT_TRACES})
        probed |= traces_environment(collector_port)
    flags = (*COMMON, *(() if options.no_sleep else ASLEEP))
    with ExitStack() as stack:
        results = stack.enter_context((options.out / "ab.jsonl").open("w", encoding="utf-8"))
        intake = stack.enter_context(running_intake(intake_port, options.out / "records.jsonl.gz"))
        collected = stack.enter_context(running_collector(collector_port))
        servers: dict[str, Server] = {}
        for side, port, own, environment in (
            (VANILLA, options.port, *without),
            (PROBED, options.port + 1, WITH_PROBE, probed),
        ):
            log = options.out / f"{side}.log"
            starting = running_server(side, options, port=port, log=log, flags=(*flags, *own), environment=environment)
            servers[side] = stack.enter_context(starting)
            if not options.no_sleep:
                servers[side].post("/sleep?level=2")
        for number in range(options.rounds + 1):
            for side in (VANILLA, PROBED) if number % 2 else (PROBED, VANILLA):
                lines = half_round(servers[side], number, options)
                results.writelines(f"{line}\n" for line in lines)
                print(f"round {number}, {side}: {json.loads(lines[-1])['req_s']} requests/s", flush=True)
        told = [line for line in servers[PROBED].get("/metrics").splitlines() if line.startswith("farthing_probe_")]
    print(f"the collector got {collected.exports} exports of spans, {collected.bytes} bytes")
    print(f"the intake got {intake.records} records; the probe's own counters after the last round:", *told, sep="\n")


def half_round(server: Server, number: int, options: argparse.Namespace) -> list[str]:
    """The summaries of one load; the server is awake for it. Both servers get the same requests."""
    if not options.no_sleep:
        server.post("/wake_up")
    clients = options.out / f"clients-{server.name}-{number}.jsonl.gz"
    contexts = () if options.traces is None else ("--sampled", str(options.traces))
    lines = send_load(
        server, options, f"warmup:1,{PHASE}:600", clients, *contexts,
        "--requests", str(options.requests), "--seed", str(number),
        "--label", f"{server.name}.{number}", "--id-prefix", f"{server.name}{number}-",
    )  # fmt: skip
    if not options.no_sleep:
        server.post("/sleep?level=2")
    return lines


def main() -> None:
    """Measure, or evaluate what was measured."""
    if "--evaluate" in sys.argv:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--evaluate", type=Path, required=True, help="a file that a run wrote")
        results = parser.parse_args().evaluate
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        server_options(parser)
        parser.add_argument("--out", type=Path, required=True, help="folder for results and logs")
        parser.add_argument("--rounds", type=int, default=6, help="pairs of loads that count (6)")
        parser.add_argument("--requests", type=int, default=384, help="requests of each load (384)")
        parser.add_argument("--traces", type=float, help="measure traces, sampled at this rate (0 to 1), not the probe")
        parser.add_argument("--no-sleep", action="store_true", help="keep both awake: they need not share a GPU")
        options = parser.parse_args()
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as name:
            measure(options, Path(name))
        results = options.out / "ab.jsonl"
    print(table(evaluate(json.loads(line) for line in results.read_text(encoding="utf-8").splitlines())))


if __name__ == "__main__":
    main()
