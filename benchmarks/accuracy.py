"""How right the costs are, on the packaged recordings and on simulated engines: the tables of docs/accuracy.md.

Run from the repository's root: ``python -m benchmarks.accuracy`` (about a minute), or name sections:
``python -m benchmarks.accuracy requests peers``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from unittest import mock

from benchmarks import fit_studies, mark_studies, peer_formulas, simulated_engines
from tests.costing import oracle
from tests.costing.oracle_model import Schedule
from tests.costing.oracle_schedule import replay

from farthing.books.prices import DEFAULT_PRICES, PriceBook
from farthing.costing import fit
from farthing.costing.settle import settle
from farthing.domain import conventions as c
from farthing.domain.clock import HOUR
from farthing.replay.offline import OfflineRun, cost_recording
from farthing.replay.recording import Recording, load_recording, packaged_names
from farthing.settings import Settings

_NANO_PER_HOUR = HOUR
"""A price at which a nano-dollar is a nanosecond, for splits that are given in seconds."""
READINGS: Mapping[str, oracle.Grouping] = {
    "raw marks": oracle.by_step,
    "launches": oracle.by_launch,
    "0.5 s": oracle.by_seconds(0.5),
    "5 s": oracle.by_seconds(5.0),
}


def requests(recording: Recording, schedule: Schedule) -> None:
    """Charges per request against the oracle, in every reading of the marks."""
    run = _costed(recording)
    law = oracle.fit_steps(schedule)
    charges = _charges(run)
    price = run.account.tariff.nano_per_hour(recording.start_ns)
    print(f"busy {schedule.busy_s:.2f} s; the oracle's law: {_numbers(law)}")
    print(f"the same fitted to single steps by raw marks: {_numbers(oracle.fit_steps(schedule, oracle.by_step))}")
    lines = []
    for name, grouping in READINGS.items():
        seconds = oracle.split(schedule, law, grouping)
        found = oracle.compare(schedule, seconds, charges, price)
        shares = oracle.shares_by_phase(seconds)
        lines.append(
            [
                name,
                _percent(found.error),
                _percent(found.phase_error),
                *(f"{found.by_length.get(length, float('nan')):.3f}" for length in oracle.LENGTHS),
                *(_percent(shares[phase]) for phase in c.PHASES),
            ]
        )
    _table(["reading of marks", "error", "by phase too", *oracle.LENGTHS, *(f"oracle {p}" for p in c.PHASES)], lines)
    seconds = oracle.split(schedule, law)
    found = oracle.compare(schedule, seconds, charges, price)
    print("by load phase: charged / oracle (and weighted error)")
    _table(
        ["load", "ratio", "error"],
        [[name, f"{r:.3f}", _percent(found.error_by_load_phase[name])] for name, r in found.by_load_phase.items()],
    )
    print("by tenant:", _ratios(found.by_tenant), "| by cost phase:", _ratios(found.by_cost_phase))
    for name, grouping in READINGS.items():
        if grouping is oracle.by_launch:
            continue
        apart = oracle.difference(oracle.split(schedule, law, grouping), seconds)
        print(f"reading {name!r} differs from 'launches' by {_percent(apart)} with the same law")
    output: dict[str, list[float]] = {}
    for identity, request in schedule.requests.items():
        sums = output.setdefault(request.load_phase, [0.0, 0.0])
        sums[0] += sum(seconds[identity].values())
        sums[1] += request.last_step - request.first_step + 1
    each = ", ".join(f"{load} {1e3 * total / tokens:.3g}" for load, (total, tokens) in output.items())
    print(f"milliseconds of everything per output token, by load: {each}\n")


def marks(recording: Recording, schedule: Schedule) -> None:
    """What the intervals between marks hold."""
    dated = mark_studies.intervals(recording, schedule)
    if dated:
        _table(
            ["step", "seen", "median by the engine's clock", "median by marks"],
            [[row.kind, str(row.steps), f"{row.engine_ms:.1f} ms", f"{row.marks_ms:.1f} ms"] for row in dated],
        )
    else:
        print("no two successive decode steps are dated by the engine's clock\n")
    print(f"first steps after idleness: {mark_studies.after_idle_s(schedule):.2f} s of {schedule.busy_s:.2f} s busy")
    elapsed = sum(float(row["d"][5]) for row in recording.steps if row.get("d")) / 1e3
    print(f"the engine's elapsed_ms adds up to {elapsed:.0f} s\n")


def causes(recording: Recording, schedule: Schedule) -> None:
    """Where the error comes from: the same settlement with other coefficients."""
    law = oracle.fit_steps(schedule)
    seconds = oracle.split(schedule, law)
    final = _costed(recording).account.fit()
    if final is None:
        raise ValueError(f"{recording.name}: no fit")
    variants = {
        "as it is: each window by the fit of its past": None,
        "every window by the recording's last fit": final.coefficients,
        "every window by the oracle's law": {**fit.DEFAULT_COEFFICIENTS, **law},
    }
    lines = []
    for name, coefficients in variants.items():
        if coefficients is None:
            run = _costed(recording)
        else:
            given = replace(final, coefficients=coefficients)
            with mock.patch("farthing.costing.stream.settle", lambda *a, fit, _g=given, **k: settle(*a, fit=_g, **k)):
                run = _costed(recording)
        found = oracle.compare(schedule, seconds, _charges(run), run.account.tariff.nano_per_hour(recording.start_ns))
        lines.append([name, _percent(found.error), _percent(found.phase_error), _ratios(found.by_length)])
    _table(["settlement", "error", "by phase too", "by length"], lines)


def walk(recording: Recording, _: Schedule) -> None:
    """Walk-forward error by window offset."""
    errors = [grid.fit.walk_forward_wape or float("nan") for grid in fit_studies.grids(recording)]
    offsets = [f"{seconds} s" for seconds in range(len(errors))]
    _table([*offsets, "mean"], [[*map(_percent, errors), _percent(sum(errors) / len(errors))]])


def rows(recording: Recording, schedule: Schedule) -> None:
    """The same fit on other rows and with another ridge: what would predict windows better, or worse."""
    found = []
    on = fit_studies.grids(recording)
    for row_s in (0.25, 0.5, 1.0, 2.5, 5.0):
        for ridge_s in (fit.RIDGE_SECONDS, 0.05):
            error, law = fit_studies.rows_of(schedule, on, row_s, ridge_s)
            found.append([f"{row_s:g} s", f"{ridge_s:g} s", _percent(error), _numbers(law)])
    _table(["rows of", "ridge", "walk-forward on 5 s windows", "last fit"], found)


def unseen(recording: Recording, schedule: Schedule) -> None:
    """Every load phase left out of the fit and then predicted."""
    _table(
        ["left out", "windows", "predicted / measured", "lowest", "highest", "chosen without it", "chosen"],
        [
            [
                row.load,
                str(row.windows),
                f"{row.ratio:.3f}",
                f"{row.lowest:.3f}",
                f"{row.highest:.3f}",
                f"{row.chosen:.3f}",
                " | ".join(sorted(set(row.sets))).replace("|", "or"),
            ]
            for row in fit_studies.left_out(recording, schedule, fit_studies.grids(recording))
        ],
    )


def shares(recording: Recording, schedule: Schedule) -> None:
    """Phase shares by feature set, with 90 % bounds."""
    (grid,) = fit_studies.grids(recording, [0])
    found = fit_studies.phase_shares(schedule, grid)
    names = [*c.PHASES, "prefill + vision"]
    _table(
        ["features", "walk-forward", *names],
        [
            [row.features, _percent(row.error), *("{:.1%} ({:.1%}-{:.1%})".format(*row.shares[name]) for name in names)]
            for row in found
        ],
    )


def missing(recording: Recording, schedule: Schedule) -> None:
    """What nobody owns, what clients that hung up cost, and the energy."""
    run, (grid,) = _costed(recording), fit_studies.grids(recording, [0])
    postings = [posting for window in run.entry.windows for posting in window.postings]
    busy = sum(posting.nano for posting in postings if posting.phase)
    claims = [claim for work in grid.works for claim in work.claims if claim.usage.outcome == c.ABORTED]
    first_tokens = {claim.usage.key for claim in claims if claim.usage.first_ns is not None}
    aborted = [request for request in schedule.requests.values() if not request.finished]
    delivered = sum(row.output_tokens or 0 for row in run.entry.requests if row.outcome == c.ABORTED)
    joules: dict[str, int] = {}
    for posting in postings:
        joules[posting.phase or posting.account] = joules.get(posting.phase or posting.account, 0) + posting.millijoules
    lost = sum(posting.nano for posting in postings if posting.account == c.UNATTRIBUTED)
    print(f"unattributed: {lost / busy:.3%} of busy cost")
    print(
        f"aborted requests: {len(aborted)}; prompt tokens claimed {sum(claim.prefill_tokens for claim in claims):,} of "
        f"{sum(request.computed for request in aborted):,}; output tokens claimed "
        f"{sum(claim.decode_tokens for claim in claims) + len(first_tokens):,.0f}, delivered {delivered:,}, scheduled "
        f"{sum(request.last_step - request.first_step + 1 for request in aborted):,}"
    )
    total = sum(joules.values())
    parts = ", ".join(f"{name} {amount / total:.1%}" for name, amount in sorted(joules.items()))
    worked = sum(joules.get(phase, 0) for phase in c.PHASES)
    of_busy = ", ".join(f"{phase} {joules.get(phase, 0) / worked:.1%}" for phase in c.PHASES)
    print(f"energy: {total / 1e3:,.3f} J ({parts}); of the phases alone: {of_busy}\n")


def peers(recording: Recording, schedule: Schedule) -> None:
    """Other formulas on the same recording."""
    seconds = oracle.split(schedule, oracle.fit_steps(schedule))
    truth = oracle.shares_by_phase(seconds)
    run = _costed(recording)
    ours = oracle.compare(schedule, seconds, _charges(run), run.account.tariff.nano_per_hour(recording.start_ns))
    busy = sum(window.busy_ns for window in run.entry.windows)
    prompts = sum(w.phase_ns.get(p, 0) for w in run.entry.windows for p in (c.PREFILL, c.VISION)) / busy
    lines = [
        ["per-step oracle", _percent(truth[c.PREFILL] + truth[c.VISION]), "-", "-"],
        ["Farthing", _percent(prompts), _percent(ours.error), _ratios(ours.by_length)],
    ]
    for split in peer_formulas.peer_splits(recording):
        paid = peer_formulas.charges(split, schedule)
        nano = {i: {phase: round(value * 1e9) for phase, value in phases.items()} for i, phases in paid.items()}
        found = oracle.compare(schedule, seconds, nano, _NANO_PER_HOUR)
        lines.append([split.name, _percent(split.prompt_share), _percent(found.error), _ratios(found.by_length)])
    _table(["method", "prompts' share", "error per request", "by length"], lines)


SECTIONS: Mapping[str, Callable[[Recording, Schedule], None]] = {
    "requests": requests,
    "marks": marks,
    "causes": causes,
    "walk": walk,
    "rows": rows,
    "unseen": unseen,
    "shares": shares,
    "missing": missing,
    "peers": peers,
}


def simulated() -> None:
    """The worst of several seeds of every kind of simulated engine."""
    head = ["engine", "seeds", "requests", "median", "p95", "largest", "tenant", "share", "with pool", "unattributed"]
    lines = []
    for row in simulated_engines.simulated_rows():
        errors = (row.median, row.p95, row.largest, row.tenant, row.share, row.with_pool, row.unattributed)
        lines.append([row.name, str(row.seeds), f"{row.requests:,}", *map(_percent, errors)])
    _table(head, lines)


def _costed(recording: Recording) -> OfflineRun:
    return cost_recording(recording, Settings(), PriceBook(DEFAULT_PRICES))


def _charges(run: OfflineRun) -> dict[str, dict[str, int]]:
    return oracle.charges_of(run.entry.windows, {row.key.sequence: row.request_id for row in run.entry.requests})


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _ratios(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in sorted(values.items()))


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def main() -> None:
    """Print the sections asked for, of every packaged recording."""
    parser = argparse.ArgumentParser(description="Accuracy of the costs on the packaged recordings.")
    names = [*SECTIONS, "simulated", "all"]
    parser.add_argument("sections", nargs="*", choices=names, default="all", help="default: all")
    parser.add_argument("--recording", action="append", choices=packaged_names(), help="default: all")
    chosen = parser.parse_args()
    sections = names[:-1] if "all" in chosen.sections else chosen.sections
    for name in chosen.recording or packaged_names():
        recording = load_recording(name)
        schedule = replay(recording)
        for section in sections:
            if section in SECTIONS:
                print(f"## {name}: {section}\n")
                SECTIONS[section](recording, schedule)
    if "simulated" in sections:
        print("## simulated engines\n")
        simulated()


if __name__ == "__main__":
    main()
