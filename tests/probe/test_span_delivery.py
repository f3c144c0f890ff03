"""Spans on their way to a collector: bounded, counted, and never anybody's wait, whatever the collector does."""

import logging
import threading
import time
from dataclasses import replace

import pytest
from tests.probe.rig import rigged
from tests.probe.test_delivery import until

from farthing_probe import probe
from farthing_probe.edge_span import EdgeSpan
from farthing_probe.settings import Settings
from farthing_probe.span_delivery import SpanDelivery
from farthing_probe.trace_settings import TraceSettings

SETTINGS = TraceSettings(mode="sdk", begins=True, queue=8, batch=4, delay_seconds=0.01)
SPAN = EdgeSpan(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736", span_id="b7ad6b7169203331", parent_span_id="00f067aa0ba902b7",
    name="chat llama", start_ns=1_780_000_000_000_000_000, end_ns=1_780_000_001_000_000_000,
    attributes={"gen_ai.usage.input_tokens": 10, "gen_ai.response.finish_reasons": ("stop", "length")},
    events=(("first_token", 1_780_000_000_500_000_000),), failed=False,
)  # fmt: skip
SECONDS = 10.0
"""For what takes milliseconds."""


def numbered(count):
    """Spans that can be told apart."""
    return [replace(SPAN, name=str(number)) for number in range(count)]


class Collector:
    """A sender that answers when it is let, as it is told."""

    def __init__(self, *, answer=True, hangs=False):
        self.answer, self.taken, self.batches, self.ended = answer, [], [], False
        self.asked, self.may = threading.Event(), threading.Event()
        if not hangs:
            self.may.set()

    def export(self, spans):
        """Take spans, or not."""
        self.asked.set()
        assert self.may.wait(SECONDS)
        self.batches.append(len(spans))
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer:
            self.taken.extend(span.name for span in spans)
        return len(spans) if self.answer else 0

    def shutdown(self):
        """Note the call."""
        self.ended = True


def test_what_is_put_arrives_in_order_and_is_counted():
    """In batches that are never larger than told; what waits at the end is sent."""
    collector = Collector()
    delivery = SpanDelivery(replace(SETTINGS, queue=100, delay_seconds=60.0), lambda: collector)
    assert all(delivery.put(span) for span in numbered(11))
    delivery.start()
    delivery.start()
    delivery.close()
    delivery.join(SECONDS)
    assert collector.taken == [str(number) for number in range(11)]
    assert collector.batches == [4, 4, 3]
    assert (delivery.counts.sent, delivery.counts.dropped, delivery.counts.failures) == (11, 0, 0)
    assert (collector.ended, delivery.waiting) == (True, 0)


def test_a_batch_goes_when_it_is_full_and_a_part_of_one_in_time():
    """Nothing waits for ever."""
    collector = Collector()
    full = SpanDelivery(replace(SETTINGS, delay_seconds=60.0), lambda: collector)
    full.start()
    for span in numbered(4):
        full.put(span)
    until(lambda: full.counts.sent == 4)
    part = SpanDelivery(SETTINGS, lambda: collector)
    part.start()
    part.put(SPAN)
    until(lambda: part.counts.sent == 1)
    for each in (full, part):
        each.close()
        each.join(SECONDS)


def test_what_comes_while_a_batch_is_sent_waits_to_become_one(monkeypatch):
    """A loaded engine does not post span by span, as fast as its collector answers."""
    collector = Collector()
    delivery = SpanDelivery(replace(SETTINGS, delay_seconds=60.0), lambda: collector)
    export = collector.export

    def busy(spans):
        if len(collector.batches) < 20:
            delivery.put(SPAN)
        return export(spans)

    monkeypatch.setattr(collector, "export", busy)
    assert all(delivery.put(span) for span in numbered(4))
    delivery.start()
    until(lambda: len(collector.batches) == 1 and delivery.waiting == 1)
    time.sleep(0.05)
    assert collector.batches == [4]
    assert all(delivery.put(span) for span in numbered(3))
    until(lambda: collector.batches == [4, 4] and delivery.waiting == 1)
    delivery.close()
    delivery.join(SECONDS)
    assert collector.batches == [4, 4, 1]


def test_while_the_collector_hangs_memory_is_bounded_and_loss_is_counted():
    """A thousand spans against a queue of eight: whoever puts them comes back at once, each time."""
    collector = Collector(hangs=True)
    delivery = SpanDelivery(SETTINGS, lambda: collector)
    delivery.start()
    for span in numbered(4):
        assert delivery.put(span)
    assert collector.asked.wait(SECONDS)
    until(lambda: delivery.waiting == 0)
    placed = [delivery.put(span) for span in numbered(1_000)]
    assert placed == [True] * 8 + [False] * 992
    assert (delivery.waiting, delivery.counts.dropped, delivery.counts.sent) == (8, 992, 0)
    collector.may.set()
    until(lambda: delivery.counts.sent == 12)
    assert delivery.put(SPAN), "there is room again"
    delivery.close()
    delivery.join(SECONDS)
    assert (delivery.counts.sent, delivery.counts.dropped) == (13, 992)


@pytest.mark.parametrize("answer", [False, OSError("canary")], ids=["not taken", "raises"])
def test_what_no_collector_takes_is_lost_and_counted(answer, caplog):
    """Every span is either sent or dropped; one line says that it begins, one that it is over, and none quotes."""
    caplog.set_level(logging.INFO)
    collector = Collector(answer=answer)
    delivery = SpanDelivery(replace(SETTINGS, queue=100), lambda: collector)
    for span in numbered(10):
        delivery.put(span)
    delivery.start()
    until(lambda: delivery.counts.dropped == 10)
    assert (delivery.counts.sent, delivery.counts.failures) == (0, 3)
    collector.answer = True
    delivery.put(SPAN)
    until(lambda: delivery.counts.sent == 1)
    delivery.close()
    delivery.join(SECONDS)
    reason = "it rejects them" if answer is False else "OSError"
    assert caplog.messages == [
        f"farthing_probe: the collector takes no spans ({reason}); they are counted and given up",
        "farthing_probe: the collector takes spans again",
    ]


def test_the_end_waits_no_longer_than_it_may():
    """A collector that hangs is left behind, and what waited is counted."""
    collector = Collector(hangs=True)
    delivery = SpanDelivery(SETTINGS, lambda: collector)
    delivery.start()
    for span in numbered(8):
        delivery.put(span)
    assert collector.asked.wait(SECONDS)
    until(lambda: delivery.waiting == 4)
    delivery.close()
    delivery.join(0.01)
    assert not collector.may.is_set()
    assert (delivery.counts.dropped, delivery.put(SPAN), delivery.counts.dropped) == (4, False, 5)
    collector.may.set()
    until(lambda: delivery.counts.sent == 4)


def test_an_exporter_that_cannot_be_made_leaves_spans_to_the_records(caplog):
    """Half an installation: told once, and put says from then on that nothing was sent."""

    def make():
        raise ImportError("canary")

    delivery = SpanDelivery(SETTINGS, make)
    assert delivery.put(SPAN)
    delivery.start()
    until(lambda: caplog.records)
    assert not delivery.put(SPAN)
    assert (delivery.counts.dropped, delivery.counts.failures) == (1, 1)
    assert "ImportError" in caplog.text
    assert "canary" not in caplog.text
    delivery.close()
    delivery.join(SECONDS)


def test_a_process_that_gets_no_thread_serves_on(monkeypatch):
    """Limits of a container."""
    delivery = SpanDelivery(SETTINGS, Collector)

    def start():
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(delivery._thread, "start", start)
    delivery.put(SPAN)
    delivery.start()
    assert (delivery.put(SPAN), delivery.counts.dropped) == (False, 1)
    delivery.close()
    delivery.join(0.0)


def test_a_forked_child_sends_nothing():
    """The spans are the parent's."""
    delivery = SpanDelivery(SETTINGS, Collector)
    delivery.put(SPAN)
    delivery.abandon()
    delivery.start()
    assert (delivery.put(SPAN), delivery.waiting, delivery._thread.ident) == (False, 0, None)
    with rigged(Settings(spool=None, traces=SETTINGS)) as rig:
        spans = rig.probe.spans
        assert spans is not None
        assert spans.put(SPAN)
        probe._forget()
        rig.probe.stop()
        assert (spans.put(SPAN), spans.waiting, spans.counts.dropped, rig.probe.errors) == (False, 0, 0, 0)
