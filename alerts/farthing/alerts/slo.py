"""Service levels: how much of what was promised is kept, how fast the error budget burns, and who must know.

Every SLO's good and all requests are recorded as rates over five minutes; whatever is longer adds those up, weighted by
traffic, so that no rule reads days of raw samples. Where there were no requests there is no ratio: no data is not good
data, and it is no bad data either.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from farthing.alerts.annotations import MODEL_SPEND, dashboard_url, seconds_text
from farthing.alerts.rules import TEAM_SERVING, AlertRule, RecordingRule, RuleGroup, Severity
from farthing.alerts.slo_burn import BURN_RATES, ERROR_RATIOS, MINIMUM_BAD, PAIRS, STEPS, Pair, reason, threshold
from farthing.alerts.slo_events import all_requests, good_requests
from farthing.domain import conventions as names
from farthing.settings import Settings
from farthing.settings_slo import SloSettings

__all__ = ["BURNING_FAST", "BURNING_SLOWLY", "slo", "slo_budget"]

BURNING_FAST: Final = "SLOErrorBudgetBurningFast"
BURNING_SLOWLY: Final = "SLOErrorBudgetBurningSlowly"

INTERVAL_SECONDS: Final = 30
"""Half of the shortest step by which windows are added up."""
BUDGET_INTERVAL_SECONDS: Final = 300
"""Of what days make: nothing in it changes within minutes, and it reads the most."""
DAY_SECONDS: Final = 86_400
FAST_SECONDS: Final = 120
SLOW_SECONDS: Final = 900

_FAST_WINDOWS: Final = ("5m", "30m", "1h", "6h")
_SLOW_WINDOWS: Final = ("2h", "1d", "3d")
_ON_SLO: Final = f"on ({names.LABEL_SLO}) group_left"

PROMISES: Final = {
    names.SLO_TTFT: "a first token within {bound}",
    names.SLO_E2E: "a whole answer within {bound}",
    names.SLO_ITL: "tokens at most {bound} apart",
    names.SLO_QUEUE: "at most {bound} in the queue",
    names.SLO_AVAILABILITY: "an answer",
}


def slo(settings: Settings) -> RuleGroup:
    """What every SLO counts, its short windows, and the alert that pages."""
    slos = settings.objectives
    rules: list[RecordingRule | AlertRule] = []
    for one in slos:
        rules += _constants(one)
        rules.append(RecordingRule(names.REC_SLO_GOOD, good_requests(one), one.labels))
        rules.append(RecordingRule(names.REC_SLO_EVENTS, all_requests(one), one.labels))
    if slos:
        # Both rates are extrapolated on their own: a difference below 0 is a rounding, not a request.
        bad = f"clamp_min({names.REC_SLO_EVENTS} - {names.REC_SLO_GOOD}, 0)"
        rules.append(RecordingRule(names.REC_SLO_BAD, bad))
        rules += _ratios(_FAST_WINDOWS)
        rules.append(_burning(settings, BURNING_FAST, "critical", FAST_SECONDS))
    return RuleGroup(names.GROUP_SLO, tuple(rules), INTERVAL_SECONDS)


def slo_budget(settings: Settings) -> RuleGroup:
    """The long windows, what is left of each error budget, and the alert that is a ticket."""
    slos = settings.objectives
    rules: list[RecordingRule | AlertRule] = []
    if slos:
        rules += _ratios(_SLOW_WINDOWS)
        rules += _windows(slos)
        left = f"1 - {names.REC_SLO_ERROR_WINDOW} / {_ON_SLO} {names.REC_SLO_BUDGET}"
        rules.append(RecordingRule(names.REC_SLO_BUDGET_LEFT, left))
        rules.append(_burning(settings, BURNING_SLOWLY, "warning", SLOW_SECONDS))
    return RuleGroup(names.GROUP_SLO_BUDGET, tuple(rules), BUDGET_INTERVAL_SECONDS)


def promise(one: SloSettings) -> str:
    """What is promised, as people read it: ``a first token within 0.5 s``."""
    bound = "" if one.bound_seconds is None else seconds_text(one.bound_seconds)
    return PROMISES[one.signal].format(bound=bound)


def _constants(one: SloSettings) -> list[RecordingRule]:
    """Objective, error budget, window, thresholds: numbers of farthing.yaml that rules and dashboards join by name."""
    label = {names.LABEL_SLO: one.name}
    rules = [
        RecordingRule(
            names.REC_SLO_OBJECTIVE, f"vector({one.objective:f})", {**label, names.LABEL_PROMISE: promise(one)}
        ),
        RecordingRule(names.REC_SLO_BUDGET, f"vector({one.error_budget:f})", label),
        RecordingRule(names.REC_SLO_WINDOW, f"vector({one.window_days * DAY_SECONDS})", label),
    ]
    for pair in PAIRS:
        why = reason(pair, one.objective)
        told = {**label, names.LABEL_REASON: why} if why else label
        rules.append(RecordingRule(pair.record, f"vector({threshold(pair, one.objective):f})", told))
    return rules


def _ratios(windows: tuple[str, ...]) -> list[RecordingRule]:
    """Share of bad requests, and burn rate, of every SLO over each window."""
    rules = []
    for window in windows:
        bad, every = names.REC_SLO_BAD, names.REC_SLO_EVENTS
        if window in STEPS:
            bad, every = (f"sum_over_time({rate}[{window}:{STEPS[window]}])" for rate in (bad, every))
        ratio = ERROR_RATIOS[window]
        rules.append(RecordingRule(ratio, f"{bad} / ({every} > 0)"))
        rules.append(RecordingRule(BURN_RATES[window], f"{ratio} / {_ON_SLO} {names.REC_SLO_BUDGET}"))
    return rules


def _windows(slos: tuple[SloSettings, ...]) -> list[RecordingRule]:
    """Share of bad requests over each SLO's own window: as much of it as Prometheus keeps."""
    by_days: defaultdict[int, list[str]] = defaultdict(list)
    for one in slos:
        by_days[one.window_days].append(one.name)
    rules = []
    for days, members in sorted(by_days.items()):
        chosen = f'{{{names.LABEL_SLO}=~"{"|".join(members)}"}}[{days}d:5m]'
        bad, every = (f"sum_over_time({rate}{chosen})" for rate in (names.REC_SLO_BAD, names.REC_SLO_EVENTS))
        window = {names.LABEL_WINDOW: f"{days}d"}
        rules.append(RecordingRule(names.REC_SLO_ERROR_WINDOW, f"{bad} / ({every} > 0)", window))
    return rules


def _burns(pair: Pair) -> str:
    """Both windows of a pair above its threshold, and enough bad requests; the value is the long window's burn rate."""
    return (
        f"({BURN_RATES[pair.long]} > {_ON_SLO} {pair.record}\n"
        f"  and {BURN_RATES[pair.short]} > {_ON_SLO} {pair.record}\n"
        f"  and {pair.bad_requests} >= {MINIMUM_BAD})"
    )


def _burning(settings: Settings, name: str, severity: Severity, for_seconds: int) -> AlertRule:
    """Of every SLO at once. The fast one inhibits the slow one of the same SLO and model."""
    series = f"{names.LABEL_SLO}=%q,{names.LABEL_MODEL}=%q"
    objective = f'printf "{names.REC_SLO_OBJECTIVE}{{{names.LABEL_SLO}=%q}}" $labels.slo | query'
    left = f'printf "{names.REC_SLO_BUDGET_LEFT}{{{series}}}" $labels.slo $labels.model | query'
    pairs = [pair for pair in PAIRS if pair.severity == severity]
    return AlertRule(
        name=name,
        expr="\nor\n".join(_burns(pair) for pair in pairs),
        for_seconds=for_seconds,
        severity=severity,
        team=TEAM_SERVING,
        component="slo",
        summary=(
            '{{ $labels.model }}: {{ $labels.slo }} burns its error budget {{ $value | printf "%.1f" }} times too fast'
        ),
        description=(
            f"{{{{ with {objective} }}}}Promised to {{{{ . | first | value | humanizePercentage }}}} of requests: "
            f'{{{{ . | first | label "{names.LABEL_PROMISE}" }}}}. {{{{ end }}}}'
            f"Over the last {' or '.join(pair.long for pair in pairs)} so many missed it that the budget burns "
            '{{ $value | printf "%.1f" }} times as fast as it may. '
            f"Left of the budget: {{{{ with {left} }}}}{{{{ . | first | value | humanizePercentage }}}}{{{{ else }}}}"
            f"unknown{{{{ end }}}}. The engines of this model cost {MODEL_SPEND} while it lasts."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_SLO, by_model=True),
    )
