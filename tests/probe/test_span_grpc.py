"""The edge span over gRPC, the protocol that vLLM's own exporter has by default, with the SDK that vLLM brings."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.tracing.receiver import decoded

pytestmark = pytest.mark.real

PROGRAM = Path(__file__).with_name("over_grpc.py")


def test_a_span_reaches_a_collector_over_grpc(engine_python, installed):
    """The installed probe, in the engine's environment, told nothing but where the collector is."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [engine_python, PROGRAM],
        env={**given, "PYTHONPATH": str(installed)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    (body,) = told.pop("bodies")
    assert told == {"mode": "sdk", "protocol": "grpc", "sent": 1, "unplaced": 0, "lost": 0, "failures": 0}
    (span,) = decoded(bytes.fromhex(body))
    assert (span.trace_id, span.span_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", "b7ad6b7169203331")
    assert (span.parent_span_id, span.kind, span.status) == ("00f067aa0ba902b7", "SERVER", "ERROR")
    assert span.attributes == {"gen_ai.usage.input_tokens": 10, "gen_ai.response.finish_reasons": ["stop", "length"]}
    assert (span.events[0].name, span.resource["service.instance.id"]) == ("first_token", "llama-8b")
