"""The caller's trace goes on through the edge: what is taken, what the engine gets instead, and what is kept."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from tests.probe.answers import ID, NO_USAGE, TENANT, only, plain, start
from tests.probe.rig import JSON, rigged

from farthing_probe.settings import Settings
from farthing_probe.trace_context import EdgeContext, edge_context, parsed
from farthing_probe.trace_settings import ROOTS, TraceSettings

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
KEPT, NOT_KEPT = (f"00-{TRACE}-{SPAN}-{flags}".encode() for flags in ("01", "00"))
STATE = (b"tracestate", b"vendor=1")
BEGINS = TraceSettings(begins=True)


def own(headers):
    """The one traceparent of headers, in its parts."""
    (value,) = [value.decode() for name, value in headers if name == b"traceparent"]
    return value.split("-")


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-ff", 255),
        (f" \t00-{TRACE}-{SPAN}-01 ", 1),
        (f"01-{TRACE}-{SPAN}-01-later", 1),
        (f"cc-{TRACE}-{SPAN}-01", 1),
        (f"00-{TRACE}-{SPAN}-01-later", None),
        (f"cc-{TRACE}-{SPAN}-01later", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"0-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE[:-1]}-{SPAN}-01", None),
        (f"00-{TRACE}0-{SPAN}-01", None),
        (f"00-{TRACE[:-1]}g-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        ("\xff\xfe", None),
        ("", None),
    ],
)
def test_a_traceparent_is_taken_if_it_is_one(header, flags):
    """W3C Trace Context 3.2.2 and 4.3; and the engine's own reading of it, OpenTelemetry's, is the same."""
    parent = parsed(header.encode("latin-1"))
    assert (parent.trace_id, parent.span_id, parent.flags) == (TRACE, SPAN, flags) if parent else flags is None
    theirs = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": header})).get_span_context()
    if not header.endswith("\n"):  # which no HTTP header does
        assert theirs.is_valid == (parent is not None)


@given(at=st.integers(0, 54), character=st.sampled_from("0123456789abcdefABCDEFg-_ \x00"))
def test_a_header_with_one_character_changed_is_read_as_the_engine_reads_it(at, character):
    """Else the engine's span would hang below another parent than the edge's."""
    header = KEPT.decode()[:at] + character + KEPT.decode()[at + 1 :]
    parent = parsed(header.encode())
    theirs = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": header})).get_span_context()
    assert (parent is not None) == theirs.is_valid
    if parent is not None:
        assert (int(parent.trace_id, 16), int(parent.span_id, 16)) == (theirs.trace_id, theirs.span_id)


@pytest.mark.parametrize("settings", [TraceSettings(), BEGINS], ids=["nothing configured", "configured"])
@pytest.mark.parametrize(("header", "kept"), [(KEPT, True), (NOT_KEPT, False)])
def test_the_engine_gets_the_edge_span_for_its_parent(settings, header, kept):
    """The same trace, one header, a new parent, the caller's decision; and what vendors added."""
    headers = [TENANT, (b"traceparent", header), STATE]
    trace, passed = edge_context(headers, settings)
    assert passed is not None
    assert (trace.trace_id, trace.parent_span_id, trace.sampled) == (TRACE, SPAN, kept)
    assert own(passed) == ["00", TRACE, trace.span_id, "01" if kept else "00"]
    assert re.fullmatch("[0-9a-f]{16}", trace.span_id)
    assert trace.span_id != SPAN
    assert [pair for pair in passed if pair[0] != b"traceparent"] == [TENANT, STATE]


def test_the_random_flag_is_passed_on():
    """Level 2, 3.2.2.5.2: whoever samples by the id further on has to know; other bits are not ours to set."""
    _, passed = edge_context([(b"traceparent", f"00-{TRACE}-{SPAN}-ff".encode())], BEGINS)
    assert own(passed)[3] == "03"


@pytest.mark.parametrize(
    "headers",
    [[], [(b"traceparent", b"nonsense"), STATE], [(b"traceparent", KEPT), (b"traceparent", KEPT), STATE], [STATE]],
    ids=["none", "malformed", "two", "state alone"],
)
def test_without_a_sound_context_a_trace_begins_where_traces_are_configured(headers):
    """And the caller's state, which belongs to no trace, ends here; elsewhere everything is left as it came."""
    trace, passed = edge_context([TENANT, *headers], BEGINS)
    assert passed is not None
    assert passed[0] == TENANT
    assert len(passed) == 2
    assert own(passed) == ["00", trace.trace_id, trace.span_id, "03"]
    assert (trace.parent_span_id, trace.sampled, len(trace.trace_id)) == ("", True, 32)
    assert edge_context([TENANT, *headers], TraceSettings()) == (EdgeContext(), None)


def test_switched_off_the_callers_context_goes_to_the_engine_as_it_came():
    """Its trace is still the record's."""
    assert edge_context([(b"traceparent", KEPT), STATE], TraceSettings(mode="off")) == (EdgeContext(TRACE), None)


def test_no_two_requests_have_an_id_in_common():
    """Ten thousand roots."""
    made = [edge_context([], BEGINS)[0] for _ in range(10_000)]
    assert len({trace.trace_id for trace in made}) == len({trace.span_id for trace in made}) == 10_000


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_a_share_of_traces_is_the_share_that_opentelemetry_would_keep(ratio):
    """Trace by trace, so that an application with the same sampler and the probe agree."""
    settings = replace(BEGINS, follows_parent=False, threshold=round(ratio * ROOTS))
    theirs = TraceIdRatioBased(ratio)
    kept = 0
    for _ in range(2_000):
        trace, passed = edge_context([], settings)
        decision = theirs.should_sample(None, int(trace.trace_id, 16), "").decision
        assert trace.sampled == (decision is Decision.RECORD_AND_SAMPLE)
        assert own(passed)[3] == ("03" if trace.sampled else "02"), "or the engine would decide for itself"
        kept += trace.sampled
    assert abs(kept - 2_000 * ratio) <= 5 * (2_000 * ratio * (1 - ratio)) ** 0.5


@pytest.mark.parametrize("header", [KEPT, NOT_KEPT])
@pytest.mark.parametrize(("threshold", "kept"), [(0, False), (ROOTS, True)])
def test_a_sampler_that_is_not_parent_based_asks_no_parent(header, threshold, kept):
    """always_off and always_on of an engine whose callers decide otherwise."""
    settings = replace(BEGINS, follows_parent=False, threshold=threshold)
    assert edge_context([(b"traceparent", header)], settings)[0].sampled is kept


# ---- through the middleware ---------------------------------------------------------------------


def recorded(settings, headers):
    """The record of one request, and what the application saw."""
    with rigged(Settings(spool=None, traces=settings)) as rig:
        rig.begin()
        scope = rig.scope(headers=[ID, *headers])
        rig.ask(plain(start(headers=JSON), NO_USAGE), scope=scope)
        assert rig.probe.errors == 0
        return only(rig.settle()), scope["headers"], rig.delivery.records


def test_the_record_has_the_ids_that_the_engine_got():
    """So that the service can emit the span that the engine's hangs below."""
    usage, headers, _ = recorded(TraceSettings(), [(b"traceparent", KEPT)])
    assert (usage.trace_id, usage.parent_span_id, usage.sampled, usage.span_sent) == (TRACE, SPAN, True, False)
    assert own(headers) == ["00", TRACE, usage.span_id, "01"]


def test_the_record_of_a_root_has_no_parent():
    """A trace that begins here."""
    usage, headers, _ = recorded(BEGINS, [])
    assert own(headers) == ["00", usage.trace_id, usage.span_id, "03"]
    assert (usage.parent_span_id, usage.sampled) == ("", True)


def test_a_trace_that_nobody_keeps_is_named_only_where_it_is_the_callers():
    """An exemplar that leads to it would lead nowhere; the caller may have kept its own part."""
    usage, headers, _ = recorded(TraceSettings(), [(b"traceparent", NOT_KEPT)])
    assert (usage.trace_id, usage.sampled) == (TRACE, False)
    assert own(headers)[2] == usage.span_id
    usage, headers, _ = recorded(replace(BEGINS, threshold=0), [])
    assert (usage.trace_id, usage.span_id, usage.sampled) == ("", "", False)
    assert own(headers)[3] == "02"


def test_without_any_traces_nothing_is_added():
    """Neither a header nor a field: records are as large as ever."""
    _, headers, records = recorded(TraceSettings(), [])
    assert headers == [ID]
    assert not {"trace_id", "span_id", "parent_span_id", "sampled", "span_sent", "estimate_nano"} & set(records[-1])
