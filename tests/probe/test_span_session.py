"""The probe's session over HTTP: what it reads of a collector's answers, and whose credentials it has."""

import gzip
import logging
import threading
import tracemalloc
from dataclasses import replace

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from tests.exporters.test_otlp_export import collector, say
from tests.probe.test_span_delivery import SETTINGS, SPAN

from farthing_probe import tracing
from farthing_probe.span_delivery import NotTakenError, Otlp


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """An exporter that gives up soon."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2")


def sender(url):
    """The exporter, to this collector."""
    return Otlp(replace(SETTINGS, endpoint=url, protocol="http/protobuf"), "llama-8b")


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, gzip.compress(bytes(50_000_000)), {"Content-Encoding": "gzip"}),
        (200, bytes(50_000_000), {}),
        (400, bytes(50_000_000), {}),
    ],
    ids=["packed", "long", "long refusal"],
)
def test_of_an_answer_that_is_very_long_little_is_read(status, body, headers):
    """A collector is not the engine's to trust with its memory; one that said 200 took the spans."""
    asked = []

    def answer(handler):
        asked.append(handler.headers["accept-encoding"])
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    with collector(answer) as (url, _):
        otlp = sender(url)
        tracemalloc.start()
        try:
            if status == 200:
                assert otlp.export([SPAN]) == 1
            else:
                with pytest.raises(NotTakenError, match="HTTP 400"):
                    otlp.export([SPAN])
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()
            otlp.shutdown()
    assert asked == ["identity"]


def test_an_honest_answer_is_read_and_its_connection_used_again():
    """What it rejected is not counted as taken."""
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 1
    with collector(lambda handler: say(handler, answer.SerializeToString())) as (url, peers):
        otlp = sender(url)
        assert [otlp.export([SPAN] * 3) for _ in range(3)] == [2, 2, 2]
        otlp.shutdown()
    assert (len(peers), len(set(peers))) == (3, 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"", "it gives no reason"), (b"zz\r\n", "ChunkedEncodingError")],
    ids=["stays out", "is no chunk"],
)
def test_an_answer_that_cannot_be_read_fails_as_the_exporter_knows_it(body, reason, monkeypatch):
    """The first it tries again until its time is over, of which it says nothing more, and the second not."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.2")
    over = threading.Event()

    def begin(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(body)
        over.wait(10)

    with collector(begin) as (url, _):
        otlp = sender(url)
        with pytest.raises(NotTakenError, match=reason):
            otlp.export([SPAN])
        over.set()
        otlp.shutdown()


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ("nobody", "the credential provider 'nobody' is not installed"),
        ("", "no exporter can be made (ValueError)"),
    ],
)
def test_an_application_starts_whatever_its_credential_provider_is(provider, said, monkeypatch, caplog):
    """One warning; the error of a provider may hold what it was to keep."""

    def refuse(_):
        raise ValueError("canary")

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    if provider:
        monkeypatch.setenv("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", provider)
    else:
        monkeypatch.setattr(tracing, "session", refuse)
    caplog.set_level(logging.WARNING)
    assert not tracing.configure("handbook", endpoint="http://127.0.0.1:4318")
    assert caplog.messages == [f"spans are handed to nobody: {said}"]
