"""Spans out of the service: each sampled request's once, behind costing's back, bounded and counted."""

import threading
import time
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
from tests.service.books import accountant, raw_of
from tests.tracing.receiver import otlp_receiver
from tests.tracing.traced import traced_wire

from farthing.collectors.wire import decode_line
from farthing.domain.clock import Anchor
from farthing.domain.errors import ConfigError
from farthing.domain.records import Usage
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.pricing import price_book
from farthing.service.span_emission import DROPPED, FAILED, SENT, SpanEmission
from farthing.settings import Settings
from farthing.settings_traces import TracesSettings

ANCHOR = Anchor(1_795_000_000_000_000_000, 0)
RECORDS = 900


@pytest.fixture(scope="module")
def recording():
    """The 8B recording."""
    return load_recording("h100-llama8b-vllm0.26")


@pytest.fixture(scope="module")
def raw(recording):
    """Its beginning; every third request is sampled."""
    return raw_of(islice(traced_wire(recording, every=3), RECORDS))


@pytest.fixture(scope="module")
def usages(raw):
    """The requests among them."""
    return [record for record in (decode_line(one.line) for one in raw) if isinstance(record, Usage)]


@pytest.fixture
def ledger(tmp_path):
    """An empty one."""
    with Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as opened:
        yield opened


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Batches do not wait long for more."""
    monkeypatch.setattr("farthing.service.span_emission.LINGER_SECONDS", 0.05)


class Holding:
    """An exporter that waits until it is told to go on."""

    def __init__(self):
        self.go, self.began, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.spans = []

    def export(self, spans):
        self.began.set()
        assert self.go.wait(20)
        self.spans += spans
        return len(spans)

    def shutdown(self):
        self.ended.set()
        self.go.set()


def emission(url="http://127.0.0.1:1", exporter=None, **fields):
    return SpanEmission(TracesSettings(endpoint=url, **fields), exporter)


def keeper(ledger, spans, settings=None):
    return accountant(ledger, settings, spans.offer)


def settled(spans, total):
    """What became of spans, once all of so many are accounted for."""
    deadline = time.monotonic() + 20
    while sum(spans.counts().values()) < total:
        assert time.monotonic() < deadline, spans.counts()
        time.sleep(0.01)
    return dict(spans.counts())


def test_each_sampled_request_of_a_recording_reaches_the_collector_once(raw, usages, ledger):
    """With the ids of its record, whatever is restarted: an earlier process's requests are not sent again."""
    wanted = sorted(usage.span_id for usage in usages if usage.sampled)
    with otlp_receiver() as receiver:
        spans = emission(receiver.endpoint)
        spans.start()
        for begin in range(0, RECORDS, 300):
            # as after a kill: all that is open is read again
            restarted = keeper(ledger, spans)
            ledger.add(raw[begin : begin + 300])
            restarted.advance()
        spans.stop()
        found = sorted(span.span_id for span in receiver.spans)
    assert found == [one for one in wanted if one in set(found)]
    # those whose turn has not come wait for the records before them
    assert len(wanted) - 10 <= len(found) <= len(wanted)
    assert spans.counts() == {SENT: len(found), FAILED: 0, DROPPED: 0}
    assert spans.waiting() == 0


def test_what_was_accepted_before_a_kill_is_told_of_after_it(raw, usages, ledger):
    """Intake said 200 to it: its span is sent and its latency counted by the next process, and by that one alone."""
    told: list[str] = []

    def started(settings=None):
        return accountant(ledger, settings, lambda usage, *_: told.append(usage.span_id))

    ledger.add(raw[:1])
    started()
    counted = 0
    for begin in range(1, RECORDS, 300):
        ledger.add(raw[begin : begin + 300])
        # the process that took them was killed before it read them
        after = started()
        after.advance()
        counted += sum(after.snapshot().requests.values())
    idle = started()
    idle.advance()
    wanted = [usage.span_id for usage in usages if usage.sampled]
    assert sorted(told) == sorted(set(told)) == sorted(set(wanted) & set(told))
    assert len(wanted) - 10 <= len(told)
    assert len(usages) - 30 <= counted <= len(usages)
    assert sum(idle.snapshot().requests.values()) == 0
    # nor is anything told twice where other engines are paid for otherwise now
    dear = Settings.model_validate({"engines": [{"name": "h100", "url": "http://e", "gpu": "no-such-gpu"}]})
    idle.know(dear, price_book(dear))
    idle.advance()
    for _ in range(2):
        started(dear).advance()
    started().advance()
    assert sorted(told) == sorted(set(told))


def test_a_request_without_a_price_has_its_span_too(raw, usages, ledger):
    """Where it went and how long it took does not depend on money."""
    settings = Settings.model_validate({"engines": [{"name": "h100", "url": "http://e", "gpu": "no-such-gpu"}]})
    spans = emission()
    started = keeper(ledger, spans, settings)
    ledger.add(raw)
    started.advance()
    waiting = spans.waiting()
    assert waiting is not None
    assert waiting >= sum(usage.sampled for usage in usages) - 10 > 0
    # once: there are no books by which a restart could tell
    keeper(ledger, spans, settings).advance()
    assert spans.waiting() == waiting


def test_what_is_not_sampled_or_was_sent_by_the_probe_is_not_sent(usages):
    """A collector that gets a span twice shows it twice."""
    spans = emission()
    for usage in usages:
        spans.offer(replace(usage, span_sent=usage.sampled), ANCHOR, "e")
    assert spans.waiting() == 0
    assert sum(spans.counts().values()) == 0


def test_nothing_is_sent_without_an_endpoint(usages):
    """Nor counted, since nothing was wanted; no thread is started."""
    spans = SpanEmission(TracesSettings())
    before = threading.active_count()
    spans.start()
    spans.offer(usages[0], ANCHOR, "e")
    assert (spans.counts(), spans.waiting(), threading.active_count()) == ({}, None, before)
    spans.stop()


def sampled(usages, count):
    """So many sampled requests."""
    one = next(usage for usage in usages if usage.sampled)
    return [replace(one, span_id=f"{number + 1:016x}") for number in range(count)]


def test_a_collector_that_does_not_answer_holds_nobody_and_fills_nothing(usages):
    """What waits is bounded: the rest is dropped and counted while an export hangs, and offering goes on."""
    exporter = Holding()
    spans = emission(exporter=lambda: exporter, queue_spans=100)
    spans.start()
    for usage in sampled(usages, 10):
        spans.offer(usage, ANCHOR, "e")
    assert exporter.began.wait(20)
    for usage in sampled(usages, 5_000):
        spans.offer(usage, ANCHOR, "e")
    # the export still waits: none of the offers has waited for it
    assert not exporter.go.is_set()
    assert spans.waiting() == 100
    assert spans.counts() == {SENT: 0, FAILED: 0, DROPPED: 4_900}
    exporter.go.set()
    spans.stop()
    assert spans.counts() == {SENT: 110, FAILED: 0, DROPPED: 4_900}
    assert len(exporter.spans) == 110


@pytest.mark.parametrize("mode", ["error", "refusing"])
def test_a_collector_that_is_away_or_refuses_costs_spans_and_they_are_counted(usages, mode, caplog):
    """It is told of once, and what comes later gets through once the collector is back."""
    with otlp_receiver(error_status=400, mode=mode) as receiver:
        spans = emission(receiver.endpoint, timeout_seconds=0.5)
        spans.start()
        for number in range(1, 3):
            for usage in sampled(usages, 20):
                spans.offer(usage, ANCHOR, "e")
            assert settled(spans, 20 * number) == {SENT: 0, FAILED: 20 * number, DROPPED: 0}
        receiver.behave("ok")
        for usage in sampled(usages, 7):
            spans.offer(usage, ANCHOR, "e")
        assert settled(spans, 47) == {SENT: 7, FAILED: 40, DROPPED: 0}
        spans.stop()
        assert len(receiver.spans) == 7
    told = [record.levelname for record in caplog.records]
    assert told.count("WARNING") == 1


def test_spans_that_a_collector_takes_some_of_are_counted_apart(usages, caplog):
    """It answers 200 and how many it rejected; a batch that is as it was may be rejected for a full disk."""
    with otlp_receiver(rejects=3) as receiver:
        spans = emission(receiver.endpoint)
        for usage in sampled(usages, 20):
            spans.offer(usage, ANCHOR, "e")
        spans.start()
        assert settled(spans, 20) == {SENT: 17, FAILED: 3, DROPPED: 0}
        receiver.rejects = 50
        spans.offer(sampled(usages, 1)[0], ANCHOR, "e")
        assert settled(spans, 21) == {SENT: 17, FAILED: 4, DROPPED: 0}
        spans.stop()
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "takes 17 spans of 20" in caplog.text


def test_a_collector_that_comes_and_goes_is_told_of_once_in_a_while(caplog, monkeypatch):
    """One that rejects a span of every second batch, say: a pair of lines in a minute, not every few seconds."""
    caplog.set_level("INFO")
    now, takes = [1_000.0], iter([1, 2] * 30)
    monkeypatch.setattr("farthing.service.span_emission.time", SimpleNamespace(monotonic=lambda: now[0]))
    made = SimpleNamespace(of=lambda _: ["one", "another"])
    exporter = SimpleNamespace(export=lambda _: next(takes))
    spans = emission()
    for _ in range(60):
        now[0] += 2.0
        spans._send(made, [], exporter)
    assert spans.counts() == {SENT: 90, FAILED: 30, DROPPED: 0}
    levels = [record.levelname for record in caplog.records if record.name == "farthing.service.span_emission"]
    assert levels == ["WARNING", "INFO"] * 2


def test_a_redirect_is_a_failure(usages):
    """The exporter follows none, so the spans went nowhere."""
    with otlp_receiver(error_status=307, mode="error") as receiver:
        spans = emission(receiver.endpoint)
        spans.start()
        spans.offer(sampled(usages, 1)[0], ANCHOR, "e")
        assert settled(spans, 1) == {SENT: 0, FAILED: 1, DROPPED: 0}
        spans.stop()


def test_a_span_without_ids_is_dropped_and_counted(usages):
    """It is wanted, and cannot be."""
    spans = emission()
    spans.offer(replace(sampled(usages, 1)[0], span_id=""), ANCHOR, "e")
    assert spans.counts() == {SENT: 0, FAILED: 0, DROPPED: 1}


@pytest.mark.parametrize("anchor", [Anchor(1_795_000_000_000_000_000, 2**61), Anchor(2**62, -(2**62))])
def test_a_span_of_a_clock_that_nobody_can_have_takes_no_other_with_it(usages, anchor):
    """Its moments fit into no message: it is dropped, and those of its batch are sent."""
    with otlp_receiver() as receiver:
        spans = emission(receiver.endpoint)
        one, odd, other = sampled(usages, 3)
        spans.offer(one, ANCHOR, "e")
        spans.offer(odd, anchor, "odd")
        spans.offer(other, ANCHOR, "e")
        spans.start()
        assert settled(spans, 3) == {SENT: 2, FAILED: 0, DROPPED: 1}
        assert sorted(span.span_id for span in receiver.spans) == sorted([one.span_id, other.span_id])
        spans.stop()


def test_a_stop_ends_a_hanging_export_and_counts_what_is_left(usages, monkeypatch):
    """The service must not wait for a collector that does not answer."""
    monkeypatch.setattr("farthing.service.span_emission.LAST_SECONDS", 0.2)
    exporter = Holding()
    spans = emission(exporter=lambda: exporter)
    spans.start()
    spans.offer(sampled(usages, 1)[0], ANCHOR, "e")
    assert exporter.began.wait(20)
    spans.offer(sampled(usages, 1)[0], ANCHOR, "e")
    spans.stop()
    assert exporter.ended.is_set()
    assert spans.counts()[DROPPED] == 1


def test_the_headers_of_the_file_go_out_with_spans(usages, tmp_path):
    """They let Farthing into a collector that demands a token."""
    file = tmp_path / "headers"
    file.write_text("# of the collector\nAuthorization: Basic abc=\n\nX-Scope-OrgID: farthing\n")
    with otlp_receiver() as receiver:
        spans = emission(receiver.endpoint, headers_file=file)
        spans.start()
        spans.offer(sampled(usages, 1)[0], ANCHOR, "e")
        (request,) = receiver.wait_for_requests(1)
        spans.stop()
    assert request.path == "/v1/traces"
    assert (request.headers["authorization"], request.headers["x-scope-orgid"]) == ("Basic abc=", "farthing")
    assert request.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("text", ["Authorization", "a b: c", "x:", ": secret", "x: ä"])
def test_a_file_of_headers_with_a_wrong_line_is_refused_without_quoting_it(tmp_path, text):
    """A token must not get into a log."""
    file = tmp_path / "headers"
    file.write_text(f"ok: yes\n{text}\n")
    with pytest.raises(ConfigError, match=r"headers:2: is not `name: value`$") as caught:
        emission(headers_file=file)
    assert text not in str(caught.value)


def test_a_missing_file_of_headers_is_told_at_the_start(tmp_path):
    """Not when the first span is refused."""
    with pytest.raises(ConfigError, match="cannot be read"):
        emission(headers_file=tmp_path / "none")


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
        ("https://otlp.example/otlp/v1/traces", "https://otlp.example/otlp/v1/traces"),
        ("https://otlp.example?tenant=a", "https://otlp.example/v1/traces?tenant=a"),
        ("https://otlp.example/?tenant=a", "https://otlp.example/v1/traces?tenant=a"),
        ("https://otlp.example/api/spans?tenant=a", "https://otlp.example/api/spans?tenant=a"),
    ],
)
def test_an_address_without_a_path_gets_that_of_traces(endpoint, url):
    """As OpenTelemetry's own exporters do with the address of a collector."""
    assert TracesSettings(endpoint=endpoint).url == url
