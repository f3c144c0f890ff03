"""A GPU's time is billed once, whoever told of it and in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from farthing.books.idle_devices import Stay
from farthing.books.stays import united
from farthing.domain.clock import SECOND
from farthing.ledger.devices import PRESENCE_GAP_NS, Presence, merged


def _seen(first, last, pod):
    return Presence("GPU-1", first * SECOND, last * SECOND, "node-1", "H100", "gpu", "", pod, 1)


def _spans(stays):
    found = united([Stay(one.uuid, one.name, one.first_ns, one.last_ns) for one in stays], PRESENCE_GAP_NS)
    return [(one.start_ns // SECOND, one.end_ns // SECOND) for one in found]


SEEN = st.lists(
    st.builds(lambda first, length, pod: _seen(first, first + length, pod),
              st.integers(0, 900), st.integers(0, 30), st.sampled_from(["", "ns/a", "ns/b"])),
    min_size=1, max_size=14,
)  # fmt: skip


@given(SEEN, st.randoms())
def test_what_is_billed_is_the_union_of_what_was_seen_in_any_order_of_arrival(seen, rng):
    """Of every source, with gaps of up to a minute closed."""
    expected: list[tuple[int, int]] = []
    for one in sorted(seen, key=lambda one: one.first_ns):
        first, last = one.first_ns // SECOND, one.last_ns // SECOND
        if expected and first <= expected[-1][1] + 60:
            expected[-1] = (expected[-1][0], max(expected[-1][1], last))
        else:
            expected.append((first, last))
    stays: list[Presence] = []
    for one in rng.sample(seen, len(seen)):
        stays = merged([*stays, one])
    assert _spans(stays) == expected
    assert len({one.first_ns for one in stays}) == len(stays)


def test_two_readers_of_one_gpu_make_a_row_each():
    """An agent and an exporter that tells the pod, for ten minutes: all of it is billed, and rows stay few."""
    stays: list[Presence] = []
    for at in range(0, 600, 10):
        stays = merged([*stays, _seen(at, at + 8, ""), _seen(at + 1, at + 9, "ns/x")])
    assert [(one.pod, one.last_ns // SECOND) for one in stays] == [("", 598), ("ns/x", 599)]
    assert _spans(stays) == [(0, 599)]


def test_a_change_of_pod_leaves_no_time_out():
    """59 s between two samples are within a minute, whatever the second says of the pod."""
    assert _spans(merged([_seen(0, 500, "x/a"), _seen(559, 1199, "")])) == [(0, 1199)]


def test_one_uuid_under_two_names_is_billed_once():
    """The first name counts until its end."""
    stays = [Stay("GPU-1", "A", 0, 100), Stay("GPU-1", "B", 50, 150)]
    assert united(stays, 0) == [Stay("GPU-1", "A", 0, 100), Stay("GPU-1", "B", 100, 150)]
