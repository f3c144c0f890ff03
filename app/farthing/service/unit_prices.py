"""What a million tokens cost of late, by engine: what intake tells senders, for estimates of their own."""

from __future__ import annotations

import math
from array import array
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from farthing.costing.fit import FEATURES
from farthing.costing.saturation import unit_costs_at
from farthing.costing.uncertainty import phase_bounds
from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.model import Fit, SettledWindow
from farthing.domain.records import Started

__all__ = ["TOKENS_OF_PHASE", "UnitPrices"]

MILLION = 1_000_000
SPAN_NS = 300 * SECOND
"""Prices are means over so much time, up to an engine's last settled work: a lifetime's mean misleads, since a
price depends on company."""

SATURATED_SEQUENCES = 128
"""Where settings do not say how many requests a full engine runs at once."""

TOKENS_OF_PHASE = {c.PREFILL: "prompt_computed", c.DECODE: "engine_output", c.VISION: "encoder"}
"""What a phase's price is per million of, as the engine counts them."""


_BILL, _LENGTH = "bill", "length"
_COUNTED = tuple(dict.fromkeys((*TOKENS_OF_PHASE, *TOKENS_OF_PHASE.values(), *FEATURES, _BILL, _LENGTH)))
"""What is counted of a window, as it is kept: thousands of engines have dozens of windows each."""


@dataclass(slots=True)
class _Recent:
    """Settled windows in which one boot worked: (end, nano-dollars by phase, tokens by kind, features), and sums."""

    boot: str
    windows: deque[tuple[int, array[int]]] = field(default_factory=deque)
    sums: Counter[str] = field(default_factory=Counter)
    fit: Fit | None = None
    """Of the last window that was split by one."""

    def add(self, end_ns: int, counts: Counter[str], fit: Fit | None) -> None:
        self.windows.append((end_ns, array("q", [counts[name] for name in _COUNTED])))
        self.sums.update(counts)
        self.fit = fit or self.fit
        while self.windows[0][0] <= end_ns - SPAN_NS:
            self.sums.subtract(dict(zip(_COUNTED, self.windows.popleft()[1], strict=True)))

    def work(self) -> dict[str, int]:
        """What a million units of each feature cost, in nano-dollars: by the fit, scaled so that the work of late comes
        to its money; none without one.
        """
        if self.fit is None:
            return {}
        coefficients = self.fit.coefficients
        modelled = sum(coefficients[name] * self.sums[name] for name in FEATURES)
        nano = sum(self.sums[phase] for phase in TOKENS_OF_PHASE)
        if not 0 < modelled < math.inf or nano <= 0:
            return {}
        return {name: round(coefficients[name] * nano * MILLION / modelled) for name in FEATURES}

    def saturated(self, sequences: int) -> dict[str, int]:
        """Prices of the same work in a full engine; none without a fit of what this engine did."""
        if self.fit is None:
            return {}
        features = {name: float(self.sums[name]) for name in FEATURES}
        return unit_costs_at(self.fit.coefficients, features, self.sums[_BILL] * SECOND / self.sums[_LENGTH], sequences)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """The least and the most that the prices may be, as far as the fit can tell; none without one."""
        if self.fit is None:
            return {}
        features = {name: float(self.sums[name]) for name in FEATURES}
        nano = {phase: self.sums[phase] for phase in TOKENS_OF_PHASE}
        return {
            phase: (low * MILLION // self.sums[kind], high * MILLION // self.sums[kind])
            for phase, (low, high) in phase_bounds(self.fit, features, nano).items()
            if self.sums[kind := TOKENS_OF_PHASE[phase]] > 0
        }


class UnitPrices:
    """Takes windows as they settle. ``of`` only looks up, and may be called from any thread meanwhile.

    ``sequences`` decode in every step of an engine that is full.
    """

    def __init__(self, sequences: int = SATURATED_SEQUENCES) -> None:
        self.sequences = sequences
        self._saturated: dict[str, dict[str, int]] = {}
        self._recent: dict[str, _Recent] = {}
        self._prices: dict[str, dict[str, int]] = {}
        self._told: dict[str, dict[str, int]] = {}
        """engine -> its prices by phase, and those of the work that its fit knows."""
        self._engines: dict[str, tuple[str, str]] = {}
        """boot -> (engine, what its sender calls it)."""

    def observe(self, started: Started, engine: str, windows: Sequence[SettledWindow]) -> None:
        """Count what a boot settled; ``engine`` is the name that it is booked under."""
        boot = started.key.boot
        self._engines[boot] = engine, started.engine
        # a window that was billed to somebody else already has no price
        worked = [window for window in windows if window.busy_ns and window.bill_nano]
        if not worked:
            return
        recent = self._recent.get(engine)
        if recent is None or recent.boot != boot:
            recent = self._recent[engine] = _Recent(boot)
        for window in sorted(worked, key=lambda window: window.end_ns):
            recent.add(window.end_ns, _counts(window), window.fit)
        self._prices[engine] = _prices(recent.sums)
        self._told[engine] = {**self._prices[engine], **recent.work()}
        self._saturated[engine] = recent.saturated(self.sequences)

    def compared(self, engine: str) -> tuple[dict[str, int], dict[str, int]]:
        """Phase -> nano-dollars per million tokens of late, and the same at saturation; unknown is left out of each."""
        return self._prices.get(engine, {}), self._saturated.get(engine, {})

    def bounds(self, engine: str) -> dict[str, tuple[int, int]]:
        """Phase -> the least and the most that its price of late may be, with how uncertain its split is; unknown is
        left out.
        """
        recent = self._recent.get(engine)
        return {} if recent is None else recent.bounds()

    def of(self, boots: Iterable[str]) -> dict[str, dict[str, int]]:
        """engine -> phase -> nano-dollars per million tokens, and feature of its fit -> nano-dollars per million units,
        under the name that each boot's sender gave.

        A phase of which nothing is settled is left out, and so is an engine without any: unknown is not 0.
        """
        found = {}
        for boot in boots:
            engine, called = self._engines.get(boot, ("", ""))
            prices = self._told.get(engine)
            if prices:
                found[called] = prices
        return found


def _counts(window: SettledWindow) -> Counter[str]:
    """What each phase cost, whoever bore it, the tokens that the engine processed in it, and what the fit saw."""
    counts: Counter[str] = Counter()
    for posting in window.postings:
        if posting.phase:
            counts[posting.phase] += posting.nano
    for kind in TOKENS_OF_PHASE.values():
        counts[kind] += window.tokens.get(kind, 0)
    # whole numbers, so that what slides out of the sums leaves nothing behind
    counts.update({name: round(value) for name, value in window.features.items()})
    counts[_BILL] += window.bill_nano
    counts[_LENGTH] += window.end_ns - window.start_ns
    return counts


def _prices(sums: Counter[str]) -> dict[str, int]:
    priced = {phase: (sums[phase], sums[kind]) for phase, kind in TOKENS_OF_PHASE.items()}
    return {phase: nano * MILLION // tokens for phase, (nano, tokens) in priced.items() if nano > 0 and tokens > 0}
