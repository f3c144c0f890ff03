"""What decides on traces: the probe's own variable, and those that OpenTelemetry's SDK reads."""

import logging
from types import SimpleNamespace

import pytest
from opentelemetry.util.re import parse_env_headers

from farthing_probe import probe
from farthing_probe.settings import SettingError, Settings
from farthing_probe.trace_settings import ROOTS, TraceSettings

E = "OTEL_EXPORTER_OTLP_"
HTTP_PROTOBUF = "http/protobuf"
HTTP = {E + "TRACES_PROTOCOL": HTTP_PROTOBUF}


def read(wanted="", **variables):
    """Of an environment; names without OTEL_."""
    given = {"OTEL_" + name: value for name, value in variables.items()}
    return Settings.from_environment({**given, "FARTHING_PROBE_TRACES": wanted}).traces


def test_nothing_set_is_the_callers_traces_in_the_records():
    """No trace begins, and nothing is sent."""
    assert read() == TraceSettings()
    assert (TraceSettings().mode, TraceSettings().begins) == ("records", False)


@pytest.mark.parametrize(
    ("given", "mode", "endpoint"),
    [
        ({E + "TRACES_ENDPOINT": "http://c:4318/v1/traces", **HTTP}, "sdk", "http://c:4318/v1/traces"),
        ({E + "ENDPOINT": "http://c:4318/", **HTTP}, "sdk", "http://c:4318/v1/traces"),
        ({E + "ENDPOINT": "http://c:4318", E + "PROTOCOL": "http/protobuf"}, "sdk", "http://c:4318/v1/traces"),
        ({E + "ENDPOINT": "http://a", E + "TRACES_ENDPOINT": "http://b/x", **HTTP}, "sdk", "http://b/x"),
        ({E + "TRACES_ENDPOINT": "http://c", **HTTP, "FARTHING_PROBE_TRACES": "records"}, "records", "http://c"),
        ({E + "TRACES_ENDPOINT": "http://c", **HTTP, "FARTHING_PROBE_TRACES": "sdk"}, "sdk", "http://c"),
        ({E + "TRACES_ENDPOINT": "http://c", **HTTP, "OTEL_TRACES_EXPORTER": "none"}, "records", "http://c"),
        ({E + "TRACES_ENDPOINT": "http://c", **HTTP, "OTEL_TRACES_EXPORTER": ""}, "sdk", "http://c"),
        ({E + "TRACES_ENDPOINT": "http://c", **HTTP, "OTEL_TRACES_EXPORTER": " OTLP, "}, "sdk", "http://c"),
        ({E + "TRACES_ENDPOINT": "http://c", E + "PROTOCOL": "HTTP/Protobuf "}, "sdk", "http://c"),
        ({E + "TRACES_ENDPOINT": "http://c", **HTTP, "FARTHING_PROBE_TRACES": "off"}, "off", ""),
        ({E + "TRACES_ENDPOINT": "http://c", **HTTP, "OTEL_SDK_DISABLED": "TRUE"}, "off", ""),
        ({E + "METRICS_ENDPOINT": "http://c"}, "records", ""),
        ({"FARTHING_PROBE_TRACES": "records"}, "records", ""),
    ],
)
def test_spans_go_to_the_collector_that_is_configured(given, mode, endpoint, caplog):
    """By OTLP over HTTP the signal's path is added to the address of all signals only (exporter specification)."""
    traces = Settings.from_environment(given).traces
    assert (traces.mode, traces.endpoint) == (mode, endpoint)
    assert traces.begins == (mode != "off" and bool(endpoint or "FARTHING_PROBE_TRACES" in given))
    assert caplog.text == ""


def test_by_grpc_the_address_is_taken_as_it_is(monkeypatch):
    """vLLM's own default, which it uses for the same variable."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    traces = read(EXPORTER_OTLP_ENDPOINT="http://c:4317")
    assert (traces.mode, traces.protocol, traces.endpoint) == ("sdk", "grpc", "http://c:4317")


@pytest.mark.parametrize(("named", "mode"), [("otlp,console", "sdk"), ("console", "records"), ("zipkin", "records")])
def test_of_several_exporters_there_is_otlp(named, mode, caplog):
    """The specification allows a list; what is not here is a warning."""
    assert (
        read(TRACES_EXPORTER=named, EXPORTER_OTLP_ENDPOINT="http://c", EXPORTER_OTLP_PROTOCOL=HTTP_PROTOBUF).mode
        == mode
    )
    assert "OTEL_TRACES_EXPORTER: there is no exporter but otlp here" in caplog.text


@pytest.mark.parametrize(
    "headers",
    [
        "", "a=", "a=b=c", "a=1,b=2", " a = 1 , b=%2C ,", "a=Basic%20Y2FuYXJ5", "a=Basic Y2FuYXJ5",
        "a=1\n", "\na=1", "a=1\r\n,\n", "a=\t1", "a=1\tb",
        "a=1,canary", "a=1;b=2", "a b=c", '{"a": "b"}', "a: Basic Y2FuYXJ5", "a: Basic Y2FuYQ==",
    ],
)  # fmt: skip
def test_headers_that_the_sdk_cannot_read_are_a_warning_that_quotes_none(headers, caplog):
    """One for those that it leaves out, and for no others; a header may be a login."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    named = [each for each in headers.split(",") if each.strip()]
    refused = len(parse_env_headers(headers, liberal=True)) < len(named)
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)
    read(EXPORTER_OTLP_ENDPOINT="http://c", EXPORTER_OTLP_PROTOCOL=HTTP_PROTOBUF, EXPORTER_OTLP_HEADERS=headers)
    said = "farthing_probe: OTEL_EXPORTER_OTLP_HEADERS is not `name=value,name=value`; what is not is left out"
    assert caplog.messages == [said] * refused


@pytest.mark.parametrize(
    ("protocol", "headers"),
    [
        (HTTP_PROTOBUF, "a=Basic%20Y2Fu%0AYXJ5"),
        (HTTP_PROTOBUF, "b=1,a=canary%0Dcanary"),
        (HTTP_PROTOBUF, "a%3A%20canary=1"),
        (HTTP_PROTOBUF, "a=canary%E2%82%AC"),
        ("grpc", "a=Basic%20Y2Fu%0AYXJ5"),
        ("grpc", "a=canary%C3%A4"),
        ("grpc", "a!=canary"),
        ("grpc", "a-bin=canary"),
    ],
)
def test_headers_that_nobody_can_send_leave_the_spans_to_the_records(protocol, headers, monkeypatch, caplog):
    """The SDK takes them, no post of it succeeds, and each failure quotes them (base64 breaks lines at 76)."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    traces = read(EXPORTER_OTLP_ENDPOINT="http://c", EXPORTER_OTLP_PROTOCOL=protocol, EXPORTER_OTLP_HEADERS=headers)
    assert (traces.mode, traces.begins) == ("records", True)
    assert caplog.messages == [
        "farthing_probe: spans go with the records: a header of OTEL_EXPORTER_OTLP_HEADERS cannot be sent "
        "(is there a line break in it?)"
    ]


@pytest.mark.parametrize("headers", ["a=Basic%20Y2E%3D%0A", "a=Basic c2Vj%0Ac", "a=%C3%A4", "X-Scope!=1"])
def test_headers_that_can_be_sent_are_no_warning(headers, caplog):
    """The SDK strips a value that it has unquoted, and unquotes none that has a blank."""
    traces = read(
        EXPORTER_OTLP_ENDPOINT="http://c", EXPORTER_OTLP_PROTOCOL=HTTP_PROTOBUF, EXPORTER_OTLP_HEADERS=headers
    )
    assert (traces.mode, caplog.messages) == ("sdk", [])


@pytest.mark.parametrize(
    ("wanted", "variables", "said"),
    [
        ("sdk", {}, "needs OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        (
            "",
            {"EXPORTER_OTLP_ENDPOINT": "http://c", "EXPORTER_OTLP_PROTOCOL": "http/json"},
            "nothing sends 'http/json'",
        ),
    ],
)
def test_what_cannot_send_leaves_the_spans_to_the_records(wanted, variables, said, caplog):
    """One line, and the bill goes on."""
    traces = read(wanted, **variables)
    assert (traces.mode, traces.begins) == ("records", True)
    assert said in caplog.text


def test_without_the_sdk_spans_go_with_the_records(monkeypatch, caplog):
    """An engine's image may lack it."""

    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.util.find_spec", absent)
    assert read(EXPORTER_OTLP_ENDPOINT="http://c").mode == "records"
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("name", "argument", "follows", "threshold"),
    [
        ("always_on", "", False, ROOTS),
        ("always_off", "", False, 0),
        ("traceidratio", "0.25", False, ROOTS // 4),
        ("parentbased_always_on", "", True, ROOTS),
        ("parentbased_always_off", "", True, 0),
        ("parentbased_traceidratio", "0.5", True, ROOTS // 2),
        ("parentbased_traceidratio", "", True, ROOTS),
        ("PARENTBASED_ALWAYS_OFF", "", True, 0),
    ],
)
def test_every_sampler_of_the_specification_is_known(name, argument, follows, threshold, caplog):
    """Those that need no server."""
    traces = read(TRACES_SAMPLER=name, TRACES_SAMPLER_ARG=argument)
    assert (traces.begins, traces.follows_parent, traces.threshold) == (True, follows, threshold)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TRACES_SAMPLER": "xray"}, "'xray' is not known here"),
        ({"TRACES_SAMPLER": "parentbased_"}, "is not known here"),
        ({"TRACES_SAMPLER": "parentbased_traceidratio", "TRACES_SAMPLER_ARG": "1.5"}, "no number from 0 to 1"),
        ({"TRACES_SAMPLER": "parentbased_traceidratio", "TRACES_SAMPLER_ARG": "nan"}, "no number from 0 to 1"),
        ({"BSP_MAX_QUEUE_SIZE": "-1"}, "OTEL_BSP_MAX_QUEUE_SIZE is no whole number"),
        ({"BSP_SCHEDULE_DELAY": "1e3"}, "OTEL_BSP_SCHEDULE_DELAY is no whole number"),
        ({"BSP_MAX_EXPORT_BATCH_SIZE": "9" * 99}, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE is no whole number"),
    ],
)
def test_a_variable_of_opentelemetry_that_cannot_be_used_is_a_warning(variables, said, caplog):
    """As the specification asks; the default counts, and requests are billed all the same."""
    traces = read(**variables)
    assert (traces.follows_parent, traces.threshold) == (True, ROOTS)
    assert (traces.queue, traces.batch, traces.delay_seconds) == (2048, 64, 5.0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert said in caplog.text


def test_the_queue_is_bounded_as_it_is_told():
    """A batch is never larger than the queue."""
    traces = read(BSP_MAX_QUEUE_SIZE="100", BSP_MAX_EXPORT_BATCH_SIZE="512", BSP_SCHEDULE_DELAY="250")
    assert (traces.queue, traces.batch, traces.delay_seconds) == (100, 100, 0.25)


def test_a_slip_in_the_probes_own_variable_is_an_error():
    """As every other of its settings."""
    with pytest.raises(SettingError, match="FARTHING_PROBE_TRACES is 'yes'; give one of auto, sdk, records, off"):
        read("Yes")


@pytest.mark.parametrize("endpoint", ["http://c:4318/v1/traces", None])
def test_the_collector_of_vllms_own_flag_is_the_probes_too(endpoint, monkeypatch):
    """Both spans of a request belong in one place; older versions do not put it in the environment."""
    monkeypatch.setenv(E + "TRACES_ENDPOINT", "http://other")
    config = SimpleNamespace(observability_config=SimpleNamespace(otlp_traces_endpoint=endpoint))
    assert probe._environment(config)[E + "TRACES_ENDPOINT"] == (endpoint or "http://other")
    assert TraceSettings.of({**probe._environment(config), **HTTP}).endpoint == (endpoint or "http://other")
