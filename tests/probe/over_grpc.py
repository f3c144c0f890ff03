"""What ``test_span_grpc.py`` runs in the engine's environment: a collector over gRPC, and one span on its way to it.

Prints the body that the collector got, in hexadecimal, and the probe's counts.
"""

import importlib
import json
import sys
from concurrent import futures
from typing import Any

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from farthing_probe.edge_span import EdgeSpan
from farthing_probe.span_delivery import Otlp, SpanDelivery
from farthing_probe.trace_settings import TraceSettings

SPAN = EdgeSpan(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    span_id="b7ad6b7169203331",
    parent_span_id="00f067aa0ba902b7",
    name="chat llama",
    start_ns=1_780_000_000_000_000_000,
    end_ns=1_780_000_001_000_000_000,
    attributes={"gen_ai.usage.input_tokens": 10, "gen_ai.response.finish_reasons": ("stop", "length")},
    events=(("first_token", 1_780_000_000_500_000_000),),
    failed=True,
)
# by name: only the engine's environment has it
grpc = importlib.import_module("grpc")
service = importlib.import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")
BODIES: list[bytes] = []


class Collector:
    """Keeps what comes."""

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name of it
        """The service's one method."""
        BODIES.append(request.SerializeToString())
        return trace_service_pb2.ExportTraceServiceResponse()


def main() -> None:
    """Send the span, and tell what came."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    service.add_TraceServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    settings = TraceSettings.of({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{port}"})
    delivery = SpanDelivery(settings, lambda: Otlp(settings, "llama-8b"))
    delivery.put(SPAN)
    delivery.start()
    delivery.close()
    delivery.join(30.0)
    told = {"mode": settings.mode, "protocol": settings.protocol, **vars(delivery.counts)}
    sys.stdout.write(json.dumps({**told, "bodies": [body.hex() for body in BODIES]}))
    server.stop(0)


if __name__ == "__main__":
    main()
