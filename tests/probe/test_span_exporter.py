"""Spans by OpenTelemetry's exporter to a collector: as they were made, counted, and in no log but the probe's own."""

import enum
import logging
from dataclasses import replace

import pytest
from opentelemetry import context
from tests.probe.answers import ID, NO_USAGE, plain, start
from tests.probe.rig import JSON, rigged
from tests.probe.test_delivery import until
from tests.probe.test_span_delivery import SECONDS, SETTINGS, SPAN, numbered
from tests.tracing.receiver import otlp_receiver

from farthing_probe.sdk_log import unlogged
from farthing_probe.settings import Settings
from farthing_probe.span_delivery import Otlp, SpanDelivery
from farthing_probe.trace_settings import EXPORTERS

Grpc = enum.Enum("Grpc", ["UNAVAILABLE"])


@pytest.fixture(scope="module")
def receiver():
    """A collector of OTLP over HTTP."""
    with otlp_receiver() as made:
        yield made


@pytest.fixture
def collector(receiver, monkeypatch):
    """The same without what came before, and an exporter that gives up soon."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.3")
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    receiver.behave("ok")
    receiver.rejects = 0
    receiver.clear()
    yield receiver
    receiver.rejects = 0
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)
    receiver.behave("ok")


def settings(receiver, **more):
    """Spans go to this collector."""
    return replace(SETTINGS, endpoint=receiver.url, protocol="http/protobuf", **more)


def sending(receiver):
    """The probe's own delivery to this collector."""
    return SpanDelivery(settings(receiver), lambda: Otlp(settings(receiver), "llama-8b"))


def test_a_span_arrives_as_it_was_made(collector, monkeypatch):
    """Ids, kind, times, attributes with their types, events, status; the engine is the resource."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=vllm-0")
    delivery = sending(collector)
    root = replace(SPAN, parent_span_id="", failed=True, events=())
    assert delivery.put(SPAN) and delivery.put(root)  # noqa: PT018 - both are on their way
    delivery.start()
    one, other = collector.wait_for(2)
    delivery.close()
    delivery.join(SECONDS)
    assert (one.trace_id, one.span_id, one.parent_span_id) == (SPAN.trace_id, SPAN.span_id, SPAN.parent_span_id)
    assert (one.name, one.kind, one.status) == ("chat llama", "SERVER", "UNSET")
    assert (one.start_ns, one.end_ns) == (SPAN.start_ns, SPAN.end_ns)
    assert one.attributes == {"gen_ai.usage.input_tokens": 10, "gen_ai.response.finish_reasons": ["stop", "length"]}
    assert [(event.name, event.at_ns) for event in one.events] == list(SPAN.events)
    assert (one.resource["service.name"], one.resource["service.instance.id"]) == ("farthing-edge", "llama-8b")
    assert one.resource["k8s.pod.name"] == "vllm-0"
    assert one.scope == "farthing_probe"
    assert (other.parent_span_id, other.status, other.events) == ("", "ERROR", ())
    until(lambda: delivery.counts.sent == 2)


def test_posts_of_spans_make_no_spans(collector, monkeypatch):
    """Where the engine's HTTP client is instrumented each post would be a span, and that one more to post."""
    sender, seen = Otlp(settings(collector), "llama-8b"), []
    export = sender._exporter.export

    def watched(spans):
        seen.append(context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY))
        return export(spans)

    monkeypatch.setattr(sender._exporter, "export", watched)
    assert sender.export([SPAN])
    assert (seen, context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY)) == ([True], None)
    sender.shutdown()


@pytest.mark.parametrize(("mode", "status"), [("error", 500), ("error", 429), ("refusing", 0), ("slow", 0)])
def test_whatever_the_collector_does_requests_are_served_and_spans_counted(collector, mode, status):
    """Down, slow, overloaded, broken: every answer is out before the collector has said a word, and every span is
    sent or dropped by the end.
    """
    collector.behave(mode, hold_s=SECONDS, error_status=status)
    with rigged(Settings(spool=None, traces=settings(collector))) as rig:
        rig.begin()
        for _ in range(40):
            answer = rig.ask(plain(start(headers=JSON), NO_USAGE), scope=rig.scope(headers=[ID]))
            assert (answer.error, len(answer.sent)) == (None, 2)
        assert not collector.spans
        spans, usages = rig.probe.spans, rig.settle()
        assert spans is not None
        assert spans.waiting <= SETTINGS.queue
        assert (len(usages), rig.probe.errors) == (40, 0)
        placed = sum(usage.span_sent for usage in usages)
        assert all(usage.sampled for usage in usages)
        assert spans.counts.unplaced == 40 - placed
        spans.close()
        until(lambda: spans.counts.dropped == 40)
        spans.join(SECONDS)
        assert (spans.counts.sent, spans.counts.failures > 0) == (0, True)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "HTTP 400"), (302, "RedirectedError"), (503, "it gives no reason"), (None, "it gives no reason")],
)
def test_the_log_is_not_flooded_while_a_collector_is_away(collector, caplog, monkeypatch, status, reason):
    """The SDK has lines for every post; vLLM's own exporter, of which they are the only sign, keeps its own."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.05")
    # in the other tests it says nothing at all
    caplog.set_level(logging.WARNING, EXPORTERS["http/protobuf"])
    collector.behave("error" if status else "refusing", error_status=status or 0)
    delivery = sending(collector)
    delivery.start()
    for failures in (1, 2, 3):
        delivery.put(SPAN)
        until(lambda: delivery.counts.failures == failures)  # noqa: B023 - of this round
    delivery.close()
    delivery.join(SECONDS)
    assert caplog.messages == [
        f"farthing_probe: the collector takes no spans ({reason}); they are counted and given up"
    ]
    caplog.clear()
    exporter = Otlp(settings(collector), "llama-8b")._exporter
    assert exporter.export([]).name == "FAILURE"
    assert caplog.records


@pytest.mark.parametrize(
    ("rejects", "sent", "said"),
    [(1, 2, "takes not all spans (it rejects some)"), (9, 0, "takes no spans (it rejects them)")],
)
def test_spans_that_a_collector_rejects_are_not_sent(collector, caplog, rejects, sent, said):
    """It answers 200, and says of how many (OTLP specification, Partial Success); the exporter does not read that."""
    caplog.set_level(logging.INFO, "farthing_probe")
    collector.rejects = rejects
    delivery = sending(collector)
    for span in numbered(3):
        delivery.put(span)
    delivery.start()
    until(lambda: delivery.counts.sent + delivery.counts.lost == 3)
    assert (delivery.counts.sent, delivery.counts.lost, delivery.counts.failures) == (sent, 3 - sent, sent == 0)
    collector.rejects = 0
    delivery.put(SPAN)
    delivery.close()
    delivery.join(SECONDS)
    assert (delivery.counts.sent, delivery.counts.lost) == (sent + 1, 3 - sent)
    assert caplog.messages == [
        f"farthing_probe: the collector {said}; they are counted and given up",
        "farthing_probe: the collector takes spans again",
    ]


PROVIDER = """
import requests
def session():
    made = requests.Session()
    made.headers["authorization"] = "Bearer of-the-provider"
    return made
"""


def test_a_session_with_credentials_of_its_own_is_watched_as_well(collector, monkeypatch, tmp_path):
    """A provider by entry point, as the SDK has it: its login goes with the spans, and a redirect is no success."""
    (tmp_path / "span_login.py").write_text(PROVIDER)
    described = tmp_path / "span_login-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: span-login\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[opentelemetry_otlp_credential_provider]\nours = span_login:session\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "ours")
    delivery = sending(collector)
    delivery.start()
    delivery.put(SPAN)
    collector.wait_for(1)
    assert collector.requests[0].headers["authorization"] == "Bearer of-the-provider"
    collector.behave("error", error_status=302)
    delivery.put(SPAN)
    until(lambda: delivery.counts.failures == 1)
    delivery.close()
    delivery.join(SECONDS)
    assert (delivery.counts.sent, delivery.counts.lost) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("Service Unavailable", "spans", 1.5), "HTTP 503"),
        ((OSError("canary"), "spans", 1.5), "OSError"),
        (("spans", "c:4317", Grpc.UNAVAILABLE, "canary"), "UNAVAILABLE"),
        (("spans", None, "canary"), ""),
        (("spans", 7), ""),
    ],
)
def test_why_a_post_failed_is_a_status_or_a_type(arguments, reason, caplog):
    """As the exporters' lines have them, over HTTP and gRPC; what a collector says is repeated by nobody."""
    log = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")
    with unlogged() as told:
        log.warning("%s" * len(arguments), *arguments)
        log.warning("without any")
    assert (told.reason, caplog.messages) == (reason, [])
    log.warning("%s", "said")
    assert caplog.messages == ["said"]


def test_a_header_that_cannot_be_read_is_not_in_the_log(collector, caplog, monkeypatch):
    """The SDK quotes it whole, and it is a login."""
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization: Basic Y2FuYXJ5")
    Otlp(settings(collector), "llama-8b").shutdown()
    assert caplog.text == ""


def test_a_probe_that_stops_sends_what_waits(collector):
    """Within the seconds that it has."""
    with rigged(Settings(spool=None, traces=settings(collector, delay_seconds=60.0))) as rig:
        rig.begin()
        rig.ask(plain(start(headers=JSON), NO_USAGE), scope=rig.scope(headers=[(b"x-request-id", b"last")]))
        rig.probe.stop(SECONDS)
        assert rig.probe.spans is not None
        assert rig.probe.spans.counts.sent == 1
    assert [span for span in collector.spans if span.attributes["farthing.request_id"] == "last"]
