"""Energy of settled work by engine and tenant, and what it comes to per token, in money and in carbon."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.energy import EnergyView, EngineEnergy
from farthing.domain.model import Adjustment, SettledWindow
from farthing.domain.money import to_nano
from farthing.ledger.cost_sums import cost_sums
from farthing.ledger.repository import Ledger, Posted
from farthing.service.unit_prices import TOKENS_OF_PHASE
from farthing.settings import EngineSettings, Settings

__all__ = ["EnergyTotals"]

SPAN_NS = 300 * SECOND
"""Joules per token are of so much time, up to an engine's last settled work with energy: as unit prices are."""
MILLIJOULES_PER_KWH = 3_600_000_000
_BORNE = (c.CHARGED, c.ABORTED)


@dataclass(slots=True)
class _Recent:
    """Windows of one boot whose energy is known: (end, millijoules and tokens by phase), and their sums."""

    boot: str
    windows: deque[tuple[int, Counter[tuple[str, str]]]] = field(default_factory=deque)
    sums: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, end_ns: int, counts: Counter[tuple[str, str]]) -> None:
        self.windows.append((end_ns, counts))
        self.sums.update(counts)
        while self.windows[0][0] <= end_ns - SPAN_NS:
            self.sums.subtract(self.windows.popleft()[1])


class EnergyTotals:
    """Sums over the ledger, loaded once and kept current with each posting; integers of millijoules."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._settings = settings
        self._lines: defaultdict[str, Counter[tuple[str, str, str]]] = defaultdict(Counter)
        self._tenants: Counter[tuple[str, str, str]] = Counter()
        self._recent: dict[str, _Recent] = {}
        keys = ("engine", "account", "phase", "method", "tenant", "model", "tier")
        for key, (millijoules,) in cost_sums(ledger, keys, amounts=("millijoules",)).items():
            engine, account, phase, method, *who = key
            self._add(engine, (account, phase, method), (who[0], who[1], who[2]), millijoules)

    def know(self, settings: Settings) -> None:
        """Go on with other engines."""
        self._settings = settings

    def add(self, engine: str, posted: Posted) -> None:
        """Count what was just posted."""
        sources: list[SettledWindow | Adjustment] = [*posted.windows, *posted.adjustments]
        for source in sources:
            for p in source.postings:
                if p.millijoules:
                    self._add(engine, (p.account, p.phase, p.method), (p.tenant, p.model, p.tier), p.millijoules)

    def observe(self, engine: str, windows: Sequence[SettledWindow]) -> None:
        """Take windows as they settle, also those that are in the books already, for joules per token of late."""
        for window in windows:
            if not window.energy_mj or not window.busy_ns:
                continue
            recent = self._recent.get(engine)
            if recent is None or recent.boot != window.boot:
                recent = self._recent[engine] = _Recent(window.boot)
            counts = Counter({("tokens", phase): window.tokens.get(TOKENS_OF_PHASE[phase], 0) for phase in c.PHASES})
            for p in window.postings:
                if p.phase:
                    counts["millijoules", p.phase] += p.millijoules
            recent.add(window.end_ns, counts)

    def view(self) -> EnergyView:
        """As it stands."""
        engines = {name: self._engine(name, lines) for name, lines in self._lines.items() if any(lines.values())}
        return EnergyView(engines, {who: mj for who, mj in self._tenants.items() if mj})

    # ---- inside ------------------------------------------------------------------------------------

    def _add(self, engine: str, line: tuple[str, str, str], who: tuple[str, str, str], millijoules: int) -> None:
        if not millijoules:
            return
        self._lines[engine][line] += millijoules
        if line[0] in _BORNE:
            self._tenants[who] += millijoules

    def _engine(self, name: str, lines: Counter[tuple[str, str, str]]) -> EngineEnergy:
        recent = self._recent.get(name)
        sums = recent.sums if recent else Counter[tuple[str, str]]()
        pue, grams, tariff = self._rates(name)
        kwh = Fraction(sum(lines.values()), MILLIJOULES_PER_KWH) * Fraction(pue)
        return EngineEnergy(
            lines_mj=dict(lines),
            joules_per_token={
                phase: sums["millijoules", phase] / 1_000 / sums["tokens", phase]
                for phase in c.PHASES
                if sums["tokens", phase] and sums["millijoules", phase]
            },
            carbon_grams=None if grams is None else float(kwh * Fraction(grams)),
            cost_nano=None if tariff is None else int(kwh * to_nano(tariff)),
        )

    def _rates(self, engine: str) -> tuple[Decimal, Decimal | None, Decimal | None]:
        """PUE, grams of CO2 equivalent and price per kilowatt-hour that apply to an engine."""
        gpus = self._settings.gpus
        entry = next((one for one in self._settings.engines if one.name == engine), None)
        for capacity in self._settings.capacity if isinstance(entry, EngineSettings) else ():
            if entry is not None and capacity.name == entry.capacity and capacity.owned is not None:
                owned = capacity.owned
                return owned.pue, gpus.carbon_g_per_kwh, owned.usd_per_kwh or gpus.energy_usd_per_kwh
        return gpus.pue, gpus.carbon_g_per_kwh, gpus.energy_usd_per_kwh
