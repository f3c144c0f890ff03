"""Whatever the intake and the disk do, every record arrives or is counted, and the engine notices nothing."""

import gzip
import logging
import os
import random
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.probe.intake_double import IntakeDouble, intake_double

from farthing_probe import connection, delivery, wire
from farthing_probe.connection import Connection
from farthing_probe.delivery import Delivery
from farthing_probe.settings import Settings
from farthing_probe.spool import Batch, Spool

TOKEN = "t0ken-canary"


def usage(number: int, **more: Any) -> wire.Wire:
    return wire.usage(
        "b", 0, number, request_id=f"r{number}", engine_index=0, model="m", outcome="finished", status=200,
        arrived_ns=1, ended_ns=2, **more,
    )  # fmt: skip


def ready(number: int) -> wire.Wire:
    return wire.lifecycle("b", 0, number, at_ns=1, event="ready")


def nothing() -> None:
    """A tick without work."""


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return as soon as the condition holds; the bound is only for a broken build."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


@pytest.fixture
def intake() -> Iterator[IntakeDouble]:
    with intake_double() as double:
        yield double


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """All waits are short, so that no test has to."""
    monkeypatch.setattr(delivery, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(delivery, "PACK_SECONDS", 0.1)
    monkeypatch.setattr(delivery, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(delivery, "MOST_WAIT", 0.04)
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 0.3)


class Deliveries:
    """Makes deliveries to one intake and closes them all."""

    def __init__(self, url: str, spool: Path) -> None:
        self.url, self.spool = url, spool
        self.made: list[Delivery] = []

    def __call__(self, *, tick: Callable[[], None] = nothing, spool: bool = False, **settings: Any) -> Delivery:
        given = {"url": self.url, "spool": self.spool if spool else None, **settings}
        self.made.append(Delivery(Settings(**given), f"b-{len(self.made)}", tick))
        return self.made[-1]


@pytest.fixture
def deliver(intake: IntakeDouble, tmp_path: Path, quick: None) -> Iterator[Deliveries]:
    deliveries = Deliveries(intake.url, tmp_path / "spool")
    yield deliveries
    intake.released.set()
    for made in deliveries.made:
        made.close(1.0)


def put(to: Delivery, numbers: range) -> None:
    for number in numbers:
        to.put(usage(number))


def has_sent(to: Delivery, count: int) -> Callable[[], bool]:
    return lambda: to.counts.sent == count


def test_records_arrive_in_order_by_path_with_the_token_over_one_connection(intake: IntakeDouble, deliver: Deliveries):
    """Usage goes one way and the rest the other; a URL may have a prefix."""
    to = deliver(token=TOKEN, url=intake.url + "/farthing")
    intake.prices = {"llama": {"output": 7}}
    to.start()
    for number in range(0, 20, 2):
        to.put(usage(number))
        to.put(ready(number + 1))
    until(lambda: to.counts.sent == 20)
    assert {path: [r["seq"] for r in records] for path, records in intake.received.items()} == {
        "/farthing/v1/usage": list(range(0, 20, 2)),
        "/farthing/v1/windows": list(range(1, 20, 2)),
    }
    assert intake.received["/farthing/v1/usage"][0] == usage(0)
    assert intake.tokens == {f"Bearer {TOKEN}"}
    assert intake.connections == 1
    assert to.unit_prices == intake.prices
    assert (to.counts, to.waiting, to.spooled_bytes) == (delivery.Counts(sent=20), 0, 0)


def test_an_intake_that_asks_for_fewer_posts_is_sent_fewer(
    intake: IntakeDouble, deliver: Deliveries, monkeypatch: pytest.MonkeyPatch
):
    """What comes within its interval shares a body; a full body does not wait."""
    monkeypatch.setattr(delivery, "PACK_SECONDS", 3.0)
    intake.every_seconds = 30
    to = deliver()
    to.put(usage(0))
    to.start()
    until(lambda: to.counts.sent == 1)
    began = time.monotonic()
    for number in range(1, 11):
        to.put(usage(number))
        time.sleep(0.02)
    until(lambda: to.counts.sent == 11)
    assert time.monotonic() > began + 0.5
    assert [count for _, count in intake.posts] == [1, 10]
    # longer than this test waits for anything
    monkeypatch.setattr(delivery, "PACK_SECONDS", 600.0)
    to.every_seconds = 600.0
    put(to, range(11, 11 + delivery.BODY_RECORDS))
    until(lambda: to.counts.sent == 11 + delivery.BODY_RECORDS)


def test_what_an_intake_says_that_is_no_interval_changes_nothing(intake: IntakeDouble, deliver: Deliveries):
    """Nor does it send more often than it looks."""
    to = deliver()
    to.start()
    for number, said in enumerate(("soon", None, -1, 0)):
        intake.every_seconds = said
        to.put(usage(number))
        until(has_sent(to, number + 1))
        assert to.every_seconds == delivery.TICK_SECONDS


def test_bodies_are_bounded_by_records_and_bytes(intake: IntakeDouble, deliver: Deliveries):
    """A burst leaves in several bodies, in order; a record larger than a body travels alone."""
    to = deliver()
    put(to, range(2500))
    to.put(usage(2500, user="x" * delivery.BODY_BYTES))
    for number in range(2501, 2511):
        to.put(usage(number, user="x" * 100_000))
    to.start()
    until(lambda: to.counts.sent == 2511)
    assert intake.numbers == list(range(2511))
    sizes = [count for _, count in intake.posts]
    assert max(sizes) <= delivery.BODY_RECORDS
    assert sizes[-3:] != [11, 0, 0]
    assert all(count <= 5 for _, count in intake.posts[-2:])


@pytest.mark.parametrize("behaviour", [401, 403, 404, 408, 429, 500, 503, 302, "hang", "reset", "stranger"])
def test_records_wait_out_what_may_pass(intake: IntakeDouble, deliver: Deliveries, behaviour: int | str):
    """Two failures, then the same records, once each and in order."""
    intake.behaviours.extend([behaviour, behaviour])
    to = deliver()
    put(to, range(3))
    to.start()
    until(lambda: to.counts.sent == 3)
    assert intake.numbers == [0, 1, 2]
    assert to.counts == delivery.Counts(sent=3, failures=2)


@pytest.mark.parametrize("behaviour", ["lost", "truncated"])
def test_an_answer_that_never_came_is_asked_for_again(intake: IntakeDouble, deliver: Deliveries, behaviour: str):
    """At least once: the intake knows the records by their key."""
    intake.behaviours.append(behaviour)
    to = deliver()
    put(to, range(3))
    to.start()
    until(lambda: to.counts.sent == 3)
    assert intake.numbers == [0, 1, 2, 0, 1, 2]
    assert to.counts == delivery.Counts(sent=3, failures=1)


def test_an_answer_that_trickles_in_is_broken_off(
    intake: IntakeDouble, deliver: Deliveries, monkeypatch: pytest.MonkeyPatch
):
    """Each byte comes in time, the whole never would."""
    monkeypatch.setattr(delivery, "POST_SECONDS", 0.2)
    intake.behaviours.append("trickle")
    to = deliver()
    put(to, range(3))
    to.start()
    until(lambda: to.counts.sent == 3)
    assert to.counts.failures == 1


def test_an_answer_longer_than_anybody_needs_costs_its_connection_only(
    intake: IntakeDouble, deliver: Deliveries, monkeypatch: pytest.MonkeyPatch
):
    """Some proxies explain themselves in many words."""
    monkeypatch.setattr(connection, "ANSWER_BYTES", 1_000)
    intake.words = "x" * 2_000
    intake.behaviours.append(503)
    to = deliver()
    put(to, range(3))
    to.start()
    until(lambda: to.counts.sent == 3)
    assert (to.counts.failures, intake.connections) == (1, 2)


def test_a_connection_closed_while_idle_is_no_failure(intake: IntakeDouble, deliver: Deliveries):
    """Servers close what is kept alive too long; the next post simply opens another."""
    to = deliver()
    to.start()
    behaviours: list[list[int | str]] = [[200], ["goodbye"], [200], ["reset", 200], [200]]
    for number, behaviour in enumerate(behaviours):
        intake.behaviours.extend(behaviour)
        to.put(usage(number))
        until(lambda: to.counts.sent == len(intake.numbers) > number)  # noqa: B023 - called before the next
    assert intake.numbers == [0, 1, 2, 3, 4]
    assert to.counts.failures == 0
    assert intake.connections == 3


@pytest.mark.parametrize("status", [400, 405, 415, 422])
def test_records_that_the_intake_cannot_read_are_dropped_and_counted(
    intake: IntakeDouble, deliver: Deliveries, status: int, caplog: pytest.LogCaptureFixture
):
    """Sending them again would block all others for ever; one line in the log says it."""
    intake.behaviours.extend([status, status])
    to = deliver()
    for number in range(4):
        to.put(usage(number) if number < 3 else ready(number))
    to.start()
    until(lambda: to.counts.dropped == 4)
    put(to, range(4, 6))
    until(lambda: to.counts.sent == 2)
    assert intake.numbers == [4, 5]
    assert [record.getMessage() for record in caplog.records] == [
        f"farthing-probe: the intake answered {status}: 3 records are dropped"
    ]


def test_bodies_too_large_for_the_intake_are_halved(intake: IntakeDouble, deliver: Deliveries):
    """Down to single records; one that is still too large is dropped and counted."""
    intake.most_bytes = 2_000
    to = deliver()
    for number in range(40):
        to.put(usage(number, user="x" * 2_000 if number == 17 else ""))
    to.start()
    until(lambda: to.counts.sent + to.counts.dropped == 40)
    assert intake.numbers == [number for number in range(40) if number != 17]
    assert to.counts == delivery.Counts(sent=39, dropped=1)


def test_a_failure_among_halves_counts_nothing_twice(intake: IntakeDouble, deliver: Deliveries):
    """The whole body is sent again, and counted when all of it is answered for."""
    intake.behaviours.extend([413, 413, 400, 500])
    to = deliver()
    put(to, range(4))
    to.start()
    until(lambda: to.counts.sent == 4)
    assert to.counts == delivery.Counts(sent=4, failures=1)


def test_refused_records_are_counted_and_named_by_their_field(
    intake: IntakeDouble, deliver: Deliveries, caplog: pytest.LogCaptureFixture
):
    """The rest of the body survives; the log has the field, never a value."""
    intake.behaviours.append("refuse")
    to = deliver(token=TOKEN)
    for number in range(3):
        to.put(usage(number, tenant="canary-tenant"))
    to.start()
    until(lambda: to.counts.sent == 2)
    assert to.counts == delivery.Counts(sent=2, refused=1)
    assert [r.getMessage() for r in caplog.records] == [
        "farthing-probe: the intake refused 1 records, the first for its 'status'"
    ]


def test_nothing_secret_is_logged_whatever_goes_wrong(
    intake: IntakeDouble, deliver: Deliveries, caplog: pytest.LogCaptureFixture
):
    """A token that no header can carry makes http.client quote it in its error; the log has the error's class."""
    to = deliver(token=TOKEN + "\nX: y", tick=lambda: (_ for _ in ()).throw(ValueError("canary-tick")))
    to.put(usage(0, tenant="canary-tenant"))
    to.put({"kind": "usage", "seq": {"canary-set"}})
    to.put({"canary": "without a kind"})
    to.start()
    until(lambda: to.counts.failures > 2 and to.counts.tick_failures > 2)
    assert to.counts.dropped == 2
    assert "canary" not in caplog.text
    assert sorted(record.getMessage() for record in caplog.records) == [
        "farthing-probe: 1 records are dropped: they cannot be encoded",
        "farthing-probe: a tick failed: ValueError",
        "farthing-probe: records wait for the intake: ValueError",
    ]
    assert all(record.levelno == logging.WARNING and not record.exc_info for record in caplog.records)


def test_waits_double_up_to_their_bound_and_obey_the_intake(intake: IntakeDouble):
    """0.5 s, 1 s, 2 s ... 30 s, less up to half by chance; Retry-After counts up to a minute."""
    to = Delivery(Settings(url=intake.url), "b-0", nothing)
    to._random = random.Random(4)  # noqa: S311
    put(to, range(1))
    to._pack()

    def wait(asked: str = "") -> float:
        intake.behaviours.append(503)
        intake.headers = {"Retry-After": asked}
        before = time.monotonic()
        batch = to._oldest()
        assert batch is not None
        assert not to._delivered(batch)
        return to._again - before

    for full in (0.5, 1, 2, 4, 8, 16, 30, 30):
        assert full / 2 <= wait() < full + 1
    assert 45 <= wait("45") < 46
    assert 60 <= wait("3600") < 61
    assert wait("Wed, 21 Oct 2026 07:28:00 GMT") < 31
    batch = to._oldest()
    assert batch is not None
    assert to._delivered(batch)
    put(to, range(1, 2))
    to._pack()
    assert to._again == 0
    assert 0.25 <= wait() < 1.5


def test_ticks_go_on_while_a_post_hangs_and_posts_while_a_tick_hangs(
    intake: IntakeDouble, deliver: Deliveries, monkeypatch: pytest.MonkeyPatch
):
    """Neither waits for the other."""
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 20.0)
    ticks: list[int] = []
    hanging = threading.Event()

    def tick() -> None:
        ticks.append(0)
        if len(ticks) == 6:
            hanging.wait(20)

    intake.behaviours.append("hang")
    to = deliver(tick=tick)
    put(to, range(1))
    to.start()
    until(lambda: len(intake.posts) == 1 and len(ticks) == 6)
    assert to.counts.sent == 0
    intake.released.set()
    until(lambda: to.counts.sent == 1)
    put(to, range(1, 2))
    until(lambda: to.counts.sent == 2)
    assert len(ticks) == 6
    hanging.set()
    until(lambda: len(ticks) > 6)


def test_put_never_blocks_and_drops_the_oldest_beyond_its_bound(intake: IntakeDouble, monkeypatch: pytest.MonkeyPatch):
    """Without a thread that takes them, as after a fork that nobody announced."""
    monkeypatch.setattr(delivery, "PENDING_RECORDS", 500)
    to = Delivery(Settings(url=intake.url), "b-0", nothing)
    threads = [threading.Thread(target=put, args=(to, range(n, n + 2_000))) for n in range(0, 8_000, 2_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (to.waiting, to.counts.dropped) == (500, 7_500)
    assert to._to_pack.qsize() <= len(threads)


def test_memory_is_bounded_and_the_oldest_batches_go_where_there_is_no_spool(intake: IntakeDouble, deliver: Deliveries):
    """Counted by record; what is left is the newest."""
    intake.always = 503
    to = deliver(queue_bytes=20_000)
    noise = random.Random(4)  # noqa: S311
    for number in range(3_000):
        to.put(usage(number, user=noise.randbytes(40).hex()))
    to.start()
    until(lambda: to.counts.dropped > 0 and not to._pending)
    intake.always = None
    until(lambda: to.counts.sent + to.counts.dropped == 3_000)
    assert to.counts.dropped >= 1_000
    assert intake.numbers[-1] == 2_999
    assert intake.numbers == sorted(intake.numbers)
    assert len(intake.numbers) == to.counts.sent


def test_records_are_encoded_while_others_wait_many_at_once_or_after_a_while(intake: IntakeDouble, deliver: Deliveries):
    """Unencoded they would take memory that nobody measures; one by one they would be as many files."""
    intake.always = 503
    to = deliver()
    put(to, range(1))
    to.start()
    until(lambda: to.counts.failures > 0)
    put(to, range(1, 1 + delivery.BODY_RECORDS))
    until(lambda: not to._pending)
    put(to, range(1_001, 1_004))
    until(lambda: not to._pending)
    intake.always = None
    until(lambda: to.counts.sent == 1_004)
    assert intake.numbers == list(range(1_004))


def test_beyond_memory_batches_wait_in_the_spool_and_nothing_is_lost(intake: IntakeDouble, deliver: Deliveries):
    """The spool is sent first, so the order stays."""
    intake.always = 503
    to = deliver(spool=True, queue_bytes=1_000)
    put(to, range(5_000))
    to.start()
    until(lambda: to.spooled_bytes > 0 and to.waiting == 0)
    put(to, range(5_000, 5_003))
    intake.always = None
    until(lambda: to.counts.sent == 5_003)
    assert intake.numbers == list(range(5_003))
    assert (to.counts.dropped, to.spooled_bytes) == (0, 0)


def test_a_full_disk_costs_the_oldest_and_not_the_engine(
    intake: IntakeDouble, deliver: Deliveries, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """As without a spool, until there is room again."""
    write, room = os.write, threading.Event()

    def full(descriptor: int, content: bytes) -> int:
        # Other writers of this process write to pipes and sockets.
        if stat.S_ISREG(os.fstat(descriptor).st_mode) and not room.is_set():
            raise OSError(28, "No space left on device")
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    intake.always = 503
    to = deliver(spool=True, queue_bytes=1_000)
    put(to, range(4_000))
    to.start()
    until(lambda: to.counts.dropped > 0 and not to._pending)
    assert "they do not fit into memory, and No space left on device" in caplog.text
    assert to.spooled_bytes == 0
    room.set()
    put(to, range(4_000, 5_000))
    until(lambda: to.spooled_bytes > 0)
    lost = to.counts.dropped
    intake.always = None
    until(lambda: to.counts.sent + lost == 5_000)
    assert intake.numbers == sorted(set(intake.numbers))
    assert set(range(3_000, 5_000)) <= set(intake.numbers)
    assert (to.counts.dropped, len(intake.numbers)) == (lost, 5_000 - lost)


def test_a_spool_that_is_not_ours_is_named_once_and_done_without(
    intake: IntakeDouble, deliver: Deliveries, caplog: pytest.LogCaptureFixture
):
    """Delivery itself goes on."""
    deliver.spool.mkdir()
    deliver.spool.chmod(0o777)
    to = deliver(spool=True)
    put(to, range(3))
    to.start()
    until(lambda: to.counts.sent == 3)
    to.close(1.0)
    assert [record.getMessage() for record in caplog.records] == [
        f"farthing-probe: the spool {deliver.spool} is not used: "
        "it must belong to this user, and nobody else may write there (chmod 700)"
    ]
    assert list(deliver.spool.iterdir()) == []


def test_close_delivers_what_waits(intake: IntakeDouble, deliver: Deliveries):
    """At once, though the last failure asked to wait, and leaves neither threads nor files."""
    intake.behaviours.append(503)
    intake.headers = {"Retry-After": "60"}
    to = deliver(spool=True)
    put(to, range(3))
    to.start()
    until(lambda: to.counts.failures == 1)
    put(to, range(3, 2_000))
    to.close(20.0)
    assert intake.numbers == list(range(2_000))
    assert to.counts == delivery.Counts(sent=2_000, failures=1)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("farthing-probe")])
    assert list(deliver.spool.iterdir()) == []


@pytest.mark.parametrize("behaviour", [503, "hang", "reset"])
def test_what_cannot_be_delivered_by_then_is_spilled_and_the_next_process_sends_it(
    intake: IntakeDouble, deliver: Deliveries, behaviour: int | str, monkeypatch: pytest.MonkeyPatch
):
    """Within the time given, an intake that hangs included; the batch in flight is spilled too."""
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 20.0)
    intake.always = behaviour
    first = deliver(spool=True)
    put(first, range(1_200))
    first.start()
    until(lambda: first.counts.failures > 0 or len(intake.posts) > 0)
    put(first, range(1_200, 1_300))
    before = time.monotonic()
    first.close(1.0)
    assert time.monotonic() - before < 1.5
    assert (first.counts.sent, first.counts.dropped, first.waiting) == (0, 0, 0)
    intake.always = None
    second = deliver(spool=True)
    put(second, range(1_300, 1_310))
    second.start()
    until(lambda: second.counts.sent == 1_310)
    # its first own batch may leave before it has looked for what others left
    assert sorted(intake.numbers) == list(range(1_310))
    assert [number for number in intake.numbers if number < 1_300] == list(range(1_300))
    second.close(1.0)
    assert list(deliver.spool.iterdir()) == []


def test_without_a_spool_the_end_is_counted(intake: IntakeDouble, deliver: Deliveries):
    """Down to the newest record."""
    intake.always = 503
    to = deliver()
    put(to, range(1_200))
    to.start()
    until(lambda: to.counts.failures > 0)
    to.close(1.0)
    assert (to.counts.sent, to.counts.dropped, to.waiting) == (0, 1_200, 0)


def test_an_answer_after_the_end_counts_for_the_process_that_sends_the_batch_again(
    intake: IntakeDouble, deliver: Deliveries, monkeypatch: pytest.MonkeyPatch
):
    """What was under way at the end is spilled; it counts once, whatever still comes back."""
    monkeypatch.setattr(connection, "TIMEOUT_SECONDS", 20.0)
    first = deliver(spool=True)
    first.start()
    put(first, range(1))
    until(lambda: first.counts.sent == 1)
    intake.behaviours.append("hang")
    put(first, range(1, 3))
    until(lambda: len(intake.posts) == 2)
    first.close(0.2)
    first._sender.join(10)  # broken off, it has tried a new connection, which answered
    assert intake.numbers == [0, 1, 2]
    second = deliver(spool=True)
    second.start()
    until(lambda: second.counts.sent == 2)
    assert (first.counts.sent, intake.numbers) == (1, [0, 1, 2, 1, 2])


def test_whoever_closes_second_waits_for_the_spool_as_well(
    intake: IntakeDouble, deliver: Deliveries, monkeypatch: pytest.MonkeyPatch
):
    """It may be the one after whom the process ends."""
    written, append = threading.Event(), Spool.append

    def slow(spool: Spool, batch: Batch, keep: Batch | None = None) -> None:
        written.wait(10)
        append(spool, batch, keep)

    monkeypatch.setattr(Spool, "append", slow)
    intake.always = 503
    to = deliver(spool=True)
    put(to, range(3))
    to.start()
    closers = [threading.Thread(target=to.close, args=(10.0,)) for _ in range(2)]
    closers[0].start()
    until(lambda: to._ended)
    closers[1].start()
    closers[1].join(0.05)
    assert closers[1].is_alive()
    written.set()
    closers[1].join(10)
    assert (to.waiting, to.counts.dropped) == (0, 0)
    closers[0].join(10)


def test_close_is_for_any_thread_any_number_of_times_started_or_not(intake: IntakeDouble, deliver: Deliveries):
    """Whoever ends the engine may do it in any order."""
    never = deliver(spool=True)
    put(never, range(5))
    never.close(0.5)
    never.close(0.5)
    never.start()
    never.put(usage(5))
    assert (never.waiting, never.counts.dropped) == (0, 1)
    assert never.spooled_bytes == 0
    from_tick = deliver(spool=True, tick=lambda: from_tick.close(0.5))
    from_tick.start()
    until(lambda: not from_tick._packer.is_alive())
    assert intake.numbers == list(range(5))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # engines do it all the same
def test_a_forked_child_is_inert(intake: IntakeDouble, deliver: Deliveries):
    """It sends nothing, deletes nothing, unlocks nothing, and the parent's connection goes on."""
    intake.always = 503
    to = deliver(spool=True, queue_bytes=0)
    put(to, range(3))
    to.start()
    until(lambda: to.spooled_bytes > 0)
    assert _forked(to) == 0
    other = deliver(spool=True)
    other._adopt()
    assert other.spooled_bytes == 0
    connections = intake.connections
    intake.always = None
    put(to, range(3, 6))
    until(lambda: to.counts.sent == 6)
    assert _forked(to) == 0
    assert (deliver.spool / "b-0/lock").exists()
    put(to, range(6, 9))
    until(lambda: to.counts.sent == 9)
    assert intake.numbers == list(range(9))
    assert intake.connections == connections


def _forked(to: Delivery) -> int:
    """Exit status of a child that does with a delivery whatever it can."""
    child = os.fork()
    if child == 0:
        to.abandon()
        to.put(usage(99))
        to.start()
        to.close(0.5)
        os._exit(to.waiting)
    return os.waitpid(child, 0)[1]


TERMINATED = """
import os, signal, sys, threading
from pathlib import Path
from farthing_probe import wire
from farthing_probe.delivery import Delivery
from farthing_probe.settings import Settings

to = Delivery(Settings(url=sys.argv[1], spool=Path(sys.argv[2])), f"{sys.argv[3]}-0", lambda: None)
to.start()

def stop(*_):
    to.close(2.0)
    # not by print, which may be what the signal interrupted
    os.write(1, b"%d\\n" % sequence)
    os._exit(0)

signal.signal(signal.SIGTERM, stop)
sequence = 0
while True:
    to.put(wire.lifecycle("b", 0, sequence, at_ns=1, event="ready"))
    sequence += 1
    if sequence == 30_000:
        os.write(1, b"putting\\n")
    if sequence > 30_000:
        threading.Event().wait(0.001)
"""


def test_sigterm_in_the_middle_of_everything_loses_nothing(intake: IntakeDouble, deliver: Deliveries):
    """Closed by a signal handler that interrupts put; a dead intake, so all of it has to come through the spool."""
    intake.always = 503
    command = [sys.executable, "-c", TERMINATED, intake.url, str(deliver.spool), "one"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "putting\n"
        process.send_signal(signal.SIGTERM)
        last = int(process.stdout.readline())
        assert process.wait(10) == 0
    intake.always = None
    to = deliver(spool=True)
    to.start()
    until(lambda: to.counts.sent >= last)
    # the one that the signal interrupted may be on disk without having been counted
    assert intake.numbers in (list(range(last)), list(range(last + 1)))


def test_https_is_spoken_and_checks_whom_it_speaks_to(deliver: Deliveries):
    """What answers in the clear gets nothing, and nor would a stranger's certificate."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        to = deliver(url=f"https://127.0.0.1:{listener.getsockname()[1]}")
        put(to, range(1))
        to.start()
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(3)[:1] == b"\x16"  # a TLS handshake
        until(lambda: to.counts.failures > 0)
    context: ssl.SSLContext = vars(Connection("https://intake", "")._client())["_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


class Scripted:
    """A connection in whose place answers come from a list; keeps the sequence numbers of what got through."""

    def __init__(self) -> None:
        self.answers: deque[str] = deque()
        self.numbers: list[int] = []

    def post(self, path: str, body: bytes) -> tuple[int, str | None, bytes]:
        answer = self.answers.popleft() if self.answers else "good"
        lines = gzip.decompress(body).splitlines()
        if answer in {"good", "lost"}:
            self.numbers += [int(line.partition(b'"seq":')[2].split(b",")[0]) for line in lines]
        if answer in {"lost", "reset"}:
            raise ConnectionResetError
        if answer == "good":
            return 200, None, b'{"accepted":%d,"duplicate":0,"refused":[]}' % len(lines)
        return int(answer), None, b""

    def abort(self, older_than: float = 0.0) -> None:
        """Nothing hangs here."""

    def close(self) -> None:
        """Nothing to close."""


ANSWERS = st.lists(st.sampled_from(["good", "lost", "reset", "503", "401", "400"]), max_size=4)
# No half is refused here: an intake that takes it the second time around would rightly get it out of order.
ANSWERS_TO_HALVES = st.lists(st.sampled_from(["good", "lost", "reset", "503"]), max_size=3).map(
    lambda answers: ["413", *answers]
)


class AnyTrouble(RuleBasedStateMachine):
    """One step at a time, without threads: any sequence of failures, of the intake, the disk and the process."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.intake = Scripted()
        self.put_count = self.lives = self.lost_in_memory = self.counted = self.reached = 0
        self.live()

    def live(self) -> None:
        self.lives += 1
        settings = Settings(spool=Path(self.folder.name, "spool"), spool_bytes=6 * 4096, queue_bytes=600)
        self.to = Delivery(settings, f"b-{self.lives:03}", nothing)
        self.to._intake = self.intake  # type: ignore[assignment]
        self.to._adopt()

    def end(self) -> None:
        self.counted += self.to.counts.dropped
        self.reached += self.to.counts.sent

    @rule(count=st.integers(1, 30))
    def put(self, count: int) -> None:
        put(self.to, range(self.put_count, self.put_count + count))
        self.put_count += count

    @rule()
    def pack(self) -> None:
        self.to._pack()

    @rule(answers=ANSWERS | ANSWERS_TO_HALVES)
    def send(self, answers: list[str]) -> None:
        self.intake.answers.extend(answers)
        while self.intake.answers and (batch := self.to._oldest()) is not None:
            self.to._flight = batch
            self.to._delivered(batch)
            self.to._flight = None
        self.intake.answers.clear()

    @rule(answer=st.sampled_from(["good", "503"]), count=st.integers(1, 30))
    def pack_while_a_post_is_under_way(self, answer: str, count: int) -> None:
        batch = self.to._oldest()
        if batch is None:
            return
        self.to._flight = batch
        post = self.intake.post

        def meanwhile(path: str, body: bytes) -> tuple[int, str | None, bytes]:
            self.put(count)
            self.to._pack()
            return post(path, body)

        self.intake.post = meanwhile  # type: ignore[method-assign]
        self.intake.answers.append(answer)
        self.to._delivered(batch)
        self.intake.post = post  # type: ignore[method-assign]
        self.to._flight = None

    @rule()
    def spool_cannot_be_written(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", _no_space)
            self.put(20)
            self.to._pack()

    @rule()
    def close_and_start_again(self) -> None:
        self.to.close(0.0)
        assert self.to.waiting == 0
        self.end()
        self.live()

    @rule()
    def die_and_start_again(self) -> None:
        self.lost_in_memory += self.to.waiting
        self.end()
        assert self.to._spool is not None
        self.to._spool.close(tidy=False)  # as the kernel does for a dead process
        self.live()

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.to._bytes <= 600 or len(self.to._batches) <= 2

    @invariant()
    def bytes_add_up(self) -> None:
        assert self.to._bytes == sum(len(batch.body) for batch in self.to._batches)

    @invariant()
    def the_spool_is_bounded(self) -> None:
        assert self.to.spooled_bytes <= 6 * 4096

    @invariant()
    def first_arrivals_are_in_order(self) -> None:
        first = list(dict.fromkeys(self.intake.numbers))
        assert first == sorted(first)

    def teardown(self) -> None:
        self.to._pack()
        while (batch := self.to._oldest()) is not None:
            assert self.to._delivered(batch)
        self.end()
        arrived = len(set(self.intake.numbers))
        # counted once: as sent, dropped, or in memory when it died
        assert self.reached + self.counted + self.lost_in_memory == self.put_count
        assert arrived >= self.reached
        assert arrived + self.counted + self.lost_in_memory >= self.put_count
        self.to.close(0.0)
        self.folder.cleanup()


def _no_space(descriptor: int, content: bytes) -> int:
    raise OSError(28, "No space left on device")


TestAnyTrouble = AnyTrouble.TestCase
TestAnyTrouble.settings = hypothesis_settings(max_examples=100, stateful_step_count=30, deadline=None)
