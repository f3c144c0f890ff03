"""The probe of a process: its numbers, its promises about open requests, its switch, its end, and its forks."""

import asyncio
import atexit
import dataclasses
import logging
import multiprocessing.util
import os
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from tests.probe.rig import IDENTITY, SECOND, off_file, rigged

from farthing.domain.records import Started
from farthing_probe import probe, wire
from farthing_probe.identity import Identity
from farthing_probe.request_meter import RequestMeter
from farthing_probe.settings import Settings


async def _nothing(*_: Any) -> Any:
    """An application, and a server."""


class Open:
    """A request that settles when told."""

    def __init__(self, rig, *, raises=False):
        self.arrived_ns, self.done, self.raises = rig.clock.now, False, raises
        rig.probe.pending[self] = None

    def settle(self, now_ns, *, final):
        """See probe.Pending."""
        assert now_ns >= self.arrived_ns
        if self.raises:
            raise RuntimeError("canary")
        return self.done or final


def test_a_boot_begins_once_with_who_it_is(rig):
    """However many loggers say that the engine is ready."""
    rig.log.log_engine_initialized()
    rig.probe.begin_once()
    assert rig.events == ["started", "ready"]
    assert rig.delivery.started == 1
    started = rig.records[0]
    assert isinstance(started, Started)
    assert (started.engine, started.model, started.gpu, started.gpu_uuids) == (
        IDENTITY.engine, IDENTITY.model, IDENTITY.gpu, IDENTITY.gpu_uuids,
    )  # fmt: skip
    assert (started.kind, started.version, started.processes, started.ranks) == ("vllm", "0.32.0", 1, 1)
    assert started.at_ns == IDENTITY.started_ns, "loading the model is time that is billed"
    assert started.anchor.wall_ns - started.at_ns == rig.clock.time_ns() - rig.clock.monotonic_ns()


def test_of_several_api_servers_the_first_speaks_for_the_instance():
    """All of them number their own records and end with a stop."""
    with rigged(identity=dataclasses.replace(IDENTITY, proc=1, processes=2)) as rig:
        rig.begin().settle(6)
        rig.probe.stop()
        assert [(record.key.process, record.key.sequence) for record in rig.records] == [(1, 0), (1, 1), (1, 2)]
        assert rig.events == ["stop"]


def test_records_are_numbered_without_a_gap_whoever_sends_them(rig):
    """The event loop, the delivery's thread, and whoever ends the process."""
    before = len(rig.delivery.records)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [rig.probe.event("awake") for _ in range(300)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert [record["seq"] for record in rig.delivery.records] == list(range(before + 1200))


# ---- what a batch promises ----------------------------------------------------------------------


def test_a_batch_says_since_when_a_request_is_open(rig):
    """The oldest whose record has not been sent; none open is the batch's own end."""
    asyncio.run(RequestMeter(_nothing)({"type": "lifespan"}, receive=_nothing, send=_nothing))
    rig.settle(6)
    assert rig.batches[-1].open_ns == rig.batches[-1].until_ns == rig.clock.now
    rig.clock.pass_(1)
    old = Open(rig)
    rig.clock.pass_(1)
    Open(rig)
    for _ in range(2):
        rig.settle(6)
        assert (rig.batches[-1].open_ns, rig.batches[-1].until_ns) == (old.arrived_ns, rig.clock.now)
    old.done = True
    rig.settle(6)
    assert rig.batches[-1].open_ns == old.arrived_ns + SECOND


def test_without_the_middleware_a_batch_promises_no_more_than_it_knows(rig):
    """Nobody tells when requests arrive: not before the engine last had none."""
    rig.clock.pass_(1)
    rig.log.record(rig.engine.state(), None)
    quiet = rig.clock.now
    for running, waiting in ((1, 0), (0, 1)):
        rig.clock.pass_(1)
        rig.log.record(SimpleNamespace(num_running_reqs=running, num_waiting_reqs=waiting), None)
        rig.settle(6)
        assert rig.batches[-1].open_ns == quiet
    rig.log.record(rig.engine.state(), None)
    rig.settle(6)
    assert rig.batches[-1].open_ns == rig.clock.now - 6 * SECOND


def test_a_part_of_a_batch_promises_nothing_beyond_itself(rig, monkeypatch):
    """Its open moment is never after its end."""
    monkeypatch.setattr("farthing_probe.stat_logger.MOST_MARKS", 3)
    rig.probe.metered_http = True
    for _ in range(5):
        rig.clock.pass_(1)
        rig.log.record(rig.engine.state(), None)
    rig.settle(1)
    batch = rig.batches[-1]
    assert batch.until_ns == batch.marks.at_ns[-1] < rig.clock.now
    assert batch.open_ns == batch.until_ns


# ---- errors -------------------------------------------------------------------------------------


def test_one_request_that_cannot_be_settled_does_not_hold_up_the_others(rig):
    """It is counted, and waited for no longer."""
    Open(rig, raises=True)
    fine = Open(rig)
    fine.done = True
    rig.settle(6)
    assert (rig.probe.errors, list(rig.probe.pending), len(rig.batches)) == (1, [], 1)


def test_an_error_is_logged_once_a_minute_without_its_text(rig, caplog):
    """It may quote a request; where it came from is what helps."""

    def fail():
        raise ValueError("canary")

    for seconds in (0, 1, 58, 2, 30):
        rig.clock.pass_(seconds)
        try:
            fail()
        except ValueError as error:
            rig.probe.failed("here", error)
    line = fail.__code__.co_firstlineno + 1
    assert caplog.messages == [f"farthing_probe: ValueError in here, line {line} ({count} so far)" for count in (1, 4)]
    assert rig.probe.errors == 5


# ---- the end ------------------------------------------------------------------------------------


def test_the_end_says_all_that_is_known_and_nothing_comes_after_it(rig):
    """Open requests, the last steps, the stop; the engine's threads may come a moment too late."""
    (sequence,) = rig.engine.add("a")
    rig.step({sequence: 1})
    waiting = Open(rig)
    rig.probe.stop(1.5)
    assert waiting not in rig.probe.pending
    assert rig.events == ["started", "ready", "stop"]
    assert isinstance(rig.batches[-1].until_ns, int)
    assert rig.delivery.closed == [1.5]
    known = list(rig.delivery.records)
    assert known[-1]["event"] == "stop"
    rig.step({sequence: 1}, {sequence: "stop"})
    rig.log.record_sleep_state(1, 0)
    rig.probe.send(wire.lifecycle, at_ns=0, event="awake")
    rig.settle()
    rig.probe.stop()
    assert rig.delivery.records == known


def test_an_end_that_fails_raises_nothing(rig, monkeypatch):
    """It runs while the interpreter goes down."""
    monkeypatch.setattr(rig.delivery, "close", None)
    rig.probe.stop()
    assert rig.probe.errors == 1


# ---- the switch ---------------------------------------------------------------------------------


def test_while_the_file_exists_nothing_is_recorded(tmp_path):
    """Not even its being there again and again; without it a boot begins that all processes name alike."""
    with rigged(off_file(tmp_path)) as rig:
        rig.begin().probe.tick()
        (tmp_path / "off").touch()
        moment = (tmp_path / "off").stat().st_mtime_ns
        rig.probe.tick()
        (sequence,) = rig.engine.add("a")
        for _ in range(3):
            rig.clock.pass_(6)
            rig.step({sequence: 1})
            rig.probe.tick()
        assert rig.events == ["started", "ready", "stop"]
        (tmp_path / "off").unlink()
        rig.probe.tick()
        again = rig.clock.now
        rig.step({sequence: 1}, {sequence: "stop"})
        rig.settle(6)
        assert rig.events == ["started", "ready", "stop", "started", "ready"]
        assert [record.key.sequence for record in rig.records if record.key.boot != "b0"] == [0, 1, 2]
        second = rig.records[-3]
        assert isinstance(second, Started)
        assert (second.key.boot, second.at_ns) == (f"b0-{moment:x}", again)
        assert rig.usages == [], "the request had begun while the probe was off"
        assert rig.delivery.closed == [], "what waits is still delivered"


def test_a_file_that_is_there_at_the_start_turns_the_probe_off_within_a_tick(tmp_path, caplog):
    """And says so, as it does when it is on again."""
    (tmp_path / "off").touch()
    with rigged(off_file(tmp_path)) as rig, caplog.at_level(logging.WARNING):
        rig.begin().probe.tick()
        assert not rig.probe.on
        (tmp_path / "off").unlink()
        rig.probe.tick()
        assert rig.probe.on
    assert caplog.messages == [f"farthing_probe is off: {tmp_path}/off exists", "farthing_probe is on again"]


def test_a_switch_that_cannot_be_looked_at_is_not_set(tmp_path):
    """A folder that is no folder."""
    (tmp_path / "file").touch()
    with rigged(Settings(spool=None, off_file=tmp_path / "file/off")) as rig:
        rig.begin().probe.tick()
        assert rig.probe.on


# ---- the process --------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch):
    """A process that has no probe yet, whose probes register nothing."""
    monkeypatch.setattr(probe, "_probe", None)
    monkeypatch.setattr(probe, "_refused", False)
    monkeypatch.setenv("FARTHING_PROBE_SPOOL", "")
    registered = []
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: registered.append(hooks["after_in_child"]))
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(multiprocessing.util, "Finalize", lambda *given, **_: registered.append(given[1]))
    return registered


def test_a_process_has_one_probe(fresh):
    """Whoever asks first; it ends with the process, however that ends."""
    assert probe.current() is None
    made = probe.obtain(SimpleNamespace())
    assert made is not None
    assert made is probe.obtain(None) is probe.current()
    assert fresh == [probe._forget, made.stop, made.stop]
    assert not made.on, "it begins when its engine is ready"


def test_a_probe_that_cannot_be_made_is_one_line_in_the_log(fresh, monkeypatch, caplog):
    """And is not tried again for every request."""

    def fail(*_):
        raise RuntimeError("canary")

    monkeypatch.setattr(Identity, "of", fail)
    assert [probe.obtain(None) for _ in range(3)] == [None] * 3
    assert caplog.messages == ["farthing_probe is off: RuntimeError while starting"]
    assert fresh == []


def test_a_forked_child_is_silent(rig):
    """It has the parent's numbers, and must not use them; the parent goes on."""
    known = len(rig.delivery.records)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        probe._forget()  # what obtain registers
        rig.log.record(rig.engine.state(), None)
        rig.probe.stop()
        os.write(writer, repr((len(rig.delivery.records), rig.delivery.abandoned, probe.current())).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() == repr((known, True, None))
    os.close(reader)
    os.close(writer)
    assert rig.probe.on
    assert probe.current() is rig.probe


def test_moments_are_made_to_never_go_back():
    """Clocks of two processes differ by a little; intake refuses what runs backwards."""
    assert probe.ordered((3, None, 2, 5)) == [3, None, 3, 5]
    assert probe.ordered((None, 0)) == [None, 0]
