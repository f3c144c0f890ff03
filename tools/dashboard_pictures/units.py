"""Numbers as Grafana would write them, for the units that the dashboards use."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

__all__ = ["text_of", "tick_format"]

_DECIMAL: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY: Final = ((2.0**40, "Ti"), (2.0**30, "Gi"), (2.0**20, "Mi"), (2.0**10, "Ki"))
_SUFFIX: Final = {
    "reqps": " req/s",
    "watt": " W",
    "joule": " J",
    "hertz": "Hz",
    "celsius": " °C",
    "Bps": "B/s",
    "binBps": "B/s",
    "bytes": "B",
    "decbytes": "B",
    "s": " s",
    "massg": " g",
    "percent": " %",
}


def text_of(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit; ``NaN`` of nothing by nothing as such."""
    if math.isnan(value):
        return "NaN"
    if unit == "percentunit":
        return f"{value * 100:.{1 if decimals is None else decimals}f}%"
    if unit.startswith("currency"):
        return f"${_scaled(value, 2 if decimals is None else decimals, _DECIMAL)}"
    if unit in {"s", "dtdurations"}:
        return _duration(value)
    if unit.startswith("dateTime"):
        return f"{datetime.fromtimestamp(value / 1_000, UTC):%Y-%m-%d %H:%M}"
    suffix = unit[len("suffix:") :] if unit.startswith("suffix:") else _SUFFIX.get(unit, "")
    number = _scaled(value, decimals, _BINARY if unit in {"bytes", "binBps"} else _DECIMAL)
    return number + (suffix.strip() if number[-1].isalpha() else suffix)


def tick_format(unit: str) -> tuple[str, str]:
    """(d3 format, suffix) of an axis."""
    if unit == "percentunit":
        return ".0%", ""
    if unit.startswith("currency"):
        return "$~g", ""
    if unit.startswith("suffix:"):
        return "~s", unit[len("suffix:") :]
    return "~s", _SUFFIX.get(unit, "")


def _scaled(value: float, decimals: int | None, scale: tuple[tuple[float, str], ...]) -> str:
    for size, letter in scale:
        if abs(value) >= size:
            return f"{value / size:.{2 if decimals is None else decimals}f} {letter}"
    if decimals is None:
        decimals = 0 if value == int(value) else max(0, min(4, 2 - math.floor(math.log10(abs(value)))))
    return f"{value:.{decimals}f}"


def _duration(value: float) -> str:
    if abs(value) < 1e-3 and value:
        return f"{value * 1e6:.0f} µs"
    if abs(value) < 1 and value:
        return f"{value * 1e3:.3g} ms"
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "min")):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g} s"
