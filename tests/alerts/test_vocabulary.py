"""Catalogues know every metric of a captured engine; every name they claim was seen, or says that it was not."""

import re
from pathlib import Path

import pytest

from farthing.alerts.signals import BUCKETS, RATES, SCALARS
from farthing.collectors.engines.exposition import parse_exposition
from farthing.domain import conventions
from farthing.domain.errors import ConfigError
from farthing.vocabulary.catalogue import Catalogue, Source, family_of
from farthing.vocabulary.loading import ENGINES, load_catalogue, load_catalogues, parse_catalogue

ROOT = Path(__file__).parents[2]
CAPTURED = {
    "vllm": sorted(
        [
            *ROOT.glob("tests/fixtures/vllm-[0-9]*/metrics*.txt"),
            *ROOT.glob("tests/fixtures/recordings/*/metrics_final.txt"),
            *ROOT.glob("app/farthing/replay/recordings/*/metrics_final.txt"),
        ]
    ),
    "sglang": sorted(ROOT.glob("tests/fixtures/sglang-*/metrics*.txt")),
}
"""Engine -> its expositions, none of them made from a catalogue."""
EXPOSITIONS = [(engine, path) for engine, paths in CAPTURED.items() for path in paths]
SIGNALS = [*SCALARS.values(), *RATES.values(), *(signal for signal, _, _ in BUCKETS.values())]


def samples(path: Path) -> set[str]:
    """The sample names of an exposition."""
    return {sample.name for sample in parse_exposition(path.read_bytes(), "", str(path))}


def seen(engine: str) -> set[str]:
    """Sample names, and histograms without their suffix, of all captures of an engine."""
    names = {name for path in CAPTURED.get(engine, ()) for name in samples(path)}
    return names | {name.removesuffix("_bucket") for name in names if name.endswith("_bucket")}


def sources(catalogue: Catalogue) -> list[Source]:
    """Every source of every signal."""
    return [source for signal in catalogue.signals.values() for source in signal.sources]


def test_there_are_captures_to_compare_with():
    """Without any, the tests below would say nothing."""
    assert len(CAPTURED["vllm"]) == 8
    assert len(CAPTURED["sglang"]) == 1


@pytest.mark.parametrize(("engine", "path"), EXPOSITIONS, ids=[f"{e}-{p.parent.name}-{p.stem}" for e, p in EXPOSITIONS])
def test_every_metric_of_a_capture_is_read_or_ignored_for_a_reason(engine, path):
    """What an engine tells is used, or somebody decided that it is not."""
    assert load_catalogue(engine).unknown(samples(path)) == []


@pytest.mark.parametrize("engine", CAPTURED)
def test_a_metric_that_an_engine_renames_is_unknown_to_its_catalogue(engine):
    """Each metric that is read, under another name in the capture, is found as new, and its old name is missed."""
    names = seen(engine)
    for metric in load_catalogue(engine).metric_names():
        if metric not in names:
            continue
        renamed = {re.sub(rf"^{re.escape(family_of(metric))}(?=$|_)", r"\g<0>_v2", name) for name in names}
        assert load_catalogue(engine).unknown(renamed) or metric.startswith("process_"), metric
        assert metric not in renamed


@pytest.mark.parametrize("engine", ENGINES)
def test_every_metric_that_a_catalogue_names_was_seen_or_is_marked_as_never_seen(engine):
    """A misspelt or invented name would read nothing for ever; and a mark goes when a capture comes."""
    catalogue, names = load_catalogue(engine), seen(engine)
    for source in sources(catalogue):
        for metric in source.metrics:
            assert (metric in names) == (catalogue.evidence_of(source) == "captured"), metric
    if catalogue.evidence == "captured":
        assert catalogue.model.metric in names
        assert catalogue.boot is None or {catalogue.boot.start_time, catalogue.boot.created} <= names


@pytest.mark.parametrize("engine", CAPTURED)
def test_every_selector_of_a_catalogue_selects_labels_that_a_capture_has(engine):
    """A label that does not exist selects nothing, or everything."""
    expositions = [parse_exposition(path.read_bytes(), "", str(path)) for path in CAPTURED[engine]]
    catalogue = load_catalogue(engine)
    for info in (info for info in (catalogue.kv_cache, catalogue.adapters) if info):
        told = [sample for exposition in expositions for sample in exposition.find(info.metric)]
        assert told
        assert all(set(info.labels.values()) <= set(sample.labels) for sample in told)
    for signal, source in ((one, source) for one in catalogue.signals.values() for source in one.sources):
        if catalogue.evidence_of(source) != "captured":
            continue
        found = [
            sample
            for exposition in expositions
            for suffix in ("", "_bucket")
            for sample in exposition.find(source.metric + suffix)
        ]
        labels = {*source.where, *source.matching, *source.excluding, *(source.distinct or ())}
        labels |= {source.split or signal.split} - {""}
        assert all(labels <= set(sample.labels) for sample in found), source.metric
        for label, value in source.where.items():
            assert any(sample.labels[label] == value for sample in found), source.metric
        for label, pattern in source.matching.items():
            assert any(re.fullmatch(pattern, sample.labels[label]) for sample in found), source.metric
        for label, pattern in source.excluding.items():
            assert not all(re.fullmatch(pattern, sample.labels[label]) for sample in found), source.metric


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_each_signal_or_says_why_not(engine):
    """An absent series then has a reason that a reader finds."""
    catalogue = load_catalogue(engine)
    assert set(SIGNALS) <= set(catalogue.signals) | set(catalogue.lacking)
    assert set(catalogue.lacking) <= set(SIGNALS)
    assert catalogue.engine == engine


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_signal_means_the_same_in_every_catalogue(signal):
    """One kind, unit and aggregation, whoever tells it."""
    told = [catalogue.signals[signal] for catalogue in load_catalogues() if signal in catalogue.signals]
    assert told
    assert len({(entry.kind, entry.unit, entry.aggregate, entry.split) for entry in told}) == 1


def test_records_are_named_after_their_signals():
    """llm:SIGNAL:AGGREGATION of a gauge, llm:SIGNAL:rate1m of a counter; only finished requests are named otherwise."""
    for record, signal in SCALARS.items():
        assert record.split(":")[1] == signal
    for record, signal in RATES.items():
        named = "requests_completed" if record == conventions.REC_REQUEST_RATE else record.split(":")[1]
        assert signal in {f"{named}_total", f"{named}_sum"}
    for record, (signal, median, high) in BUCKETS.items():
        assert record == f"llm:{signal}_bucket:rate1m"
        assert (median, high) == (f"llm:{signal}:p50_1m", f"llm:{signal}:p95_1m")


def told(catalogue: Catalogue, signal: str) -> str:
    """What docs/engines.md says of an engine's signal."""
    if signal in catalogue.lacking:
        return "–"
    named = catalogue.signals[signal].sources
    seen_one = any(catalogue.evidence_of(source) == "captured" for source in named)
    return ("yes" if seen_one else "source") + ("≈" if named[0].proxy else "")


def test_the_page_of_engines_says_what_the_catalogues_say():
    """Every series of every engine, in the order of the catalogues, and every proxy in its own words."""
    page = (ROOT / "docs" / "engines.md").read_text()
    catalogues = load_catalogues()
    assert "| series | " + " | ".join(f"`{catalogue.engine}`" for catalogue in catalogues) + " |\n" in page
    records = {**SCALARS, **RATES, **{record: signal for record, (signal, _, _) in BUCKETS.items()}}
    for record, signal in records.items():
        assert f"| `{record}` | " + " | ".join(told(catalogue, signal) for catalogue in catalogues) + " |\n" in page
    for catalogue in catalogues:
        assert f"| `{catalogue.engine}`: {catalogue.title} | {catalogue.versions} | " in page
        for source in sources(catalogue):
            assert not source.proxy or f"`{source.metric}` | {source.proxy} |\n" in page


def test_an_engine_without_a_catalogue_is_refused_with_the_known_ones():
    """The user reads what could be written instead."""
    with pytest.raises(ConfigError, match=r"engine 'vlm' has no catalogue; known engines: vllm, vllm-v0, "):
        load_catalogue("vlm")


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("lacking: {queue_time_seconds: not observed}", "queue_time_seconds is both a signal and lacking"),
        ("whole_bound: true", "whole_bound: unknown key"),
    ],
)
def test_a_catalogue_that_contradicts_itself_is_refused(addition, message):
    """In one line that names the key."""
    text = re.sub(r"(?ms)^lacking:.*?(?=^ignored:)", "", (ENGINE_FILES / "tgi.yaml").read_text())
    parse_catalogue(text, "tgi.yaml")
    with pytest.raises(ConfigError, match=message):
        parse_catalogue(f"{text}{addition}\n", "tgi.yaml")


ENGINE_FILES = ROOT / "core/farthing/vocabulary/engines"


def test_every_file_of_an_engine_is_loaded():
    """A file that ENGINES does not name would feed nothing."""
    assert {path.stem for path in ENGINE_FILES.glob("*.yaml")} == set(ENGINES)
