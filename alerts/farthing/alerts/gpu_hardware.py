"""GPU hardware alerts: a device that errs, is held back, fills up, is gone, or tells what cannot be.

All from the ``gpu:`` series, so that they hold for every exporter. What is counted or kept as "the last one" is
compared with what it was a quarter of an hour ago: counters that begin again, a source that comes back, and an error
that was there before anybody looked are no news.
"""

from __future__ import annotations

from typing import Final

from farthing.alerts.annotations import (
    DEVICE_SPEND,
    ENGINE_SPEND,
    FLEET_SPEND,
    by_instance,
    dashboard_url,
    percent_text,
)
from farthing.alerts.gpu_signals import GPU_DEVICE
from farthing.alerts.rules import TEAM_PLATFORM, TEAM_SERVING, AlertRule, RuleGroup
from farthing.domain import conventions as names
from farthing.domain.gpu import THROTTLE_POWER, THROTTLE_THERMAL
from farthing.settings import Settings
from farthing.vocabulary.gpus import XID_HARDWARE

__all__ = ["gpu_hardware"]

EVALUATION_SECONDS: Final = 30
NEWS_RANGE: Final = "15m"
"""How long an error is news."""
NEWS_SECONDS: Final = 60
"""A source that answers again within it has changed nothing."""
XID_CLEANUP: Final = 45
"""What the driver says when a process ends, or is killed, with work on the GPU: every restart of an engine does."""
HOT_RANGE: Final = "5m"
HOT_SECONDS: Final = 300
CAPPED_RANGE: Final = "15m"
CAPPED_SECONDS: Final = 3600
"""An hour: load that keeps a GPU at its limit for minutes is what the limit is for."""
CAPPED_RATIO: Final = 0.5
"""Share of the time at the limit; below, something else holds clocks down."""
FULL_SECONDS: Final = 300
LOST_RANGE: Final = "6h"
"""How long a device that is gone is missed."""
LOST_SECONDS: Final = 120
"""An exporter that restarts is back by then."""
DOWN_SECONDS: Final = 300
"""Energy waits two minutes for its samples, and an exporter that is rolled out is back by then."""
STUCK_RANGE: Final = "5m"
STUCK_SECONDS: Final = 300
WORKING_WATTS: Final = 300
"""Where the power limit is not known: no device draws as much while it waits."""

_SAME: Final = f"on ({names.LABEL_UUID})"
_SHARE: Final = "{{ $value | humanizePercentage }}"
_GPU: Final = "GPU {{ $labels.uuid }} of {{ $labels.hostname }}"


def gpu_hardware(settings: Settings) -> RuleGroup:
    """The alerts of GPUs as devices; thresholds from ``settings.alerts``."""
    return RuleGroup(
        names.GROUP_GPU_HARDWARE_ALERTS,
        (
            _xid(settings),
            _application_xid(settings),
            _ecc(settings),
            _thermal(settings),
            _power(settings),
            _memory(settings),
            _lost(settings),
            _telemetry(settings),
            _telemetry_down(settings),
        ),
        EVALUATION_SECONDS,
    )


def _hardware_code() -> str:
    return " or ".join(f"{names.REC_GPU_LAST_XID} == {code}" for code in XID_HARDWARE)


def _news_of_xid() -> str:
    """Another code than before, or one more of them: who keeps the last code alone does not show a repetition."""
    last, count = names.REC_GPU_LAST_XID, names.REC_GPU_XID_ERRORS
    return f"({last} != {last} offset {NEWS_RANGE} or {_SAME} {count} > {count} offset {NEWS_RANGE})"


def _xid(settings: Settings) -> AlertRule:
    """The driver reported an error of the device itself. Nothing inhibits it; it inhibits LLMGPUECCUncorrected."""
    return AlertRule(
        name="LLMGPUXid",
        expr=f"{names.REC_GPU_LAST_XID} > 0\nand {_SAME} ({_hardware_code()})\nand {_SAME} {_news_of_xid()}",
        for_seconds=NEWS_SECONDS,
        severity="critical",
        team=TEAM_PLATFORM,
        component="gpu",
        summary=f"{_GPU}: XID {{{{ $value }}}}, an error of the hardware",
        description=(
            f"{_GPU} ({{{{ $labels.gpu_model }}}}) reported XID {{{{ $value }}}} within a quarter of an hour, an error "
            "of the hardware: what ran on it has failed or soon will, until the GPU is reset or replaced. The engines "
            f"on it cost {DEVICE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_GPUS),
    )


def _application_xid(settings: Settings) -> AlertRule:
    """The driver reported an error that software brings about, or one of unknown kind. Nothing inhibits it."""
    count, last = names.REC_GPU_XID_ERRORS, names.REC_GPU_LAST_XID
    return AlertRule(
        name="LLMGPUApplicationXid",
        expr=(
            f"({last} > 0 or {_SAME} {count} * 0)\nand {_SAME} {_news_of_xid()}\n"
            f"unless {_SAME} ({_hardware_code()} or {last} == {XID_CLEANUP})"
        ),
        for_seconds=NEWS_SECONDS,
        severity="warning",
        team=TEAM_SERVING,
        component="gpu",
        summary=f"{_GPU}: XID {{{{ $value }}}}",
        description=(
            f"{_GPU} ({{{{ $labels.gpu_model }}}}) reported XID {{{{ $value }}}} within a quarter of an hour (0: its "
            "exporter does not tell which). It is not one of the hardware's: a kernel or the driver failed, and an "
            f"engine with it. The engines on it cost {DEVICE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_GPUS),
    )


def _ecc(settings: Settings) -> AlertRule:
    """Memory lost data that it could not put right. LLMGPUXid, which tells what is to be done, inhibits it."""
    errors = names.REC_GPU_ECC_UNCORRECTED
    return AlertRule(
        name="LLMGPUECCUncorrected",
        expr=f"{errors} - {errors} offset {NEWS_RANGE} > 0",
        for_seconds=NEWS_SECONDS,
        severity="critical",
        team=TEAM_PLATFORM,
        component="gpu",
        summary=f"{_GPU}: {{{{ $value }}}} memory errors that could not be corrected",
        description=(
            f"The memory of {_GPU} ({{{{ $labels.gpu_model }}}}) had {{{{ $value }}}} errors within a quarter of an "
            "hour that could not be corrected. The process that used it was ended, or answers with wrong numbers. The "
            f"engines on it cost {DEVICE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_GPUS),
    )


def _held_back(reason: str, over: str) -> str:
    return f'avg_over_time({names.REC_GPU_THROTTLED}{{{names.LABEL_REASON}="{reason}"}}[{over}])'


def _thermal(settings: Settings) -> AlertRule:
    """Heat holds clocks down. Nothing inhibits it; it inhibits LLMGPUPowerThrottling of the same GPU."""
    ratio = settings.alerts.gpu_thermal_ratio
    return AlertRule(
        name="LLMGPUThermalThrottling",
        expr=f"{_held_back(THROTTLE_THERMAL, HOT_RANGE)} > {ratio!r}",
        for_seconds=HOT_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="gpu",
        summary=f"{_GPU}: too hot {_SHARE} of the time",
        description=(
            f"Heat has held the clocks of {_GPU} ({{{{ $labels.gpu_model }}}}) down {_SHARE} of five minutes, and for "
            f"five minutes more; accepted are {percent_text(ratio)}. A GPU that is cooled as it should be never is. "
            f"The engines on it cost {DEVICE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_GPUS),
    )


def _power(settings: Settings) -> AlertRule:
    """The power limit takes more of the clock than load does. LLMGPUThermalThrottling of the same GPU inhibits it.

    At its limit a busy GPU belongs; what is told is a limit that leaves it a clock far below what it had within a day.
    """
    clock, ratio = names.REC_GPU_SM_CLOCK, settings.alerts.gpu_power_clock_ratio
    return AlertRule(
        name="LLMGPUPowerThrottling",
        expr=(
            f"avg_over_time({clock}[{CAPPED_RANGE}]) / max_over_time({clock}[1d]) < {ratio!r}\n"
            f"and {_SAME} {_held_back(THROTTLE_POWER, CAPPED_RANGE)} > {CAPPED_RATIO}"
        ),
        for_seconds=CAPPED_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="gpu",
        summary=f"{_GPU}: its power limit leaves it {_SHARE} of its clock",
        description=(
            f"For an hour {_GPU} ({{{{ $labels.gpu_model }}}}) has been at its power limit and run at "
            f"{_SHARE} of its highest clock of the last day; under full load it keeps more than {percent_text(ratio)}. "
            f"Its tokens take longer and cost more. The engines on it cost {DEVICE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_GPUS),
    )


def _memory(settings: Settings) -> AlertRule:
    """Next to nothing is left of device memory: the next allocation fails. Nothing inhibits it."""
    left = settings.alerts.gpu_memory_left_ratio
    return AlertRule(
        name="LLMGPUMemoryNearlyFull",
        expr=(f"1 - {names.REC_GPU_MEMORY_USED} / {_SAME} group_left () {names.REC_GPU_MEMORY_TOTAL} < {left!r}"),
        for_seconds=FULL_SECONDS,
        severity="warning",
        team=TEAM_SERVING,
        component="gpu",
        summary=f"{_GPU}: {_SHARE} of its memory is left",
        description=(
            f"{_SHARE} of the memory of {_GPU} ({{{{ $labels.gpu_model }}}}) is left, less than {percent_text(left)}. "
            "What an engine takes beforehand leaves more; the next allocation may fail and end it. The engines on it "
            f"cost {DEVICE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_GPUS),
    )


def _lost(settings: Settings) -> AlertRule:
    """A GPU that an engine ran on is gone, while other GPUs of its host are seen.

    It inhibits what follows for the engine of the same instance; alerts by model stay, since the model's other
    instances may be slow for another reason. Without another GPU on the host its telemetry is all that may be gone.
    """
    seen = names.REC_GPU_MEMORY_USED
    # its number on the host may change with a reboot; of two names of its host, by two sources, one is enough
    kept = (names.LABEL_HOST, names.LABEL_GPU_MODEL)
    known = f"group by ({', '.join((names.LABEL_UUID, *kept))}) (last_over_time({seen}[{LOST_RANGE}]))"
    gone = f"topk by ({names.LABEL_UUID}) (1, {known})\nunless {_SAME} {seen}"
    engine = names.LABEL_ENGINE
    ran = f"group by ({names.LABEL_UUID}, {engine}) (last_over_time({names.METRIC_GPU_ENGINE}[{LOST_RANGE}]))"
    brought = ", ".join(kept)
    left = f'printf "count({seen}{{{names.LABEL_HOST}=%q}})" $labels.{names.LABEL_HOST} | query | first | value'
    return AlertRule(
        name="LLMGPULost",
        expr=f"{by_instance(ran)} * {_SAME} group_left ({brought}) (\n{gone}\n)\nand on ({names.LABEL_HOST}) {seen}",
        for_seconds=LOST_SECONDS,
        severity="critical",
        team=TEAM_PLATFORM,
        component="gpu",
        summary="{{ $labels.engine }} has lost GPU {{ $labels.uuid }} of {{ $labels.hostname }}",
        description=(
            "GPU {{ $labels.uuid }} ({{ $labels.gpu_model }}) of {{ $labels.hostname }}, on which {{ $labels.engine }} "
            f"ran, is not seen any more; GPUs of the host that still are: {{{{ {left} }}}}. "
            f"{{{{ $labels.engine }}}} costs {ENGINE_SPEND}, whether it works without the GPU or not."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_GPUS),
    )


def _telemetry(settings: Settings) -> AlertRule:
    """What is told of a GPU cannot be: it draws power as one that works, and is said to do nothing.

    Nothing inhibits it. Farthing finds out by itself of the devices that it reads; of others the series tell. A
    sentinel is left out wherever it shows, and is no trouble of the device: nobody is told.
    """
    fault, power = names.LABEL_FAULT, names.REC_GPU_POWER
    known = f'{names.METRIC_GPU_FAULT}{{{fault}!="{names.FAULT_SENTINEL}"}} == 1'
    draws = f"min_over_time({power}[{STUCK_RANGE}])"
    works = (
        f"({draws} > {_SAME} group_left () {names.REC_GPU_POWER_LIMIT} * {settings.alerts.gpu_working_ratio!r}\n"
        f"or {draws} > {WORKING_WATTS} unless {_SAME} {names.REC_GPU_POWER_LIMIT})"
    )
    stuck = f"max_over_time({names.REC_GPU_UTILIZATION}[{STUCK_RANGE}]) == bool 0 == 1\nand {_SAME} {works}"
    named = f'label_replace(\n{stuck}\n, "{fault}", "{names.FAULT_STUCK_UTILIZATION}", "{names.LABEL_UUID}", ".*")'
    draw = f'printf "{power}{{{names.LABEL_UUID}=%q}}" $labels.{names.LABEL_UUID} | query'
    watts = f'{{{{ with {draw} }}}}{{{{ . | first | value | printf "%.0f" }}}}{{{{ else }}}}unknown{{{{ end }}}} W'
    return AlertRule(
        name="LLMGPUTelemetryStuck",
        expr=f"max by ({', '.join((*GPU_DEVICE, fault))}) ({known})\nor on ({names.LABEL_UUID}, {fault})\n{named}",
        for_seconds=STUCK_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="gpu",
        summary=f"{_GPU}: its telemetry cannot be right ({{{{ $labels.fault }}}})",
        description=(
            f"What is told of {_GPU} ({{{{ $labels.gpu_model }}}}) cannot be right: {{{{ $labels.fault }}}} is "
            f"{{{{ $value }}}}, at a power of {watts}. Above {percent_text(settings.alerts.gpu_working_ratio)} of its "
            "power limit a GPU works. Whoever goes by its utilization sees it idle. The engines on it cost "
            f"{DEVICE_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_GPUS),
    )


def _telemetry_down(settings: Settings) -> AlertRule:
    """Nobody reads some GPUs now. Nothing inhibits it: of a driver or exporter that is gone it is the only word."""
    source = names.LABEL_SOURCE
    exporter = f'up{{{names.LABEL_JOB}="{names.JOB_GPUS}"}} == 0'
    named = f'label_replace({exporter}, "{source}", "$1", "{names.LABEL_INSTANCE}", "(.*)")'
    return AlertRule(
        name="LLMGPUTelemetryDown",
        expr=f"max by ({source}) ({names.METRIC_GPU_SOURCE_UP}) == 0\nor max by ({source}) ({named}) == 0",
        for_seconds=DOWN_SECONDS,
        severity="warning",
        team=TEAM_PLATFORM,
        component="gpu",
        summary=f"No GPU is read from {{{{ $labels.{source} }}}} any more",
        description=(
            f"{{{{ $labels.{source} }}}} has not told of its GPUs for five minutes (up is {{{{ $value }}}}): their "
            "energy, faults and throttling are unknown, and GPUs that no engine has are not billed meanwhile. The "
            f"fleet costs {FLEET_SPEND}."
        ),
        dashboard=dashboard_url(settings, names.DASHBOARD_GPUS),
    )
