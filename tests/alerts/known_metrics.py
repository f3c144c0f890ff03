"""The series that exist, from expositions that no table of ours produced, and what is wrong with a query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tests.alerts.promql import read, result_labels
from tests.exporters.snapshots import histogram_view, snapshot
from tests.exporters.test_prometheus_gpu import VIEW as DEVICES

from farthing.alerts.render import rule_groups
from farthing.domain import conventions as names
from farthing.exporters.prometheus import SnapshotCollector, exposition
from farthing.exporters.prometheus_gpu import DeviceCollector
from farthing.settings import Settings
from farthing.vocabulary.catalogue import Evidence
from farthing.vocabulary.loading import load_catalogues, load_exporters

__all__ = [
    "CAPTURES",
    "OF_THE_SCRAPE",
    "captured_metrics",
    "captures",
    "farthing_exposition",
    "known_labels",
    "labels_in",
    "never_seen_labels",
    "probe_exposition",
    "problems",
]

FIXTURES = Path(__file__).parents[1] / "fixtures"
CAPTURES = FIXTURES / "vllm-0.32-cpu"
CONNECTORS = FIXTURES / "vllm-0.32-connectors" / "metrics.txt"
"""What vLLM's own collectors of KV connectors say."""
SGLANG = FIXTURES / "sglang-0.5.23" / "metrics.txt"
PROBED = FIXTURES / "recordings" / "h100-llama8b-probe" / "metrics_final.txt"
HISTOGRAMS = (names.METRIC_TTFT, names.METRIC_TPOT, names.METRIC_E2E, names.METRIC_QUEUE)
PROBE = "farthing_probe_"
OF_THE_SCRAPE = {names.LABEL_JOB, names.LABEL_INSTANCE}
"""Labels that Prometheus adds to whatever it scrapes."""


def captures() -> list[str]:
    """The texts of the recorded vLLM expositions."""
    texts = [path.read_text() for path in (*sorted(CAPTURES.glob("metrics-*.txt")), CONNECTORS)]
    assert len(texts) == 4
    return texts


def probe_exposition() -> str:
    """What a recorded engine's exposition had of the probe's own series."""
    lines = [line for line in PROBED.read_text().splitlines() if line.startswith(PROBE)]
    assert lines
    return "\n".join(lines) + "\n"


def farthing_exposition(step: int = 100) -> str:
    """What Farthing's exporter says after ``step`` windows of an engine and a device of which everything is known."""
    pictured = snapshot(step)
    everything = replace(
        pictured,
        engines=tuple(replace(view, late_nano={("decode", "modelled"): 1_000 * step}) for view in pictured.engines),
        histograms=tuple(histogram_view(step, metric) for metric in HISTOGRAMS),
    )
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: everything))
    registry.register(DeviceCollector(lambda: DEVICES))
    body, _ = exposition(registry, "")
    return body.decode()


def labels_in(texts: Iterable[str]) -> dict[str, set[str]]:
    """Sample name -> the label names seen on it."""
    labels: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def never_seen_labels() -> dict[str, set[str]]:
    """Series that catalogues mark as read in an engine's source alone -> the labels that the source gives them.

    tests/alerts/test_vocabulary.py holds the marks to the captures.
    """
    marked = _catalogued("source-only")
    seen = _catalogued("captured")
    return {name: labels for name, labels in marked.items() if name not in seen} | _of_gpu_exporters()


def captured_metrics() -> set[str]:
    """Series that a catalogue claims to have been seen."""
    return set(_catalogued("captured"))


def _catalogued(evidence: Evidence) -> dict[str, set[str]]:
    labels: dict[str, set[str]] = {}
    for catalogue in load_catalogues():
        for signal in catalogue.signals.values():
            suffix, extra = ("_bucket", {names.LABEL_LE}) if signal.kind == "histogram" else ("", set())
            for source in signal.sources:
                if catalogue.evidence_of(source) != evidence:
                    continue
                of_source = {*source.where, *source.matching, *source.excluding, *(source.distinct or ()), *extra}
                of_source.add(catalogue.model.label or names.LABEL_MODEL)
                of_source |= {source.split or signal.split} - {""}
                for metric in source.metrics:
                    labels.setdefault(metric + suffix, set()).update(of_source)
        if catalogue.evidence == evidence:
            for info in (info for info in (catalogue.kv_cache, catalogue.adapters) if info):
                labels.setdefault(info.metric, set()).update(info.labels.values())
    return labels


def _of_gpu_exporters() -> dict[str, set[str]]:
    """Series of GPU exporters, none of which ran here; tests/alerts/test_gpu_signals.py holds rules to fixtures."""
    labels: dict[str, set[str]] = {}
    for catalogue in load_exporters():
        if catalogue.exporter == "farthing":  # its exposition is here
            continue
        info = catalogue.device.info
        # what the info series has is brought to the others by a join
        of_all = {*catalogue.device.labels, *(info.labels.values() if info else ())}
        for prefix in catalogue.prefixes:
            for telling in (one for tellings in catalogue.quantities.values() for one in tellings):
                for metric in telling.metrics:
                    labels.setdefault(prefix + metric, set()).update(of_all, telling.labels)
            if info:
                labels.setdefault(prefix + info.metric, set()).update(of_all)
    return labels


def known_labels(engine_texts: Iterable[str], farthing_text: str) -> dict[str, set[str]]:
    """Every series that a query may name -> its labels: scraped ones, recorded ones, and ``up``."""
    scraped = labels_in([*engine_texts, SGLANG.read_text(), probe_exposition(), farthing_text])
    known = {name: labels | OF_THE_SCRAPE for name, labels in (never_seen_labels() | scraped).items()}
    known["up"] = set(OF_THE_SCRAPE)
    for group in rule_groups(Settings()):
        for rule in group.recordings:
            labels = result_labels(rule.expr, known) | set(rule.labels)
            known[rule.record] = known.get(rule.record, set()) | labels
    return known


def problems(expr: str, known: Mapping[str, set[str]]) -> list[str]:
    """What ``expr`` names that does not exist, one text each; empty when all of it does."""
    reading = read(expr)
    found = []
    for use in reading.uses:
        if use.metric not in known:
            found.append(f"no series {use.metric}")
        else:
            found += [f"no label {label} on {use.metric}" for label in sorted(use.labels - known[use.metric])]
    for label, metrics in reading.either:
        if not any(label in known.get(metric, set()) for metric in metrics):
            found.append(f"no label {label} on any of {', '.join(metrics)}")
    return found
