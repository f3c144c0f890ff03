"""The tests' OTLP receiver: it keeps what came, and behaves as it is told."""

import gzip
import threading
import time
import urllib.error
import urllib.request

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tests.tracing.receiver import PROTOBUF, otlp_receiver


@pytest.fixture
def receiver():
    with otlp_receiver() as receiver:
        yield receiver


def export(name="chat tiny"):
    """A request of one span with everything that a span can carry."""
    request = service.ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.append(text("service.name", "farthing-edge"))
    scoped = group.scope_spans.add()
    scoped.scope.name = "farthing_probe"
    reasons = ArrayValue(values=[AnyValue(string_value="stop")])
    span = scoped.spans.add(
        trace_id=bytes(range(16)),
        span_id=bytes(range(8)),
        parent_span_id=b"\xff" * 8,
        name=name,
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=1_000,
        end_time_unix_nano=2_000,
        trace_state="vendor=1",
        status=Status(code=Status.STATUS_CODE_ERROR, message="gone"),
    )
    span.attributes.append(KeyValue(key="gen_ai.usage.input_tokens", value=AnyValue(int_value=7)))
    span.attributes.append(KeyValue(key="reasons", value=AnyValue(array_value=reasons)))
    span.events.add(name="first_token", time_unix_nano=1_500).attributes.append(text("a", "b"))
    return request.SerializeToString()


def text(key, value):
    return KeyValue(key=key, value=AnyValue(string_value=value))


def post(url, body, timeout=5.0, **headers):
    """The status of an answer."""
    given = {"Content-Type": PROTOBUF, **{name.replace("_", "-"): value for name, value in headers.items()}}
    request = urllib.request.Request(url, body, given)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            service.ExportTraceServiceResponse.FromString(answer.read())
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_span_is_kept_with_all_that_it_carries(receiver):
    """Ids, times, attributes, events, status and resource come out as they went in."""
    assert post(receiver.url, export()) == 200
    (span,) = receiver.wait_for(1)
    assert (span.name, span.kind, span.start_ns, span.end_ns) == ("chat tiny", "SERVER", 1_000, 2_000)
    assert span.trace_id == "000102030405060708090a0b0c0d0e0f"
    assert (span.span_id, span.parent_span_id) == ("0001020304050607", "ff" * 8)
    assert span.attributes == {"gen_ai.usage.input_tokens": 7, "reasons": ["stop"]}
    assert [(event.name, event.at_ns, event.attributes) for event in span.events] == [
        ("first_token", 1_500, {"a": "b"})
    ]
    assert (span.status, span.status_message, span.trace_state) == ("ERROR", "gone", "vendor=1")
    assert (span.resource, span.scope) == ({"service.name": "farthing-edge"}, "farthing_probe")
    assert receiver.trace(span.trace_id) == [span]


def test_a_compressed_body_is_kept_plain_and_counted_as_sent(receiver):
    """What was posted in gzip can be searched, and its bytes on the wire are known."""
    body = gzip.compress(export())
    assert post(receiver.url, body, Content_Encoding="gzip") == 200
    (request,) = receiver.wait_for_requests(1)
    assert (request.body, request.wire_bytes, receiver.body_bytes) == (export(), len(body), len(body))


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/metrics", export(), {}, 404),
        ("/v1/traces", b"\xff\xff", {}, 400),
        ("/v1/traces", export(), {"Content_Type": "application/json"}, 415),
        ("/v1/traces", b"plain", {"Content_Encoding": "gzip"}, 400),
        ("/v1/traces", export(), {"Content_Encoding": "br"}, 415),
    ],
)
def test_what_is_no_export_of_traces_is_refused(receiver, path, body, headers, status):
    """An exporter that sends something else is told so, and no span is made of it."""
    assert post(receiver.endpoint + path, body, **headers) == status
    assert receiver.spans == []
    assert [request.status for request in receiver.requests] == [status]


def test_errors_keep_the_request_but_no_span_until_it_is_well_again(receiver):
    """A collector that answers errors has taken nothing."""
    receiver.behave("error", error_status=429)
    assert post(receiver.url, export("lost")) == 429
    receiver.behave("ok")
    assert post(receiver.url, export("kept")) == 200
    assert [span.name for span in receiver.spans] == ["kept"]
    assert [request.status for request in receiver.requests] == [429, 200]


def test_a_refusing_receiver_is_not_there_and_comes_back_at_the_same_address(receiver):
    """Connections are refused, as by a collector that is down; later it listens where it did."""
    url = receiver.url
    receiver.behave("refusing")
    with pytest.raises(urllib.error.URLError):
        post(url, export())
    receiver.behave("ok")
    assert receiver.url == url
    assert post(url, export()) == 200


def test_a_receiver_can_refuse_from_the_start():
    """Its address is known before it ever listens."""
    with otlp_receiver(mode="refusing") as receiver:
        with pytest.raises(urllib.error.URLError):
            post(receiver.url, export())
        assert receiver.connections == 0


def test_a_slow_receiver_holds_connections_open_and_lets_go_when_told(receiver):
    """As many connections as there are exports wait; then all are answered well."""
    receiver.behave("slow", hold_s=60)
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(post(receiver.url, export(), 30))) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while receiver.open_connections < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (receiver.open_connections, statuses, receiver.spans) == (3, [], [])
    receiver.behave("ok")
    for thread in threads:
        thread.join(10)
    assert statuses == [200, 200, 200]
    assert (len(receiver.spans), receiver.most_connections) == (3, 3)


def test_waiting_in_vain_names_what_came(receiver):
    """A test that waits for a span that never comes says which did."""
    post(receiver.url, export("another"))
    with pytest.raises(AssertionError, match="another"):
        receiver.wait_for(2, seconds=0.05)
