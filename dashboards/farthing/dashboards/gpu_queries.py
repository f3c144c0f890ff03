"""The PromQL of devices and their energy, over what the reader chose.

A device is known by its UUID. Engines are joined to it by ``farthing_gpu_engine_info``, of which a device has one
series per engine that runs on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.dashboards.queries import DRIVER, known
from farthing.dashboards.scopes import BOOKS, ENGINE_MODELS, ENGINES, GPUS, INTERVAL, RANGE
from farthing.domain import conventions as names
from farthing.promql.scope import by

__all__ = [
    "DEVICE",
    "allocated",
    "devices",
    "energy_in_range",
    "energy_per_token",
    "energy_power",
    "faults",
    "gauge",
    "growth",
    "idle_price",
    "of_allocated",
    "of_idle",
    "share",
    "sources",
    "throttled",
    "tokens_per_joule",
]

DEVICE: Final = (names.LABEL_HOST, names.LABEL_DEVICE, names.LABEL_GPU_MODEL)
"""Labels that tell a reader which device it is."""

_WHOLE: Final = f'{names.LABEL_KIND}="gpu"'
"""Neither slices of one nor processors."""
_CHOSEN: Final = f'{names.LABEL_ENGINE}=~"$instance"'
_NO_FAULT: Final = f'{names.LABEL_REASON}!="idle"'
"""An idle GPU lowers its clocks by itself."""


def devices() -> str:
    """Number of GPUs that are read; a GPU that two sources read is one."""
    return f"count(count by ({names.LABEL_UUID}) ({GPUS.now(names.METRIC_GPU_INFO, _WHOLE)}))"


def allocated() -> str:
    """Number of GPUs that engines have."""
    return f"count(count by ({names.LABEL_UUID}) ({GPUS.now(names.METRIC_GPU_ENGINE, _CHOSEN)}))"


def gauge(record: str, operation: str, group: Sequence[str] = ()) -> str:
    """A recorded ``gpu:`` series of the chosen devices, aggregated by ``group``."""
    return f"{operation}{by(group)}({GPUS.now(record)})"


def share(part: str, whole: str, group: Sequence[str] = ()) -> str:
    """Part (0-1) of ``whole`` that ``part`` is, added up over devices that tell both."""
    both = f"{GPUS.now(part)} and on ({names.LABEL_UUID}) {whole}"
    beside = f"{GPUS.now(whole)} and on ({names.LABEL_UUID}) {part}"
    return known(f"sum{by(group)}({both}) / sum{by(group)}({beside})")


def growth(record: str, group: Sequence[str] = ()) -> str:
    """How much a recorded ``gpu:`` count grew within the time range."""
    return f"sum{by(group)}({GPUS.over('increase', RANGE, record)})"


def throttled() -> str:
    """Number of devices whose clocks are held down now, by reason."""
    return f"sum by ({names.LABEL_REASON}) ({GPUS.now(names.REC_GPU_THROTTLED, _NO_FAULT)})"


def idle_price() -> str:
    """Dollars per hour of GPUs that no engine has."""
    return f"sum({GPUS.now(names.METRIC_GPU_UNALLOCATED)})"


def of_allocated(value: str) -> str:
    """``value`` (one series a device) of every device that an engine has, once for each of its engines."""
    group = (names.LABEL_ENGINE, *DEVICE)
    whose = GPUS.now(names.METRIC_GPU_ENGINE, _CHOSEN)
    return f"max{by(group)}(({whose}) * on ({names.LABEL_UUID}) group_left () max by ({names.LABEL_UUID}) ({value}))"


def of_idle(value: str) -> str:
    """``value`` of every device that no engine has."""
    return f"max{by(DEVICE)}({value} and on ({names.LABEL_UUID}) {names.METRIC_GPU_UNALLOCATED})"


def sources() -> str:
    """1 per source of readings that answers, else 0."""
    return f"min by ({names.LABEL_SOURCE}) ({BOOKS.now(names.METRIC_GPU_SOURCE_UP)})"


def faults() -> str:
    """Number of devices whose telemetry cannot be believed now, by fault."""
    return f"sum by ({names.LABEL_FAULT}) ({GPUS.now(names.METRIC_GPU_FAULT)})"


def energy_in_range(metric: str) -> str:
    """Growth within the time range of an energy, its carbon or its cost, of the chosen engines."""
    return f"sum({ENGINES.over('increase', RANGE, metric)})"


def energy_power(group: Sequence[str]) -> str:
    """Watts: joules a second of settled work, by account or phase."""
    return f"sum{by(group)}({ENGINES.over('rate', INTERVAL, names.METRIC_PHASE_ENERGY)})"


def energy_per_token(phase: str) -> str:
    """Joules per token of the phase's kind, of work settled lately; empty without such tokens."""
    energy = ENGINES.over("rate", INTERVAL, names.METRIC_PHASE_ENERGY, f'{names.LABEL_PHASE}="{phase}"')
    return f"sum({energy}) / ({_token_rate(DRIVER[phase])} > 0)"


def tokens_per_joule(kind: str) -> str:
    """Tokens of a kind by all joules that the engines took, of work settled lately: also tokens a second per watt."""
    energy = f"sum({ENGINES.over('rate', INTERVAL, names.METRIC_ENERGY)})"
    return f"{_token_rate(kind)} / ({energy} > 0)"


def _token_rate(kind: str) -> str:
    of_kind = f'{names.LABEL_KIND}="{kind}"'
    return f"sum({ENGINE_MODELS.over('rate', INTERVAL, names.METRIC_TOKENS, of_kind)})"
