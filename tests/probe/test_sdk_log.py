"""What OpenTelemetry's SDK logs of the probe's exporter: heard by the probe before anybody, and by nobody else."""

import logging

from farthing_probe.sdk_log import unlogged


def test_why_a_post_failed_is_heard_though_the_sdk_hides_what_it_said_a_moment_ago(monkeypatch, caplog):
    """Its exporter over gRPC has a filter of its own, through which vLLM's and the probe's lines go alike."""
    log = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")
    monkeypatch.setattr(log, "filters", [lambda _: False])
    for _ in range(2):
        with unlogged() as told:
            log.warning("%s", OSError("canary"))
        assert told.reason == "OSError"
    assert (len(log.filters), caplog.messages) == (2, [])
