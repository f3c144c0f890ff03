"""What Farthing's own dashboard asks: of Farthing, of the probes in engines, of the books."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.dashboards.queries import engine_gauge, known
from farthing.dashboards.scopes import BOOKS, ENGINES, INTERVAL, RANGE, TARGETS
from farthing.domain import conventions as names
from farthing.promql.money import unattributed_share
from farthing.promql.scope import by, equals

__all__ = [
    "alerts_about_farthing",
    "answering",
    "dropped_in_range",
    "growth",
    "intake",
    "of_engines",
    "of_farthing",
    "of_probes",
    "probe_growth",
    "probes_of_engines",
    "rules_evaluated",
    "unexplained",
    "versions",
]

WATCHDOG: Final = "FarthingWatchdog"
"""The alert that always fires while rules are evaluated and Farthing is a target."""
OF_FARTHING: Final = "pipeline|probe"
"""Components of alerts that are about Farthing itself."""


def answering() -> str:
    """1 while Farthing's last scrape succeeded, else 0."""
    return f"min({BOOKS.now('up', _of_job(names.JOB_FARTHING))})"


def rules_evaluated() -> str:
    """1 while Prometheus evaluates Farthing's rules."""
    fires = BOOKS.now("ALERTS", f'alertname="{WATCHDOG}"', 'alertstate="firing"')
    return f"max({fires})"


def versions() -> str:
    """Which version of Farthing answers, and its ledger's currency."""
    return f"count{by((names.LABEL_VERSION, names.LABEL_CURRENCY))}({BOOKS.now(names.METRIC_BUILD)})"


def alerts_about_farthing(group: Sequence[str]) -> str:
    """Alerts about Farthing that fire now."""
    chosen = ('alertstate="firing"', f'{names.LABEL_COMPONENT}=~"{OF_FARTHING}"', f'alertname!="{WATCHDOG}"')
    return f"count{by(group)}({BOOKS.now('ALERTS', *chosen)})"


def of_farthing(metric: str, operation: str, group: Sequence[str] = ()) -> str:
    """A gauge of Farthing's that no engine has."""
    return f"{operation}{by(group)}({BOOKS.now(metric)})"


def of_engines(metric: str, operation: str, group: Sequence[str] = (names.LABEL_ENGINE,)) -> str:
    """A gauge of Farthing's by engine, of the chosen engines."""
    return engine_gauge(metric, operation, group)


def growth(metric: str, group: Sequence[str]) -> str:
    """How much a counter of Farthing's by engine grew within the time range."""
    return f"sum{by(group)}({ENGINES.over('increase', RANGE, metric)})"


def dropped_in_range() -> str:
    """Records of devices that were given up within the time range."""
    return f"sum({BOOKS.over('increase', RANGE, names.METRIC_GPU_DROPPED)})"


def intake() -> str:
    """Records that came in, per second, by what became of them."""
    return f"sum{by((names.LABEL_RESULT,))}({BOOKS.over('rate', INTERVAL, names.METRIC_INTAKE)})"


def of_probes(metric: str) -> str:
    """A gauge of the probes in the chosen engines, by instance."""
    return f"max{by((names.LABEL_INSTANCE,))}({_probes(metric)})"


def probe_growth(metric: str) -> str:
    """How much a counter of the probes grew within the time range, by instance."""
    grown = TARGETS.over("increase", RANGE, metric, _of_job(names.JOB_ENGINES))
    return f"sum{by((names.LABEL_INSTANCE,))}({grown})"


def probes_of_engines() -> tuple[str, str]:
    """Probes that report, and probes there are."""
    return f"sum({_probes(names.PROBE_ON)})", f"count({_probes(names.PROBE_ON)})"


def unexplained() -> str:
    """Part of the busy cost settled lately that no request explained at first, by engine."""
    return known(unattributed_share(ENGINES, RANGE))


def _probes(metric: str) -> str:
    return TARGETS.now(metric, _of_job(names.JOB_ENGINES))


def _of_job(job: str) -> str:
    return equals(names.LABEL_JOB, job)
