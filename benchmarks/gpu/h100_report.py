"""Makes docs/h100.md of what a run of ``h100.py`` brought back, and the recording of it.

    python -m benchmarks.gpu.h100_report FOLDER [--out docs/h100.md] [--recording FOLDER]

FOLDER is the run's; any recording of one boot will do, whose report then has no figures of our own readings. Prints
the report, or writes it; ``--recording`` writes the folder that ``farthing replay`` plays, device included.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.gpu.h100_figures import (
    Agreement,
    Phase,
    Run,
    agreement,
    load_run,
    raw_samples,
    recorded_joules,
    stretches,
    uuids_of,
)
from benchmarks.gpu.plan import PHASES
from benchmarks.gpu.report_data import Row, Sampled, sampled

from farthing.domain import conventions as c
from farthing.domain.clock import utc
from farthing.domain.money import NANO, from_nano
from farthing.service.unit_prices import SATURATED_SEQUENCES

__all__ = ["made_of", "recording_of", "report"]

LOADS = ("c1", "c8", "c32", "c128")
PUBLIC_USD = (0.21, 15.25)
"""$ per million output tokens on H100, lowest and highest of 172 public runs (arXiv 2606.11690)."""
PUBLIC_JOULES = 0.12
"""J per output token, Llama-3.1-8B on H100 at a batch of 64 (ML.ENERGY Leaderboard v3)."""
AGREES_WITHIN = 0.02
CORE_LIMIT = 0.005
SAMPLES = "nvml.jsonl.gz"
READINGS = ("readings-1s.jsonl.gz", "readings-0.1s.jsonl.gz")
FACTS = "run.json"
SHIPPED = ("records.jsonl.gz", "metrics.jsonl.gz", SAMPLES, "phases.txt", *READINGS, FACTS)
"""With them the report can be made of the recording again."""
DEVICES, SERIES = "devices.jsonl.gz", "gpu_metrics.jsonl.gz"


def report(run: Run, slow: Sampled | None, fast: Sampled | None, facts: Row, command: str) -> str:
    """The page in Markdown."""
    parts = [
        *_head(run, facts, command),
        *_mapping(run, slow),
        *_energy(run, slow, fast),
        *_phases(run),
        *_without_work(run, slow),
        *_efficiency(run),
        *_sampling(slow, fast),
        *_limits(),
    ]
    return "\n".join(parts) + "\n"


def recording_of(folder: Path, slow: Sampled, target: Path) -> None:
    """The run as a recording, with the device's records and our own series of it."""
    target.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        # without NVML there are no samples, and a recording's energy is unknown
        if (folder / name).exists() or name != SAMPLES:
            shutil.copyfile(folder / name, target / name)
    _write(target / DEVICES, slow.records)
    _write(target / SERIES, slow.scrapes)


def _write(path: Path, rows: Iterable[Row]) -> None:
    lines = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    # without a time in the header, so that equal rows make equal files
    path.write_bytes(gzip.compress(lines.encode(), mtime=0))


def _head(run: Run, facts: Row, command: str) -> Iterator[str]:
    started, gpu = run.costed.account.started, run.recording.gpu
    versions = ", ".join(f"{name} {number}" for name, number in facts.get("versions", {}).items())
    yield "# One H100, measured"
    yield ""
    yield f"Made by `{command}`; nothing here is written by hand. The run, on the machine with the GPU:"
    yield ""
    phases, flags = facts.get("phases", "…"), " ".join(facts.get("flags", ()))
    yield "    python benchmarks/gpu/make_model.py MODEL"
    yield (
        f"    python benchmarks/gpu/h100.py --model MODEL --probe WHEEL --out FOLDER --phases {phases}"
        f"{f' -- {flags}' if flags else ''}"
    )
    yield ""
    yield (
        f"{started.kind} {started.version} on one {started.gpu} (driver {gpu.get('driver', 'unknown')}), the shape of "
        f"Llama-3.1-8B in bf16 with random weights, {utc(run.recording.start_ns):%-d %B %Y}"
        f"{f'; {versions}' if versions else ''}. Clients in a closed loop, streamed completions, farthing-probe on. "
        f"The GPU costs ${from_nano(run.nano_per_hour).normalize():f} an hour, the public on-demand price that "
        "Farthing ships."
    )
    yield ""
    yield (
        "Dollars and joules of a phase are those of Farthing's own costing: the windows of about 5 s that lie wholly "
        "within it, each settled from the probe's records and the device's energy counter."
    )
    yield ""


def _mapping(run: Run, slow: Sampled | None) -> Iterator[str]:
    if slow is None:
        return
    seen, told = uuids_of(slow), run.probe_uuids
    same = "the same" if seen == told else "**not the same**"
    yield "## Which GPU the engine runs on"
    yield ""
    yield (
        f"The probe, inside the engine, told `{', '.join(told)}`; the NVML source, outside of it, read "
        f"`{', '.join(seen)}`: {same}."
    )
    pids = {process[0] for row in slow.readings for process in row.get("processes", ())}
    yield f"NVML told {len(pids)} process ids with memory on the device; nothing is joined by them."
    yield ""


def _energy(run: Run, slow: Sampled | None, fast: Sampled | None) -> Iterator[str]:
    raw = raw_samples(run.recording)
    kinds: list[tuple[str, Sequence[Row]]] = [("raw NVML, 10 a second", raw)]
    kinds += [(f"our source, every {read.cost['period']:g} s", read.readings) for read in (slow, fast) if read]
    yield "## Energy: the counter against power times time"
    yield ""
    yield "| read by | stretch | by the counter | power integrated | difference |"
    yield "|---|---:|---:|---:|---:|"
    for name, readings in kinds:
        yield _agreement_row(f"{name}, whole run", agreement(readings))
    for phase in run.phases:
        for name, readings in kinds[1:2] or kinds:
            yield _agreement_row(f"{name}, {phase.name}", agreement(readings, phase.begin_ns, phase.end_ns))
    yield ""
    found = [agreed for _, readings in kinds if (agreed := agreement(readings))]
    worst = max((abs(agreed.difference) for agreed in found), default=None)
    if worst is not None:
        verdict = "within" if worst < AGREES_WITHIN else "**outside of**"
        yield (
            f"Over the whole run they differ by at most {worst:.2%}: {verdict} the {AGREES_WITHIN:.0%} that are asked. "
            "A phase of seconds may differ by more: the power that the driver tells is a mean of about the last second."
        )
    if slow is not None:
        counted = agreement(slow.readings)
        booked = recorded_joules(slow)
        if counted is not None:
            yield (
                f"The records that an inbox gets of the device add up to {booked:,.0f} J; its counter rose by "
                f"{counted.counter:,.0f} J between the same readings."
            )
    yield ""


def _agreement_row(name: str, agreed: Agreement | None) -> str:
    if agreed is None:
        return f"| {name} | | | | |"
    return (
        f"| {name} | {agreed.seconds:,.1f} s | {agreed.counter:,.0f} J | {agreed.integrated:,.0f} J "
        f"| {agreed.difference:+.2%} |"
    )


def _phases(run: Run) -> Iterator[str]:
    yield "## Dollars and joules by concurrency"
    yield ""
    yield (
        "| clients | windows | output tokens/s | sequences a step | $/M output, decoding | the same, full "
        "| $/M output, all | $/M prompt | J/output, decoding | J/output, all | J/prompt token | W |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for phase in run.phases:
        if phase.windows:
            yield _phase_row(phase)
    yield ""
    yield (
        "Decoding is what tenants are charged for output tokens; *full* is what the same work would cost with "
        f"{SATURATED_SEQUENCES} sequences in every step, by the fit of this run; *all* divides everything that the "
        "phase cost or drew, prompts and idle moments included, by its output tokens, as public figures do. Prompts "
        "are priced per token computed, not per cached one."
    )
    yield ""
    alone, full = run.phase("c1"), run.phase("c128")
    if alone and full and alone.output and full.output:
        yield from _company(alone, full)
    yield from _beside(run)


def _company(alone: Phase, full: Phase) -> Iterator[str]:
    dollars = [phase.usd_per_million(c.DECODE, phase.output) for phase in (alone, full)]
    joules = [phase.joules_per_token(c.DECODE, phase.output) for phase in (alone, full)]
    if dollars[0] and dollars[1]:
        energy = f", and takes {joules[0] / joules[1]:.0f} times the energy" if joules[0] and joules[1] else ""
        yield (
            f"A token decoded for one client alone costs {dollars[0] / dollars[1]:.0f} times as much as among 128"
            f"{energy}."
        )
        yield ""


def _phase_row(phase: Phase) -> str:
    clients = PHASES[phase.name].clients if phase.name in PHASES else 0
    full = phase.saturated_nano.get(c.DECODE)
    cells: list[str] = [
        f"{phase.name} ({clients})",
        str(phase.windows),
        _number(phase.tokens_per_second, ",.0f"),
        _number(phase.sequences, ".1f"),
        _number(phase.usd_per_million(c.DECODE, phase.output), ".3f"),
        _number(None if full is None else full / NANO, ".3f"),
        _number(phase.usd_per_million("", phase.output), ".3f"),
        _number(phase.usd_per_million(c.PREFILL, phase.prompt), ".4f"),
        _number(phase.joules_per_token(c.DECODE, phase.output), ".3f"),
        _number(phase.joules_per_token("", phase.output), ".3f"),
        _number(phase.joules_per_token(c.PREFILL, phase.prompt), ".4f"),
        _number(phase.watts, ".0f"),
    ]
    return "| " + " | ".join(cells) + " |"


def _beside(run: Run) -> Iterator[str]:
    loads = [phase for name in LOADS if (phase := run.phase(name)) and phase.output]
    if not loads:
        return
    yield "### Beside public figures"
    yield ""
    yield "| | here | public | source |"
    yield "|---|---|---|---|"
    dollars = [value for phase in loads if (value := phase.usd_per_million("", phase.output)) is not None]
    low, high = PUBLIC_USD
    yield (
        f"| $ per million output tokens, all | {min(dollars):.2f} ({loads[-1].name}) to {max(dollars):.2f} "
        f"({loads[0].name}) | {low} to {high} | arXiv 2606.11690, H100, 172 public runs |"
    )
    joules = ", ".join(
        f"{value:.3f} ({phase.name})"
        for phase in loads
        if (value := phase.joules_per_token("", phase.output)) is not None
    )
    if joules:
        yield (
            f"| J per output token, all | {joules} | {PUBLIC_JOULES} at a batch of 64 "
            "| ML.ENERGY Leaderboard v3, Llama-3.1-8B, H100 |"
        )
    yield ""
    yield (
        "They are not the same load: prompts here are long (up to 8,000 words at 8 and 32 clients) and share nothing, "
        "the price of a GPU hour differs from run to run, and random weights draw the power of random weights."
    )
    yield ""


def _without_work(run: Run, slow: Sampled | None) -> Iterator[str]:
    if slow is None:
        return
    yield "## Without work"
    yield ""
    yield "| the device | readings | W, mean | W, highest |"
    yield "|---|---:|---:|---:|"
    for name, watts in stretches(run, slow.readings).items():
        yield f"| {name} | {len(watts)} | {sum(watts) / len(watts):.0f} | {max(watts):.0f} |"
    yield ""


def _efficiency(run: Run) -> Iterator[str]:
    estimated = [phase for phase in run.phases if phase.flops is not None and phase.memory_bytes is not None]
    if not estimated or run.peaks is None:
        return
    peaks = run.peaks
    yield "## How much of the GPU is used"
    yield ""
    yield (
        f"By vLLM's own estimates over {peaks.bf16 / 1e12:,.1f} TFLOP/s in dense bf16 and "
        f"{peaks.memory_bytes_per_second / 1e12:.2f} TB/s ({peaks.source})."
    )
    yield ""
    yield "| phase | TFLOP/s | MFU | TB/s | memory bandwidth |"
    yield "|---|---:|---:|---:|---:|"
    for phase in estimated:
        flops, traffic = phase.flops or 0.0, phase.memory_bytes or 0.0
        yield (
            f"| {phase.name} | {flops / 1e12:,.0f} | {flops / peaks.bf16:.1%} | {traffic / 1e12:.2f} "
            f"| {traffic / peaks.memory_bytes_per_second:.1%} |"
        )
    yield ""


def _sampling(slow: Sampled | None, fast: Sampled | None) -> Iterator[str]:
    costs = [read.cost for read in (slow, fast) if read]
    if not costs:
        return
    yield "## What reading costs"
    yield ""
    yield (
        "Each rate in a process of its own, beside the engine under load: NVML source, sampler, the thread that waits "
        "for XID errors, and a file of every reading, which an agent does not write."
    )
    yield ""
    yield "| every | for | rounds | CPU, whole process | of one core | in reading | longest | expositions | errors |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for cost in costs:
        yield (
            f"| {cost['period']:g} s | {cost['wall']:,.0f} s | {cost['rounds']:,} | {cost['process_cpu']:.2f} s "
            f"| **{cost['share_of_a_core']:.2%}** | {cost['read_cpu'] / max(1, cost['rounds']) * 1e3:.2f} ms a round "
            f"| {cost['longest_read'] * 1e3:.0f} ms | {cost['expositions']} in {cost['expose_cpu'] * 1e3:.0f} ms "
            f"| {len(cost['errors'])} |"
        )
    yield ""
    share = costs[0]["share_of_a_core"]
    verdict = "below" if share < CORE_LIMIT else "**not below**"
    yield (
        f"Once a second, which is the default, takes {share:.2%} of a core: {verdict} the {CORE_LIMIT:.1%} that are "
        "allowed."
    )
    yield ""


def _limits() -> Iterator[str]:
    yield "## Not shown"
    yield ""
    yield "- One model's shape, one GPU, one run: nothing is known of its spread."
    yield "- Energy of the host: the counter is the GPU's."
    yield "- MIG, several GPUs, and a GPU that disappears were not part of it; tests have them with a fake driver."


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def made_of(folder: Path, called: str = "") -> str:
    """The page for the run or the recording in a folder; ``called`` is what the command that it quotes calls it."""
    slow, fast = (_read(folder / name) for name in READINGS)
    told = folder / FACTS
    facts = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {}
    command = f"python -m benchmarks.gpu.h100_report {called or folder.as_posix()} --out docs/h100.md"
    return report(load_run(folder), slow, fast, facts, command)


def _read(path: Path) -> Sampled | None:
    return sampled(path) if path.exists() else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report, and the recording where one is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what the run wrote")
    parser.add_argument("--out", type=Path, help="file of the report (printed)")
    parser.add_argument("--recording", type=Path, help="folder for the recording")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    if options.recording is not None:
        slow = _read(folder / READINGS[0])
        if slow is None:
            parser.error(f"{folder} has no {READINGS[0]}: there is no device to record")
        recording_of(folder, slow, options.recording)
        folder = options.recording
    text = made_of(folder)
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
