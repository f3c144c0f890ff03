"""Which devices a boot has by its engine's pods: those of one pod, the one that it lived in."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.domain.clock import SECOND
from farthing.ledger.devices import Presence
from farthing.service.pods import devices_of_boot


def stay(uuid, pod, first, last):
    """A device in a pod, in seconds."""
    return Presence(uuid, first * SECOND, last * SECOND, "node-1", "NVIDIA H100 80GB HBM3", "gpu", "", pod, 1)


def had(start, end, *stays):
    """What a boot had, as a sorted list."""
    return sorted(devices_of_boot(start * SECOND, None if end is None else end * SECOND, stays))


OLD = (stay("GPU-a", "ml/old", 0, 1_040), stay("GPU-b", "ml/old", 3, 1_040))
NEW = (stay("GPU-c", "ml/new", 950, 5_000), stay("GPU-d", "ml/new", 955, 5_000))


def test_a_rollout_gives_each_boot_the_gpus_of_its_pod():
    """The old pod ends 40 s after the new one's engine came up; whether that one still runs makes no difference."""
    assert had(20, 1_000, *OLD, *NEW) == ["GPU-a", "GPU-b"]
    for end in (1_001, 1_030, 1_200, 5_000):
        assert had(1_000, end, *OLD, *NEW) == ["GPU-c", "GPU-d"]
    assert had(1_000, None, *OLD, *NEW) == ["GPU-c", "GPU-d"]


def test_an_old_pod_that_has_just_begun_keeps_its_gpus_from_the_boot_that_follows():
    """Rolled out twice within two minutes: a pod is there before the engine in it is."""
    one, two = stay("GPU-a", "ml/one", 0, 140), stay("GPU-b", "ml/two", 60, 600)
    assert had(20, 100, one, two) == ["GPU-a"]
    assert had(100, 500, one, two) == ["GPU-b"]


def test_a_process_that_starts_anew_stays_in_its_pod():
    """A crash: the pod and its devices go on."""
    assert had(20, 400, *OLD) == had(410, 1_000, *OLD) == ["GPU-a", "GPU-b"]


def test_nothing_is_known_of_a_boot_before_any_pod_was_read():
    """Nor of one whose pods were gone before it began."""
    assert had(20, 400) == []
    assert had(2_000, 3_000, *OLD) == []
    assert had(0, 900, *NEW) == []
    assert had(0, None, *NEW) == ["GPU-c", "GPU-d"]


TIMES = st.tuples(st.integers(0, 900), st.integers(0, 900)).map(sorted)
STAYS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["ml/1", "ml/2", "ml/3", ""]), TIMES), max_size=12
)


@given(stays=STAYS, life=TIMES, open_=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=300, deadline=None)
def test_it_is_one_pods_devices_in_whatever_order_they_are_told(stays, life, open_, seed):
    """Of all that it had while the boot lived, none left out."""
    start, end = life[0], None if open_ else life[1]
    there = [stay(uuid, pod, *times) for uuid, pod, times in stays]
    found = had(start, end, *there)
    random.Random(seed).shuffle(there)  # noqa: S311 - seeded trials
    assert had(start, end, *there) == found
    meet = [one for one in there if one.pod and one.last_ns >= start * SECOND]
    meet = [one for one in meet if end is None or one.first_ns <= end * SECOND]
    by_pod = {pod: sorted({one.uuid for one in meet if one.pod == pod}) for pod in {one.pod for one in meet}}
    assert found in by_pod.values() if by_pod else found == []
