"""How right forecasts and anomalies of spend are, on generated seasons whose future is known (docs/forecast.md).

Prints, by kind of series and by length of history, how often the 80 % interval of the rest of the month held the
outcome, and the median error beside two naive forecasts; the same for shorter horizons; how soon an hour at three times
the expected is found, and how often ordinary hours raise an alarm.

Run, with OPENBLAS_NUM_THREADS=1: python -m benchmarks.bench_forecast [seeds a kind, 100 unless told]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# a script finds only what lies beside it; the seasons lie in the repository's tests
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.books.seasons import KINDS, YEAR_START, Case, case, last_week, run_rate, series

from farthing.books.anomalies import detect
from farthing.books.forecast import forecast

LENGTHS = ((1, 3), (3, 7), (7, 14), (14, 30), (30, 91))
"""Days of history, from and below."""
HORIZONS = (1, 6, 24, 72, 168)
"""Hours ahead, for the second table."""
HISTORIES = (3, 7, 14, 28, 60)
"""Days of history before a planted hour."""


@dataclass(frozen=True, slots=True)
class Score:
    """One forecast against its outcome; errors relative to the outcome."""

    kind: str
    days: float
    held: bool
    error: float
    last_week: float
    run_rate: float
    width: float


def score(it: Case, outcome: int) -> Score:
    """The forecast of a case, scored."""
    told = forecast(it.history, start_hour=it.start_hour, horizon=it.horizon)
    own, week, rate = (abs(guess - outcome) / outcome for guess in (told.expected_nano, last_week(it), run_rate(it)))
    width = (told.high_nano - told.low_nano) / outcome
    held = told.low_nano <= outcome <= told.high_nano
    return Score(it.kind, len(it.history) / 24, held, own, week, rate, width)


def cases(seeds: int) -> Iterable[Case]:
    """Cases with spend to foretell: a closed weekend at the end of a month has no relative error."""
    drawn = (case(kind, seed) for kind in KINDS for seed in range(seeds))
    return (it for it in drawn if it.outcome_nano and any(it.history))


def row(name: str, scores: Sequence[Score]) -> None:
    """One line of the first table."""
    middle = {field: float(np.median([getattr(s, field) for s in scores])) for field in Score.__slots__[3:]}
    held = np.mean([s.held for s in scores])
    print(
        f"| {name} | {len(scores)} | {held:.0%} | {middle['error']:.1%} | {middle['last_week']:.1%} "
        f"| {middle['run_rate']:.1%} | {middle['error'] / middle['last_week']:.2f} "
        f"| {middle['error'] / middle['run_rate']:.2f} | {middle['width']:.0%} |"
    )


def back_test(seeds: int) -> None:
    """The rest of the month, by kind and by length of history."""
    begun = time.process_time()
    scores = [score(it, it.outcome_nano) for it in cases(seeds)]
    each = 1000 * (time.process_time() - begun) / len(scores)
    print("\nThe rest of the month\n")
    print("| series | cases | interval holds | error | last week | run rate | ratio | ratio | width |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in KINDS:
        row(kind, [s for s in scores if s.kind == kind])
    for low, high in LENGTHS:
        row(f"{low} to {high - (high == 91)} days known", [s for s in scores if low <= s.days < high])
    row("all", scores)
    print(f"\n{each:.1f} ms of processor time each, the drawing of the series included")


def short_horizons(seeds: int) -> None:
    """Hours and days ahead, from four weeks of history."""
    print("\nShorter horizons, from 28 days: how often the interval holds\n")
    print("| series |", " | ".join(f"{hours} h" for hours in HORIZONS), "|")
    print("|---|" + "---|" * len(HORIZONS))
    for kind in KINDS:
        held = np.zeros(len(HORIZONS))
        for seed in range(seeds):
            start, _, spent = drawn(kind, seed, 28 * 24 + max(HORIZONS))
            for i, hours in enumerate(HORIZONS):
                told = forecast(spent[: 28 * 24], start_hour=start, horizon=hours)
                held[i] += told.low_nano <= sum(spent[28 * 24 : 28 * 24 + hours]) <= told.high_nano
        print(f"| {kind} |", " | ".join(f"{part:.0%}" for part in held / seeds), "|")


def drawn(kind: str, seed: int, hours: int) -> tuple[int, list[int], list[int]]:
    """Start, expected and spent nano-dollars at 20 dollars an hour."""
    rng = np.random.default_rng([seed, 2])
    start = YEAR_START + int(rng.integers(0, 300 * 24))
    return start, *series(kind, rng, start, hours, mean=20.0)


def planted(seeds: int) -> None:
    """Single hours at three times the expected, and at three times what they would have been."""
    print("\nHours at three times the expected that are found when complete (at three times their noisy self)\n")
    print("| series |", " | ".join(f"{days:g} days" for days in HISTORIES), "|")
    print("|---|" + "---|" * len(HISTORIES))
    for kind in KINDS:
        cells = []
        for days in HISTORIES:
            hits, count = np.zeros(2), 0
            for seed in range(seeds):
                start, expected, spent = drawn(kind, seed, int(days * 24) + seed % 24 + 1)
                count += expected[-1] > 0
                for i, odd in enumerate((3 * expected[-1], 3 * spent[-1]) if expected[-1] else ()):
                    told = detect([*spent[:-1], odd], start_hour=start)
                    hits[i] += bool(told) and told[-1].end_hour is None
            cells.append(f"{hits[0] / count:.0%} ({hits[1] / count:.0%})")
        print(f"| {kind} |", " | ".join(cells), "|")


def alarms(seeds: int) -> None:
    """Anomalies told of series on which nothing was planted."""
    print("\nAlarms a month and series where nothing was planted, from 90 days\n")
    print("| series | spikes | drops | level shifts | all | of the first two weeks |")
    print("|---|---|---|---|---|---|")
    begun = time.process_time()
    for kind in KINDS:
        told = []
        for seed in range(seeds):
            start, _, spent = drawn(kind, seed, 90 * 24)
            told += [(anomaly.kind, anomaly.start_hour - start) for anomaly in detect(spent, start_hour=start)]
        months = seeds * (90 - 3) / 30
        rates = [sum(name == wanted for name, _ in told) / months for wanted in ("spike", "drop", "level_shift")]
        early = sum(at < 14 * 24 for _, at in told) / (seeds * (14 - 3) / 30)
        print(f"| {kind} |", " | ".join(f"{rate:.2f}" for rate in (*rates, sum(rates), early)), "|")
    each = 1000 * (time.process_time() - begun) / (seeds * len(KINDS))
    print(f"\n{each:.0f} ms of processor time for 90 days, the drawing of the series included")


def main() -> None:
    """All tables."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    back_test(seeds)
    short_horizons(seeds)
    planted(max(10, seeds // 4))
    alarms(max(10, seeds // 5))


if __name__ == "__main__":
    main()
