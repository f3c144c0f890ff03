"""An application that configures itself: where its spans go by OpenTelemetry's variables, and what it is told."""

from __future__ import annotations

import base64
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.util.re import parse_env_headers
from tests.tracing.receiver import otlp_receiver
from tests.tracing.rotel import rotel_hop

from farthing_probe import tracing

ROOT = Path(__file__).parents[2]
PROBE, PAGE = ROOT / "collectors/probe", ROOT / "docs/traces.md"

APPLICATION = """
from farthing_probe import tracing
configured = tracing.configure("handbook", endpoint={endpoint!r})
with tracing.stage("workflow", workflow="handbook"):
    with tracing.stage("search", source="docs"):
        pass
print(configured, tracing.flush())
"""


def run_application(endpoint: str, **environment: str) -> str:
    """What an application that configures itself prints."""
    done = subprocess.run(
        [sys.executable, "-c", APPLICATION.format(endpoint=endpoint)],
        env={"PYTHONPATH": str(PROBE), **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() + done.stderr


def test_a_configured_application_hands_its_spans_to_a_collector():
    """Over OTLP as OpenTelemetry's exporter sends it, under the service's name."""
    with otlp_receiver() as receiver:
        assert run_application(receiver.endpoint) == "True True"
        search, workflow = sorted(receiver.wait_for(2), key=lambda span: span.name, reverse=True)
    assert (workflow.name, search.name) == ("invoke_workflow handbook", "retrieval docs")
    assert search.parent_span_id == workflow.span_id
    assert workflow.parent_span_id == ""
    assert {span.resource["service.name"] for span in (search, workflow)} == {"handbook"}
    assert {span.scope for span in (search, workflow)} == {"farthing_probe.tracing"}


def test_a_collector_between_them_hands_on_the_same_spans(tmp_path: Path):
    """What another implementation of OTLP reads and writes again is what was sent."""
    with otlp_receiver() as receiver, rotel_hop(receiver.endpoint, tmp_path / "rotel.log") as collector:
        assert run_application(collector) == "True True"
        search, workflow = sorted(receiver.wait_for(2, 20), key=lambda span: span.name, reverse=True)
    assert (search.parent_span_id, search.trace_id) == (workflow.span_id, workflow.trace_id)
    assert search.attributes["gen_ai.data_source.id"] == "docs"
    assert workflow.resource["service.name"] == "handbook"


def test_headers_of_the_environment_go_with_the_spans_and_one_that_cannot_be_read_is_not_quoted():
    """The SDK's own line has the login in it."""
    with otlp_receiver() as receiver:
        assert (
            run_application(receiver.endpoint, OTEL_EXPORTER_OTLP_HEADERS="authorization=Basic%20Y2E=") == "True True"
        )
        said = run_application(receiver.endpoint, OTEL_EXPORTER_OTLP_HEADERS="authorization: Basic Y2E=")
        receiver.wait_for(4)
    assert [request.headers.get("authorization") for request in receiver.requests] == ["Basic Y2E=", None]
    assert said == "True True" + (
        "farthing_probe: OTEL_EXPORTER_OTLP_HEADERS is not `name=value,name=value`; what is not is left out\n"
    )


def test_a_header_that_cannot_be_sent_is_in_no_log():
    """An encoded line break, such as base64 has after 76 signs: every post would fail, and the SDK would quote it."""
    with otlp_receiver() as receiver:
        said = run_application(receiver.endpoint, OTEL_EXPORTER_OTLP_HEADERS="authorization=Basic%20Y2Fu%0AYXJ5")
        assert receiver.requests == []
    assert said == "False True" + (
        "spans are handed to nobody: a header of OTEL_EXPORTER_OTLP_HEADERS cannot be sent "
        "(is there a line break in it?)\n"
    )


def test_a_collector_that_sends_elsewhere_has_taken_no_spans():
    """Such as to a page with a login: the SDK calls any answer below 400 a success, and says nothing."""
    with otlp_receiver() as receiver:
        receiver.behave("error", error_status=302)
        said = run_application(receiver.endpoint)
    assert "the collector answers with a redirect" in said


def test_the_page_makes_the_variable_of_the_stacks_file_of_headers(tmp_path: Path):
    """By the command that stands there, of a file as the stack writes it."""
    login = base64.b64encode(b"fa:>>>??? ").decode()
    (tmp_path / "jaeger-headers").write_text(f"authorization: Basic {login}\n")
    (program,) = re.findall(r"OTEL_EXPORTER_OTLP_HEADERS=.* (sed '[^']+') /run/", PAGE.read_text())
    made = subprocess.run(
        [*shlex.split(program), "jaeger-headers"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.rstrip("\n")
    assert set("+/=") <= set(login)
    for liberal in (False, True):
        assert parse_env_headers(made, liberal=liberal) == {"authorization": f"Basic {login}"}


def test_an_application_that_names_no_collector_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Nothing is sent to an address that nobody gave; an SDK that is switched off needs no word."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert not tracing.configure("application")
    assert "spans are handed to nobody: give an endpoint, or set OTEL_EXPORTER_OTLP_ENDPOINT" in caplog.text
    caplog.clear()
    for name, value in (("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not tracing.configure("application", endpoint="http://127.0.0.1:4318")
    assert caplog.text == ""
