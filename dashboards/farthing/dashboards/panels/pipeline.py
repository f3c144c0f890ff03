"""Panels about Farthing's own work: is it there, does it keep up, does everything reach it."""

from __future__ import annotations

from typing import Final

from farthing.dashboards import links, self_queries, theme
from farthing.dashboards.look import BROKEN, CALM, CAREFUL
from farthing.dashboards.parts import Band, Column, Link, Panel, Query
from farthing.domain import conventions as names
from farthing.settings import Settings

__all__ = [
    "alerts",
    "checks_over_time",
    "gpu_records",
    "gpu_sources",
    "intake",
    "late_cost",
    "probes",
    "probes_reporting",
    "rules",
    "scrapes",
    "self_up",
    "trust_by_engine",
    "unexplained_by_reason",
    "version",
    "watermark_lag_by_engine",
    "watermark_lag_worst",
]

USD: Final = "currencyUSD"
_BY_ENGINE: Final = (names.LABEL_ENGINE,)
_UP: Final = (Band(1, "fine"),)
_ANY: Final = (Band(1, "broken"),)


def self_up() -> Panel:
    """Whether Farthing answers."""
    return theme.verdicts(
        "Farthing",
        "Whether Prometheus' last scrape of Farthing succeeded. Broken: nothing below is of now, and records wait in "
        "the probes until it is back; start it by the runbook. Unknown: no target has the job farthing.",
        [Query(self_queries.answering(), "answers")],
        panel_links=(links.runbook("FarthingTargetDown"), links.runbook("FarthingAbsent")),
    )


def rules() -> Panel:
    """Whether Prometheus evaluates the rules."""
    return theme.verdicts(
        "Rules and alerts",
        "Whether the alert that always fires does: Prometheus then scrapes Farthing and evaluates its rules. Unknown "
        "for more than a minute: rules are not loaded or not evaluated, and no alert arrives.",
        [Query(self_queries.rules_evaluated(), "evaluated")],
        panel_links=(links.runbook("FarthingWatchdog"),),
    )


def version() -> Panel:
    """Which version answers."""
    return theme.number(
        "Version",
        "Version of Farthing and currency of its ledger, and how many answer with them. Two versions for longer than a "
        "rollout takes: one of them writes a ledger that the other does not know. See the runbook.",
        "none",
        [Query(self_queries.versions(), "{{version}} {{currency}}")],
        panel_links=(links.runbook("FarthingVersionSkew"),),
    )


def watermark_lag_worst(settings: Settings) -> Panel:
    """How far behind the engine furthest behind is."""
    return theme.number(
        "Books are behind by",
        "Age of the latest moment whose cost is known, of the engine furthest behind. In the red the alert fires: an "
        "engine's records do not arrive, or Farthing does not keep up. The graph below tells which.",
        "s",
        [Query(self_queries.of_engines(names.METRIC_WATERMARK_LAG, "max", ()))],
        bands=_lag_bands(settings),
        decimals=0,
        panel_links=(links.runbook("FarthingWatermarkStale"), links.runbook("FarthingBooksStalled")),
    )


def probes_reporting() -> Panel:
    """How many probes report."""
    on, known = self_queries.probes_of_engines()
    return theme.number(
        "Probes",
        "Probes in the chosen engines that report, and all there are. Fewer on than known: a kill switch is set, and "
        "what is done meanwhile is on nobody's books. Unknown: no engine has one; costs are then read from counters.",
        "none",
        [Query(on, "on"), Query(known, "known")],
        panel_links=(links.runbook("FarthingProbeOff"), links.runbook("FarthingProbeMissing")),
    )


def alerts() -> Panel:
    """Alerts about Farthing that fire."""
    keys = {"alertname": "Alert", names.LABEL_INSTANCE: "Instance", names.LABEL_ENGINE: "Engine"}
    return theme.listing(
        "Which alerts about Farthing fire?",
        "Alerts about Farthing, its probes and the scrapes. Empty: none fires. Begin with the uppermost that names no "
        "engine: what is wrong with Farthing itself explains the rest. A click on its name tells what to do.",
        keys,
        (Column("Firing", "none", self_queries.alerts_about_farthing(tuple(keys))),),
        row_links={"alertname": Link("What to do", f"{names.RUNBOOK_BASE}${{__value.raw}}.md")},
        footer=False,
        unknown="none",
    )


def watermark_lag_by_engine(settings: Settings) -> Panel:
    """How far each engine's books are behind, over time."""
    return theme.over_time(
        "How far the books are behind",
        "By engine; the dashed line is where the alert fires. One engine climbs by a second a second: its records do "
        "not arrive, see its probe below. All climb: Farthing is too slow or its database is away. Saws are windows "
        "that settle.",
        "s",
        [Query(self_queries.of_engines(names.METRIC_WATERMARK_LAG, "max"), "{{engine}}")],
        bands=(Band(settings.alerts.watermark_lag_seconds, "broken"),),
        panel_links=(links.runbook("FarthingWatermarkStale"),),
    )


def intake() -> Panel:
    """Records that come in, by what became of them."""
    return theme.over_time(
        "Records received per second",
        "By result. Accepted follows the traffic. Duplicate: a probe sent again what had arrived, harmless. Refused: "
        "what they tell of is on nobody's books, compare versions. Limited: told to come later, after an outage as it "
        "should be; for long, raise the limit.",
        "suffix: rec/s",
        [Query(self_queries.intake(), "{{result}}")],
        stacked=True,
        colours={"accepted": CALM, "duplicate": "blue", "limited": CAREFUL, "refused": BROKEN},
        panel_links=(links.runbook("FarthingIntakeRefusing"), links.runbook("FarthingIntakeLimiting")),
    )


def probes() -> Panel:
    """Every probe: what waits, what is lost."""
    return theme.listing(
        "Every probe",
        "What each engine's probe holds and what it lost within the time range. Spooled: it does not reach Farthing; "
        "see intake and the network. Given up or refused: gone, and their cost becomes unattributed. Errors: the "
        "probe's own, worth a report; requests go on.",
        {names.LABEL_INSTANCE: "Instance"},
        (
            Column("Spooled", "bytes", self_queries.of_probes(names.PROBE_SPOOLED), (Band(1, "careful"),)),
            Column("Waiting in memory", "short", self_queries.of_probes(names.PROBE_WAITING)),
            Column("Sent in range", "short", self_queries.probe_growth(names.PROBE_SENT), decimals=0),
            Column("Tried again in range", "short", self_queries.probe_growth(names.PROBE_FAILURES), decimals=0),
            Column("Given up in range", "short", self_queries.probe_growth(names.PROBE_DROPPED), _ANY, decimals=0),
            Column("Refused in range", "short", self_queries.probe_growth(names.PROBE_REFUSED), _ANY, decimals=0),
            Column("Errors in range", "short", self_queries.probe_growth(names.PROBE_ERRORS), _ANY, decimals=0),
        ),
        row_links={names.LABEL_INSTANCE: links.of_cell(names.DASHBOARD_ENGINE, "This engine", "instance")},
        panel_links=(
            links.runbook("FarthingProbeSpooling"),
            links.runbook("FarthingProbeDropping"),
            links.runbook("FarthingProbeErring"),
        ),
    )


def scrapes() -> Panel:
    """Whether Farthing reaches the engines."""
    return theme.history(
        "Does Farthing reach the engines?",
        "Farthing's own scrapes of each engine, green where the last one succeeded. Red: the engine is down, or its "
        "URL or key in farthing.yaml is wrong; without a probe its work is not costed meanwhile.",
        "none",
        Query(self_queries.of_engines(names.METRIC_SCRAPE_UP, "max"), "{{engine}}"),
        full=1,
        bands=_UP,
        low="broken",
        panel_links=(links.runbook("FarthingScrapeFailing"),),
    )


def gpu_sources() -> Panel:
    """Whether the sources of GPU readings answer."""
    return theme.verdicts(
        "GPU readings",
        "Whether each source of GPU readings answered last time, everywhere. Broken: its devices' energy and idle time "
        "are not seen; see whether the driver or the exporter runs. Unknown: no source is configured.",
        [Query(self_queries.of_farthing(names.METRIC_GPU_SOURCE_UP, "min", (names.LABEL_SOURCE,)), "{{source}}")],
        panel_links=(links.runbook("LLMGPUTelemetryDown"),),
    )


def gpu_records() -> Panel:
    """Records of devices that wait or were dropped."""
    return theme.number(
        "GPU records",
        "Records of devices that wait to be stored or delivered, and that were dropped within the time range. "
        "Waiting grows: the database or Farthing is away. Dropped: what was used is still known, only not when.",
        "short",
        [
            Query(self_queries.of_farthing(names.METRIC_GPU_WAITING, "sum"), "waiting"),
            Query(self_queries.dropped_in_range(), "dropped in range"),
        ],
        decimals=0,
    )


def checks_over_time() -> Panel:
    """Reconciliations over time, each the worst of the chosen engines."""
    return theme.history(
        "Reconciliations over time",
        "Each check, of the engine that fares worst: green agrees, red does not. Red for minutes between a record and "
        "its counterpart is usual; longer, charge nothing of that engine until the reason is found: `farthing report`.",
        "none",
        Query(self_queries.of_engines(names.METRIC_CHECK, "min", (names.LABEL_CHECK,)), "{{check}}"),
        full=1,
        bands=_UP,
        low="broken",
        panel_links=(links.runbook("FarthingReconciliationRed"),),
    )


def trust_by_engine(settings: Settings) -> Panel:
    """What is known of how right each engine's numbers are."""
    return theme.listing(
        "How far can each engine's numbers be trusted?",
        "Behind: age of its latest known cost. Unattributed: part of its busy cost in range that no request explained "
        "at first. Residual: bill minus every line, exactly 0 or a defect. Fit error: how far off the split into "
        "phases is when it predicts busy time; above 20 % read unit costs by phase with care.",
        {names.LABEL_ENGINE: "Engine"},
        (
            Column(
                "Behind",
                "s",
                self_queries.of_engines(names.METRIC_WATERMARK_LAG, "max"),
                _lag_bands(settings),
                decimals=0,
            ),
            Column(
                "Unattributed",
                "percentunit",
                self_queries.unexplained(),
                (Band(settings.alerts.unattributed_ratio, "broken"),),
                decimals=2,
                unknown="none",
            ),
            Column("Residual", USD, self_queries.of_engines(names.METRIC_RESIDUAL, "sum"), decimals=2),
            Column("Fit error", "percentunit", self_queries.of_engines(names.METRIC_FIT_ERROR, "max"), decimals=1),
            Column("Work in progress", USD, self_queries.of_engines(names.METRIC_WIP, "sum"), decimals=4),
            Column(
                "Failed scrapes in range",
                "short",
                self_queries.growth(names.METRIC_SCRAPE_FAILURES, _BY_ENGINE),
                decimals=0,
            ),
        ),
        row_links={names.LABEL_ENGINE: links.of_cell(names.DASHBOARD_ENGINE, "This engine", "instance")},
        panel_links=(links.runbook("FarthingUnattributedHigh"), links.runbook("FarthingResidualNotZero")),
        footer=False,
    )


def unexplained_by_reason() -> Panel:
    """Cost that no request explained, by reason, in the time range."""
    return theme.bars(
        "Unattributed cost in range, by reason",
        "Busy cost that no request explained at first. lost_record: records did not arrive, see the probes above. "
        "unmetered: traffic that bypasses the probe. engine_failure: the platform's own. None: all was explained.",
        USD,
        [Query(self_queries.growth(names.METRIC_UNATTRIBUTED, (names.LABEL_REASON,)), "{{reason}}")],
        unknown="none",
        decimals=4,
        panel_links=(links.runbook("FarthingUnattributedHigh"),),
    )


def late_cost() -> Panel:
    """Cost that late records explained after all."""
    return theme.number(
        "Explained late, in range",
        "Unattributed cost that records which came late gave to the tenants whose work it was. Much of it: probes were "
        "cut off for longer than Farthing waits; raise the grace period or mend the network. None: nothing was late.",
        USD,
        [Query(self_queries.growth(names.METRIC_LATE, ()))],
        decimals=4,
        unknown="none",
    )


def _lag_bands(settings: Settings) -> tuple[Band, ...]:
    lag = settings.alerts.watermark_lag_seconds
    return (Band(lag / 5, "careful"), Band(lag, "broken"))
