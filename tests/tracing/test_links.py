"""From a metric to a trace and back: exemplars, the edge span and Grafana's links agree on names and values."""

import json

import httpx
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tests.service.books import raw_of
from tests.service.running import served, wait_until
from tests.tracing.receiver import otlp_receiver
from tests.tracing.traced import traced_wire

from farthing.domain import conventions as c
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.server import Service
from farthing.service.span_emission import DROPPED, FAILED, SENT
from farthing.settings import EngineSettings, Settings
from farthing.stack.grafana import GrafanaSources, render_sources
from farthing.stack.scrape import render_targets

ENGINE = "chat-1"
RECORDS = 600
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture(scope="module")
def raw():
    """The beginning of a recording; every third request is sampled, each of a trace of its own."""
    records = traced_wire(load_recording("h100-llama8b-vllm0.26"), engine=ENGINE, every=3, together=1)
    return raw_of(records[:RECORDS])


@pytest.fixture(scope="module")
def sampled(raw):
    """Trace ids of the sampled requests."""
    lines = [json.loads(one.line) for one in raw if one.kind == "usage"]
    return {line["trace_id"] for line in lines if line.get("sampled")}


@pytest.fixture(scope="module")
def linked(raw, sampled, tmp_path_factory):
    """What a collector got of a running service, and what its /metrics say in OpenMetrics, once all was sent."""
    ledger = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('linked')}/ledger.db")
    with otlp_receiver() as receiver:
        service = Service(Settings.model_validate({"traces": {"endpoint": receiver.endpoint}}), ledger)
        with served(service.app) as url:
            ledger.add(raw)
            spans = receiver.wait_for(lambda found: len(found) >= len(sampled) - 10, 30)
            wait_until(lambda: counted(url)[SENT] == len(receiver.spans), 20, "the count of what was sent")
            families = {one.name: one for one in text_string_to_metric_families(metrics(url))}
    ledger.close()
    return spans, families


def metrics(url):
    return httpx.get(f"{url}/metrics", headers={"Accept": OPENMETRICS}, trust_env=False, timeout=20).text


def counted(url):
    """What became of spans, as /metrics says it; nothing before the first picture."""
    families = {family.name: family for family in text_string_to_metric_families(metrics(url))}
    found = families.get(c.METRIC_SPANS.removesuffix("_total"))
    samples = [] if found is None else found.samples
    return {SENT: -1, **{sample.labels[c.LABEL_RESULT]: int(sample.value) for sample in samples}}


def sources():
    """Grafana's data sources by type."""
    text = render_sources(GrafanaSources("http://p", "http://a", "http://j", 5)).replace("$$", "$")
    return {one["type"]: one["jsonData"] for one in yaml.safe_load(text)["datasources"]}


def test_every_exemplar_that_grafana_links_is_a_trace_that_the_collector_has(linked, sampled):
    """The label that it looks for is there, on sampled traces alone; other requests have their own id."""
    spans, families = linked
    (destination,) = sources()["prometheus"]["exemplarTraceIdDestinations"]
    exemplars = [
        sample.exemplar.labels
        for name in (c.METRIC_TTFT, c.METRIC_TPOT, c.METRIC_E2E, c.METRIC_QUEUE)
        for sample in families[name].samples
        if sample.exemplar is not None
    ]
    linked_ids = {labels[destination["name"]] for labels in exemplars if destination["name"] in labels}
    assert linked_ids
    assert linked_ids <= sampled
    assert linked_ids <= {span.trace_id for span in spans}
    assert all(labels.keys() in ({destination["name"]}, {"request_id"}) for labels in exemplars)


def test_what_became_of_spans_is_counted(linked):
    """Each once, and none is waiting."""
    spans, families = linked
    counts = {sample.labels["result"]: sample.value for sample in families["farthing_spans"].samples}
    assert counts == {SENT: len(spans), FAILED: 0, DROPPED: 0}
    assert [sample.value for sample in families[c.METRIC_SPANS_WAITING].samples] == [0]


def test_a_span_leads_to_the_series_of_its_engine(linked):
    """Every tag of Grafana's is on each edge span, with the value that the label of the engine's series has."""
    spans, _ = linked
    tags = {tag["key"]: tag["value"] for tag in sources()["jaeger"]["tracesToMetrics"]["tags"]}
    engine = EngineSettings.model_validate({"name": ENGINE, "url": "http://127.0.0.1:8000"})
    (target,) = json.loads(render_targets([engine]))
    for span in spans:
        labels = {label: {**span.resource, **span.attributes}[key] for key, label in tags.items()}
        assert labels.keys() == {c.LABEL_INSTANCE, c.LABEL_MODEL}
        assert labels[c.LABEL_INSTANCE] == target["labels"][c.LABEL_INSTANCE] == ENGINE
        assert span.resource[c.RESOURCE_SERVICE] == c.SPAN_SERVICE


def test_a_collector_that_hangs_keeps_nobody_from_metrics_and_intake(raw, sampled, tmp_path):
    """All is costed and answered while the export waits; what finds no room is dropped and counted."""
    with otlp_receiver(mode="slow", hold_s=60) as receiver, Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        traces = {"endpoint": receiver.endpoint, "queue_spans": 20}
        with served(Service(Settings.model_validate({"traces": traces}), ledger).app) as url:
            ledger.add(raw)
            lost = len(sampled) - 10 - 20 - 20
            wait_until(lambda: counted(url).get(DROPPED, 0) >= lost, 30, "the loss in /metrics")
            wait_until(lambda: receiver.open_connections == 1, 20, "an export that waits")
            body = b"\n".join(one.line for one in raw if one.kind == "usage")
            assert httpx.post(f"{url}/v1/usage", content=body, trust_env=False, timeout=20).status_code == 200
            assert counted(url)[SENT] == 0
            # nothing was answered to the exporter by then
            assert receiver.requests == []
            receiver.behave("ok")
