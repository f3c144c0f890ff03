"""The series that exist, from expositions that no table of ours produced, and what is wrong with a query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tests.alerts.promql import read, result_labels
from tests.exporters.snapshots import histogram_view, snapshot

from farthing.alerts.render import rule_groups
from farthing.domain import conventions as names
from farthing.exporters.prometheus import SnapshotCollector, exposition
from farthing.settings import Settings

__all__ = ["CAPTURES", "captures", "farthing_exposition", "known_labels", "labels_in", "problems"]

CAPTURES = Path(__file__).parents[1] / "fixtures" / "vllm-0.32-cpu"
HISTOGRAMS = (names.METRIC_TTFT, names.METRIC_TPOT, names.METRIC_E2E, names.METRIC_QUEUE)
OF_THE_SCRAPE = {names.LABEL_JOB, names.LABEL_INSTANCE}
"""Labels that Prometheus adds to whatever it scrapes."""


def captures() -> list[str]:
    """The texts of the recorded vLLM expositions."""
    texts = [path.read_text() for path in sorted(CAPTURES.glob("metrics-*.txt"))]
    assert len(texts) == 3
    return texts


def farthing_exposition(step: int = 100) -> str:
    """What Farthing's exporter says after ``step`` windows of an engine of which everything is known."""
    pictured = snapshot(step)
    everything = replace(
        pictured,
        engines=tuple(replace(view, late_nano={("decode", "modelled"): 1_000 * step}) for view in pictured.engines),
        histograms=tuple(histogram_view(step, metric) for metric in HISTOGRAMS),
    )
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: everything))
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


def known_labels(engine_texts: Iterable[str], farthing_text: str) -> dict[str, set[str]]:
    """Every series that a query may name -> its labels: scraped ones, recorded ones, and ``up``."""
    scraped = labels_in([*engine_texts, farthing_text])
    known = {name: labels | OF_THE_SCRAPE for name, labels in scraped.items()}
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
