"""The order of a boot's records: equal arrivals come out equal, gaps are waited for and then counted."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.service.books import raw_of, raw_records

from farthing.collectors.wire import refusal
from farthing.domain.clock import SECOND
from farthing.domain.errors import RecordError
from farthing.domain.records import Lifecycle, RawRecord, RecordKey, Started, StepBatch
from farthing.replay.recording import load_recording
from farthing.service.ordering import BootOrder
from farthing_probe import wire

GRACE = 10 * SECOND


def started(processes=1):
    return wire.started(
        "b", 0, 0, at_ns=0, wall_ns=0, engine="e", engine_kind="vllm", version="", model="m", gpu="H100", gpu_count=1,
        processes=processes,
    )  # fmt: skip


def batch(seq, at, process=0):
    columns: dict[str, list[int]] = {name: [] for name in wire.MARK_COLUMNS}
    return wire.steps(
        "b", process, seq, engine_index=0, until_ns=at * SECOND, open_ns=at * SECOND, columns=columns
    )  # fmt: skip


def stop(seq, at, process=0):
    return wire.lifecycle("b", process, seq, at_ns=at * SECOND, event="stop")


def run(records, grace_ns=GRACE):
    """(process, sequence) as they come out, taking what is ready after every record; and the order itself."""
    order = BootOrder(grace_ns)
    out = []
    for raw in raw_of(records):
        order.add(raw)
        out += [(record.key.process, record.key.sequence) for record in order.ready()]
    return out, order


def test_records_that_arrive_in_order_come_out_at_once():
    """The usual case waits for nothing."""
    out, order = run([started(), batch(1, 5), batch(2, 10), stop(3, 10)])
    assert out == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert order.missing == 0


def test_a_record_that_overtook_another_waits_for_it():
    """Two posts may cross on their way; the books may not."""
    out, order = run([started(), batch(2, 10), batch(1, 5), batch(3, 15)])
    assert out == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert order.missing == 0


def test_a_record_that_comes_twice_comes_out_once():
    """Delivery is at least once; the inbox and the order make it exactly once."""
    out, order = run([started(), batch(1, 5), batch(1, 5), started(), batch(2, 10), batch(2, 10)])
    assert out == [(0, 0), (0, 1), (0, 2)]
    assert order.missing == 0


def test_a_gap_is_passed_over_and_counted_once_the_grace_period_has_gone_by():
    """A lost record must not hold up the books for ever, nor be forgotten."""
    out, order = run([started(), batch(1, 5), batch(4, 14), batch(5, 15)])
    assert out == [(0, 0), (0, 1)]
    assert order.missing == 0
    out, order = run([started(), batch(1, 5), batch(4, 14), batch(5, 15), batch(6, 16)])
    assert out == [(0, 0), (0, 1), (0, 4), (0, 5), (0, 6)]
    assert order.missing == 2


def test_a_record_that_was_passed_over_is_ignored_when_it_comes_after_all():
    """What is settled stays settled."""
    out, order = run([started(), batch(2, 5), batch(3, 20), batch(1, 4), batch(4, 21)])
    assert out == [(0, 0), (0, 2), (0, 3), (0, 4)]
    assert order.missing == 1


def test_a_stop_that_overtook_other_records_waits_for_them():
    """It may come by the other endpoint; what it overtook was work."""
    out, order = run([started(), stop(3, 6), batch(2, 5), batch(1, 4)])
    assert out == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert order.missing == 0


def test_a_gap_before_a_stop_ends_with_the_boots_silence():
    """No later event time could end its grace period."""
    records = [started(), batch(1, 5), stop(3, 6)]
    assert run(records)[0] == [(0, 0), (0, 1)]
    silence = RawRecord(RecordKey("b", -1, 0), "silent", 5, b"{}")
    out, order = run_raw([*raw_of(records), silence])
    assert out == [(0, 0), (0, 1), (0, 3), (-1, 0)]
    assert order.missing == 1


def test_a_missing_start_is_passed_over_like_any_other_record():
    """What follows comes out, so that the loss can be shown."""
    out, order = run([batch(1, 5), batch(2, 10), batch(3, 16)])
    assert out == [(0, 1), (0, 2), (0, 3)]
    assert order.missing == 1


def test_the_first_record_of_a_second_process_may_be_missing_too():
    """One lost record of one process must not hold the whole boot."""
    records = [started(2), batch(1, 5), batch(1, 5, 1), batch(2, 16, 1), batch(2, 20)]
    out, order = run(records)
    assert out == [(0, 0), (0, 1), (1, 1), (1, 2)]
    assert order.missing == 1


def test_processes_are_merged_by_event_time():
    """However late one of them reports."""
    first = [started(2), batch(1, 5), batch(2, 10), stop(3, 15)]
    second = [batch(0, 4, 1), batch(1, 9, 1), stop(2, 14, 1)]
    expected = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3)]
    assert run([*first, *second])[0] == expected
    assert run([*second, *first])[0] == expected


def test_a_process_that_has_stopped_is_not_waited_for():
    """The others may have more to say."""
    out, _ = run([started(2), batch(1, 5), stop(2, 6), batch(0, 5, 1), batch(1, 9, 1), stop(2, 10, 1)])
    assert out == [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (1, 2)]


def test_at_the_end_of_a_boot_everything_that_is_held_comes_out():
    """Another boot has taken the engine's place: nothing more can arrive."""
    order = BootOrder(GRACE)
    for raw in raw_of([started(2), batch(1, 5), batch(3, 7), batch(1, 4, 1)]):
        order.add(raw)
    assert [record.key.sequence for record in order.ready()] == [0]
    assert [(record.key.process, record.key.sequence) for record in order.ready(final=True)] == [(1, 1), (0, 1), (0, 3)]
    assert order.missing == 2


@given(st.data())
def test_any_order_of_arrival_within_the_grace_period_gives_the_same_order(data):
    """Between processes by time, within one by sequence, whatever crossed on the way."""
    events = sorted(data.draw(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 1)), min_size=1, max_size=12)))
    sequences = {0: 1, 1: 0}
    records = []
    for at, process in events:
        records.append(batch(sequences[process], at, process))
        sequences[process] += 1
    records += [stop(sequences[0], 9), stop(sequences[1], 9, 1)]
    expected, _ = run([started(2), *records])
    out, order = run(data.draw(st.permutations([started(2), *records])))
    assert out == expected
    assert order.missing == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_recording_comes_out_whole_however_its_records_are_read(seed):
    """Taking what is ready after each record, or after any number of them, gives one order."""
    raw = raw_records(load_recording("h100-llama8b-vllm0.26"))
    random_ = random.Random(seed)  # noqa: S311 - a seeded trial, not a secret
    order, out = BootOrder(120 * SECOND), []
    for record in raw:
        order.add(record)
        if random_.random() < 0.1:
            out += list(order.ready())
    out += list(order.ready())
    assert [record.key for record in out] == [record.key for record in raw]
    assert isinstance(out[0], Started)
    assert isinstance(out[-1], Lifecycle)
    assert any(isinstance(record, StepBatch) for record in out)


def refused(seq, process=0):
    """What intake keeps of a record that it refused."""
    line = json.dumps({**batch(seq, 5, process), "until_ns": -1}).encode()
    kept = refusal(line, RecordError("until_ns", "expected int >= 0"))
    assert kept is not None
    return kept


def run_raw(raws):
    order, out = BootOrder(GRACE), []
    for raw in raws:
        order.add(raw)
        out += [(record.key.process, record.key.sequence) for record in order.ready()]
    return out, order


def test_a_refused_record_is_not_waited_for():
    """What intake refused never comes: the records after it come out at once, and it is no lost one."""
    first, second, third = raw_of([started(), batch(1, 5), batch(3, 6)])
    out, order = run_raw([first, second, refused(2), third])
    assert out == [(0, 0), (0, 1), (0, 3)]
    assert (order.missing, order.refused) == (0, 1)
    out, order = run_raw([first, second, third, refused(2)])
    assert out == [(0, 0), (0, 1), (0, 3)]
    assert (order.missing, order.refused) == (0, 1)


def test_a_refused_record_that_was_passed_over_before_is_refused_and_not_lost():
    """Its refusal may be the last to arrive."""
    out, order = run_raw([*raw_of([started(), batch(2, 5), batch(3, 20)]), refused(1), refused(1)])
    assert out == [(0, 0), (0, 2), (0, 3)]
    assert (order.missing, order.refused) == (0, 1)


def test_refused_records_within_a_gap_are_told_from_the_lost_ones():
    """A gap may hold both."""
    raws = [*raw_of([started()]), refused(2), refused(4), *raw_of([batch(5, 5), batch(6, 16)])]
    out, order = run_raw(raws)
    assert out == [(0, 0), (0, 5), (0, 6)]
    assert (order.missing, order.refused) == (2, 2)


def test_a_process_whose_first_record_was_refused_goes_on():
    """And a gap after it is waited for like any other."""
    second = [refused(0, 1), *raw_of([batch(2, 5, 1), batch(3, 16, 1)])]
    out, order = run_raw([*raw_of([started(2), batch(1, 5), batch(2, 20)]), *second])
    assert out == [(0, 0), (0, 1), (1, 2), (1, 3)]
    assert (order.missing, order.refused) == (1, 1)


def test_a_mended_record_takes_the_place_of_its_refusal():
    """In its turn when it is quick enough; a usage record later than that comes out as late."""
    mended = raw_of([batch(2, 5)])
    out, order = run_raw([*raw_of([started()]), refused(2), *mended, *raw_of([batch(1, 4)])])
    assert out == [(0, 0), (0, 1), (0, 2)]
    assert (order.missing, order.refused) == (0, 0)
    late = wire.usage("b", 0, 1, request_id="", engine_index=0, model="m", outcome="finished", status=200,
                      arrived_ns=1, ended_ns=2)  # fmt: skip
    out, order = run_raw([*raw_of([started()]), refused(1), *raw_of([batch(2, 5), late, late])])
    assert out == [(0, 0), (0, 2), (0, 1)]
    assert (order.missing, order.refused) == (0, 0)


def test_a_refusal_of_what_has_come_already_changes_nothing():
    """The first record of a key is kept."""
    raws = raw_of([started(), batch(1, 5), batch(3, 7)])
    _, order = run_raw([*raws, refused(1), refused(3)])
    assert (order.missing, order.refused) == (0, 0)


def test_a_gap_of_any_size_is_counted_and_not_stored():
    """A sender that numbers its records by the clock must not fill the memory."""
    out, order = run([started(), batch(2**61, 5), batch(2**61 + 1, 16), batch(2**61 + 3, 17)])
    assert out == [(0, 0), (0, 2**61), (0, 2**61 + 1)]
    assert order.missing == 2**53


def test_records_of_a_process_that_was_not_announced_are_counted():
    """They can have no turn, and must not be forgotten."""
    _, order = run([batch(0, 5, 1), started(1), batch(1, 5)])
    assert order.missing == 1
    _, order = run([batch(0, 5, 1), started(2)])
    assert order.missing == 0
