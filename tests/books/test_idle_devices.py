"""What no engine has of GPUs that are there: every moment of every device is somebody's, once."""

from __future__ import annotations

import random
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.books.idle_devices import IdleDevice, Life, Slots, Stay, idle_devices
from farthing.domain import conventions as c

GPU = "H100-SXM"
END = 100


def idle(stays, lives=(), slots=(), start=0, end=END):
    """As tuples that read well: device, engine, account, reason, fraction, start, end."""
    found = idle_devices([Stay(*one) for one in stays], lives, slots, start, end)
    return [(d.uuid, d.engine, d.account, d.reason, str(d.fraction), d.start_ns, d.end_ns) for d in found]


def unassigned(uuid, start, end):
    """A GPU that nobody has."""
    return (uuid, "", c.UNALLOCATED, c.POOL_UNASSIGNED, "1", start, end)


def test_a_gpu_that_serves_nothing_is_unallocated_while_it_is_there():
    """One that appears is billed from then, one that disappears up to then."""
    assert idle([("a", GPU, 10, 40), ("b", GPU, -50, 400)]) == [unassigned("a", 10, 40), unassigned("b", 0, 100)]
    assert idle([("a", GPU, 10, 40), ("a", GPU, 60, 80)]) == [unassigned("a", 10, 40), unassigned("a", 60, 80)]
    assert idle([]) == []


def test_a_gap_between_two_boots_of_one_engine_is_its_down_time():
    """Before the first and after the last nobody has it; between two engines neither."""
    first, again = Life("chat", 20, 40, ("a",), GPU), Life("chat", 60, 80, ("a",), GPU)
    down = ("a", "chat", c.DOWN, c.REASON_NO_BOOT, "1", 40, 60)
    everywhere = [("a", GPU, 0, 100)]
    before, after = unassigned("a", 0, 20), unassigned("a", 80, 100)
    assert sorted(idle(everywhere, [first, again])) == sorted([before, down, after])
    other = Life("rag", 60, 80, ("a",), GPU)
    assert sorted(idle(everywhere, [first, other])) == sorted([before, unassigned("a", 40, 60), after])
    # a boot that begins after the period tells it as well
    later = Life("chat", 200, 300, ("a",), GPU)
    assert idle(everywhere, [first, later])[0] == ("a", "chat", c.DOWN, c.REASON_NO_BOOT, "1", 40, 100)


def test_a_gpu_that_was_not_there_is_not_billed_beside_its_engine():
    """Lost and found again: what was between its stays is nobody's."""
    lives = [Life("chat", 0, 20, ("a",), GPU), Life("chat", 80, 100, ("a",), GPU)]
    assert idle([("a", GPU, 0, 30), ("a", GPU, 70, 100)], lives) == [
        ("a", "chat", c.DOWN, c.REASON_NO_BOOT, "1", 20, 30),
        ("a", "chat", c.DOWN, c.REASON_NO_BOOT, "1", 70, 80),
    ]


def test_a_boot_that_names_no_gpu_has_as_many_of_its_kind_as_it_is_billed_for():
    """It is not billed twice: the unnamed are those that nobody else has."""
    stays = [(name, GPU, 0, 100) for name in "abc"]
    named, unnamed = Life("chat", 0, 100, ("a",), GPU), Life("rag", 0, 60, (), GPU, 1)
    assert idle(stays, [named, unnamed]) == [unassigned("b", 60, 100), unassigned("c", 0, 100)]
    assert idle(stays, [Life("rag", 0, 100, (), "L4", 3)]) == [unassigned(name, 0, 100) for name in "abc"]
    assert idle(stays, [Life("rag", 0, 100, (), GPU, 5)]) == []


def test_a_boot_of_which_nobody_knows_the_kind_has_one_that_no_other_boot_has():
    """It is billed by a price of its own: those that are told by kind take theirs first, in whatever order."""
    stays = [("a", GPU, 0, 100), ("b", "L4", 0, 100), ("c", "L4", 0, 100)]
    loose, counted = Life("chat", 0, 60, (), "", 1), Life("rag", 0, 100, (), "L4", 1)
    for lives in ([loose, counted], [counted, loose]):
        assert idle(stays, lives) == [unassigned("a", 60, 100), unassigned("c", 0, 100)]
    named = Life("first", 0, 100, ("a",), GPU)
    assert idle(stays, [loose, counted, named]) == [unassigned("c", 60, 100)]
    assert idle(stays, [Life("chat", 0, 60, (), "", 3)]) == [unassigned(name, 60, 100) for name in "abc"]
    # a capacity's are bought, whoever runs on them
    bought = [Slots("L4", 2, 0, None)]
    assert idle(stays, [loose], bought) == [unassigned("a", 60, 100)]
    # a boot whose kind is known has none of another
    assert len(idle(stays, [Life("rag", 0, 100, (), "L40", 1)])) == 3


def test_the_gpus_of_a_capacity_are_billed_with_it():
    """Those that its engines name, and as many more as it has."""
    stays = [(name, GPU, 0, 100) for name in "abc"]
    held = Life("chat", 0, 50, ("c",), GPU, held=True)
    assert idle(stays, [held], [Slots(GPU, 1, 0, None)], end=50) == [unassigned("a", 0, 50), unassigned("b", 0, 50)]
    # without its engine the capacity still has one of them, whichever
    lengths = [end - start for *_, start, end in idle(stays, [held], [Slots(GPU, 1, 0, None)], start=50)]
    assert lengths == [50, 50]
    assert idle(stays, [held], [Slots(GPU, 3, 0, None)]) == []
    assert idle(stays, [], [Slots(GPU, 2, 0, 30)]) == [
        unassigned("a", 30, 100),
        unassigned("b", 30, 100),
        unassigned("c", 0, 100),
    ]


def test_what_is_left_of_a_gpu_that_is_cut_up_is_an_unsold_slice():
    """A MIG slice is its part of its GPU; between two boots in a slice that part alone is down."""
    eighth = Fraction(1, 8)
    lives = [
        Life("small", 0, 100, ("a",), GPU, 1, eighth),
        Life("double", 0, 50, ("a", "a"), GPU, 2, eighth),
    ]
    assert idle([("a", GPU, 0, 100)], lives) == [
        ("a", "", c.UNALLOCATED, c.POOL_UNSOLD_SLICE, "5/8", 0, 50),
        ("a", "", c.UNALLOCATED, c.POOL_UNSOLD_SLICE, "7/8", 50, 100),
    ]
    alone = [Life("small", 0, 20, ("a",), GPU, 1, eighth), Life("small", 30, 100, ("a",), GPU, 1, eighth)]
    assert ("a", "small", c.DOWN, c.REASON_NO_BOOT, "1/8", 20, 30) in idle([("a", GPU, 0, 100)], alone)


SPAN = st.tuples(st.integers(-5, 25), st.integers(1, 20)).map(lambda one: (one[0], one[0] + one[1]))
STAYS = st.lists(st.tuples(st.sampled_from("abcd"), SPAN), max_size=8)
LIVES = st.lists(
    st.tuples(
        st.sampled_from(["chat", "rag"]),
        SPAN,
        st.lists(st.sampled_from("abcd"), max_size=2, unique=True),
        st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(1, 4)]),
        st.booleans(),
        st.sampled_from([GPU, ""]),
    ),
    max_size=8,
)
SLOTS = st.lists(st.tuples(st.integers(0, 3), SPAN), max_size=2)


@given(stays=STAYS, lives=LIVES, slots=SLOTS, seed=st.integers(0, 99))
@settings(max_examples=300, deadline=None)
def test_at_every_moment_what_is_idle_is_what_is_there_less_what_is_had(stays, lives, slots, seed):
    """Counted moment by moment; in whatever order all of it is told."""
    there = [Stay(uuid, GPU, a, b) for uuid, (a, b) in stays]
    known = [
        Life(engine, a, b, tuple(uuids), kind, max(1, len(uuids)), fraction, held and bool(uuids))
        for engine, (a, b), uuids, fraction, held, kind in lives
    ]
    bought = [Slots(GPU, gpus, a, b) for gpus, (a, b) in slots]
    found = idle_devices(there, known, bought, 0, 30)
    for one in found:
        assert 0 <= one.start_ns < one.end_ns <= 30
        assert 0 < one.fraction <= 1
    for moment in range(30):
        now = [one for one in found if one.start_ns <= moment < one.end_ns]
        by_device: dict[str, Fraction] = {}
        for one in now:
            by_device[one.uuid] = by_device.get(one.uuid, Fraction(0)) + one.fraction
        assert sum(by_device.values(), Fraction(0)) == _expected(there, known, bought, moment)
        assert all(part <= 1 for part in by_device.values())
    rng = random.Random(seed)  # noqa: S311 - seeded trials
    for told in (there, known, bought):
        rng.shuffle(told)
    assert _amounts(idle_devices(there, known, bought, 0, 30)) == _amounts(found)
    # cut anywhere, the parts are those of the whole
    cut = rng.randrange(1, 30)
    parts = [*idle_devices(there, known, bought, 0, cut), *idle_devices(there, known, bought, cut, 30)]
    assert _amounts(parts) == _amounts(found)


def _amounts(found: list[IdleDevice]) -> dict[tuple[str, str, str, str], Fraction]:
    sums: dict[tuple[str, str, str, str], Fraction] = {}
    for one in found:
        key = (one.uuid, one.engine, one.account, one.reason)
        sums[key] = sums.get(key, Fraction(0)) + one.fraction * (one.end_ns - one.start_ns)
    return sums


def _expected(there, known, bought, moment):
    """The free parts of GPUs, less as many whole free ones as are had without a name."""
    present = {stay.uuid for stay in there if stay.start_ns <= moment < stay.end_ns}
    alive = [life for life in known if life.start_ns <= moment < life.end_ns]
    held = {uuid for life in alive if life.held for uuid in life.devices} & present
    slots = sum(one.gpus for one in bought if one.start_ns <= moment < one.end_ns)
    unnamed = sum((life.count * life.fraction for life in alive if not life.devices), Fraction(0))
    unnamed += max(0, slots - len(held))
    free = {
        uuid: max(Fraction(0), 1 - sum(life.fraction for life in alive if uuid in life.devices)) for uuid in present
    }
    whole = sum(1 for uuid in present - held if free[uuid] == 1)
    rest = sum((free[uuid] for uuid in present - held if free[uuid] < 1), Fraction(0))
    return rest + max(Fraction(0), whole - unnamed)
