"""The probe's own series, beside the engine's on its /metrics."""

import builtins
from types import SimpleNamespace

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from farthing_probe.delivery import Counts
from farthing_probe.self_metrics import SelfMetrics
from farthing_probe.span_delivery import SpanCounts


@pytest.fixture
def registry(monkeypatch):
    """One of this test's own, in the place of the library's."""
    made = CollectorRegistry()

    def within(kind):
        return lambda *arguments, **named: kind(*arguments, registry=made, **named)

    monkeypatch.setattr(prometheus_client, "Counter", within(Counter))
    monkeypatch.setattr(prometheus_client, "Gauge", within(Gauge))
    return made


def state(errors=0, on=True, waiting=0, spooled=0, spans=None, **counts):
    """What of a probe is shown."""
    return SimpleNamespace(
        errors=errors,
        on=on,
        spans=spans and SimpleNamespace(counts=spans),
        delivery=SimpleNamespace(counts=Counts(**counts), waiting=waiting, spooled_bytes=spooled),
    )


def shown(registry):
    """Samples by name, without the moments of creation."""
    lines = [line.split() for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in lines if not name.endswith("_created")}


def test_every_count_and_state_is_shown(registry):
    """Counters grow by what was added since the last time."""
    metrics = SelfMetrics()
    metrics.update(state())
    assert set(shown(registry).values()) == {0.0, 1.0}
    metrics.update(state(2, False, 3, 4096, sent=10, dropped=1, refused=2, failures=3))
    spans = SpanCounts(sent=7, unplaced=2, lost=4, failures=1)
    metrics.update(state(2, False, 3, 4096, spans, sent=15, dropped=1, refused=2, failures=3))
    assert shown(registry) == {
        "farthing_probe_sent_total": 15,
        "farthing_probe_dropped_total": 1,
        "farthing_probe_refused_total": 2,
        "farthing_probe_failures_total": 3,
        "farthing_probe_errors_total": 2,
        "farthing_probe_spans_sent_total": 7,
        "farthing_probe_spans_dropped_total": 6,
        "farthing_probe_span_failures_total": 1,
        "farthing_probe_on": 0,
        "farthing_probe_waiting_records": 3,
        "farthing_probe_spooled_bytes": 4096,
    }


def test_without_the_library_there_are_none(monkeypatch):
    """An offline job's environment may lack it."""
    real = builtins.__import__

    def without(name, *arguments, **named):
        if name == "prometheus_client":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    metrics = SelfMetrics()
    metrics.update(state(sent=1))
    metrics.update(state(sent=2))


MULTIPROCESS = """
import os, sys
from types import SimpleNamespace
from farthing_probe.delivery import Counts
from farthing_probe.self_metrics import SelfMetrics

made, tell = os.pipe()
for number in (1, 2):
    if not os.fork():
        given = SimpleNamespace(
            errors=0, on=True, spans=None,
            delivery=SimpleNamespace(counts=Counts(sent=number), waiting=number, spooled_bytes=0),
        )
        SelfMetrics().update(given)
        os.write(tell, b".")
        os.read(0, 1)
        os._exit(0)
os.close(tell)
# The library creates a process's file before it gives it a size: nobody may read until both are whole.
for _ in range(2):
    assert os.read(made, 1), "a server died before its series were written"
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def test_several_api_servers_add_up(tmp_path):
    """In the library's multi-process mode, which vLLM sets up for them."""
    import os  # noqa: PLC0415
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    done = subprocess.run(
        [sys.executable, "-c", MULTIPROCESS],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        stdin=subprocess.PIPE, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert "farthing_probe_sent_total 3.0" in lines, done.stderr
    assert "farthing_probe_on 2.0" in lines
    assert "farthing_probe_waiting_records 3.0" in lines
