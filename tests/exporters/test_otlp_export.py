"""The way to a collector: what goes out is the file's, and what comes back is read in bounds."""

import gzip
import logging
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from tests.exporters.test_otlp import ANCHOR, usage
from tests.tracing.receiver import otlp_receiver

from farthing.exporters import otlp
from farthing.exporters.otlp import EdgeSpans, OtlpExport, Request

SPANS = list(EdgeSpans().of([Request(usage(), ANCHOR, "e")]))


@contextmanager
def collector(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """(URL, addresses that posted) of one that takes whatever comes and answers so."""
    peers: list[tuple[str, int]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            peers.append(self.client_address)
            with suppress(OSError):
                answer(self)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", peers
    finally:
        server.shutdown()
        server.server_close()


def say(handler: BaseHTTPRequestHandler, body: bytes, **headers: str) -> None:
    handler.send_response(200)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def test_headers_that_the_environment_has_for_another_collector_are_neither_sent_nor_logged(monkeypatch, caplog):
    """OTEL_EXPORTER_OTLP_HEADERS holds the token of whatever collector the environment means."""
    logging.getLogger("opentelemetry.util.re").setLevel(logging.NOTSET)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-vendor-key=s3cret,authorization: Basic c2VjcmV0")
    with otlp_receiver() as receiver:
        export = OtlpExport(f"{receiver.endpoint}/v1/traces", {"x-scope-orgid": "farthing"}, 5.0)
        assert export.export(SPANS) == 1
        (request,) = receiver.wait_for_requests(1)
        export.shutdown()
    sent = {name.lower(): value for name, value in request.headers.items()}
    assert sent["x-scope-orgid"] == "farthing"
    assert sent["content-type"] == "application/x-protobuf"
    assert not sent.keys() & {"x-vendor-key", "authorization"}
    assert "c2VjcmV0" not in caplog.text + str(sent)
    assert "s3cret" not in caplog.text + str(sent)


@pytest.mark.parametrize("framing", [{"Content-Length": "100000"}, {"Transfer-Encoding": "chunked"}])
def test_an_answer_that_drips_is_not_waited_for(framing):
    """Each byte comes in time, and the last one never."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in framing.items():
            handler.send_header(name, value)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"0")
            handler.wfile.flush()
            time.sleep(0.1)

    with collector(drip) as (url, _):
        export = OtlpExport(url, {}, 0.5)
        began = time.monotonic()
        assert export.export(SPANS) == 0
        assert time.monotonic() - began < 5


def test_an_answer_that_unpacks_to_very_much_is_not_unpacked():
    """64 KiB of it are read, as they are."""
    bomb = gzip.compress(bytes(50_000_000))
    with collector(lambda handler: say(handler, bomb, **{"Content-Encoding": "gzip"})) as (url, _):
        export = OtlpExport(url, {}, 5.0)
        tracemalloc.start()
        try:
            assert export.export(SPANS) == 1
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()


def test_an_honest_answer_is_read_and_its_connection_used_again():
    """What it rejected is not counted as taken."""
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 1
    with collector(lambda handler: say(handler, answer.SerializeToString())) as (url, peers):
        export = OtlpExport(url, {}, 5.0)
        assert [export.export(SPANS) for _ in range(3)] == [0, 0, 0]
        assert len(peers) == 3
        assert len(set(peers)) == 1
        export.shutdown()


def test_a_login_for_the_host_that_stands_in_netrc_does_not_replace_the_files(monkeypatch, tmp_path):
    """The file's header is for this collector; what curl says to the same host is not."""
    (tmp_path / "netrc").write_text("machine collector.test login curl password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    export = OtlpExport("http://collector.test/v1/traces", {"authorization": "Bearer of-the-file"}, 5.0)
    sent: list[str | bytes] = []

    def send(request: requests.PreparedRequest, **_: Any) -> requests.Response:
        sent.append(request.headers["authorization"])
        raise ValueError("enough")

    monkeypatch.setattr(export._session, "send", send)
    assert export.export(SPANS) == 0
    assert sent == ["Bearer of-the-file"]


@pytest.mark.parametrize("error", [RuntimeError, ValueError, OSError])
def test_an_answer_that_is_gone_when_its_time_is_up_is_late_and_nothing_else(error, monkeypatch):
    """urllib3 says so in as many ways: given back, closed, reset by the collector."""
    loud: list[object] = []
    monkeypatch.setattr(threading, "excepthook", loud.append)
    tried = threading.Event()

    class Raw:
        def read(self, _most: int, **_: object) -> bytes:
            assert tried.wait(10)
            return b""

        def shutdown(self) -> None:
            tried.set()
            raise error("gone")

    response = requests.Response()
    response.raw = Raw()
    with pytest.raises(ValueError, match="did not end its answer in time"):
        otlp._answer(response, time.monotonic())
    for timer in threading.enumerate():
        if isinstance(timer, threading.Timer):
            timer.join(10)
    assert loud == []
