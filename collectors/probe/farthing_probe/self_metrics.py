"""The probe's own series on the engine's ``/metrics``, through the prometheus_client that vLLM brings.

vLLM sets up that library's multi-process mode where it runs several API servers, so these add up over them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farthing_probe.probe import Probe

__all__ = ["SelfMetrics"]

COUNTS = {
    "sent": "Records that intake took",
    "dropped": "Records given up for want of room, or refused as a whole",
    "refused": "Records that intake refused by name",
    "failures": "Deliveries that failed and were tried again",
}
SPAN_COUNTS = {
    "spans_sent": ("sent", "Edge spans that a collector took"),
    "spans_dropped": ("dropped", "Edge spans given up for want of room, or that no collector took"),
    "span_failures": ("failures", "Posts of edge spans that no collector took"),
}


class SelfMetrics:
    """Counters and gauges, made at the first update; without prometheus_client there are none."""

    def __init__(self) -> None:
        self._counters: dict[str, Any] | None = None
        self._gauges: dict[str, Any] = {}
        self._seen: dict[str, int] = {}

    def update(self, probe: Probe) -> None:
        """Bring the series up to date; called from one thread."""
        if self._counters is None:
            self._make()
        delivery = probe.delivery
        totals = {name: int(getattr(delivery.counts, name)) for name in COUNTS}
        totals["errors"] = probe.errors
        for name, (count, _) in SPAN_COUNTS.items():
            totals[name] = 0 if probe.spans is None else int(getattr(probe.spans.counts, count))
        for name, counter in (self._counters or {}).items():
            counter.inc(max(0, totals[name] - self._seen.get(name, 0)))
            self._seen[name] = totals[name]
        values = {"on": int(probe.on), "waiting": delivery.waiting, "spooled": delivery.spooled_bytes}
        for name, gauge in self._gauges.items():
            gauge.set(values[name])

    def _make(self) -> None:
        self._counters = {}
        try:
            from prometheus_client import Counter, Gauge  # noqa: PLC0415 - comes with vLLM
        except ImportError:
            return
        spans = {name: text for name, (_, text) in SPAN_COUNTS.items()}
        for name, text in {**COUNTS, **spans, "errors": "Exceptions of the probe's own, caught"}.items():
            self._counters[name] = Counter(f"farthing_probe_{name}_total", f"{text}.")
        for name, (metric, text) in {
            "on": ("farthing_probe_on", "1 while the probe reports, 0 while its kill switch is set"),
            "waiting": ("farthing_probe_waiting_records", "Records in memory that wait for delivery"),
            "spooled": ("farthing_probe_spooled_bytes", "Bytes on disk that wait for delivery"),
        }.items():
            self._gauges[name] = Gauge(metric, f"{text}.", multiprocess_mode="livesum")
