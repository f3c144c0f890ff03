"""Which devices a boot has where only Kubernetes tells: those of its pod, found by when its engine's pods were there.

No record says in which pod a boot runs. An engine's boots follow one another: in a rollout the old pod goes on for a
while with its devices beside the new one with others, and a process that starts anew stays where it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from farthing.ledger.devices import PRESENCE_GAP_NS, Presence

__all__ = ["devices_of_boot"]


def devices_of_boot(start_ns: int, end_ns: int | None, stays: Iterable[Presence]) -> frozenset[str]:
    """UUIDs that a boot of [start, end], UTC nanoseconds, had of the devices of its engine's pods.

    ``end_ns`` None: it goes on. Its pod is the one that was there for the most of its life; of several that differ by
    no more than a minute the last that had begun by its start, since a pod comes before what runs in it. It depends
    on what was read alone, not on the order in which that came.
    """
    by_pod: defaultdict[str, list[Presence]] = defaultdict(list)
    for stay in stays:
        if stay.pod and stay.last_ns >= start_ns and (end_ns is None or stay.first_ns <= end_ns):
            by_pod[stay.pod].append(stay)
    if not by_pod:
        return frozenset()
    covered = {pod: _longest(start_ns, end_ns, there) for pod, there in by_pod.items()}
    most = max(covered.values())
    first = {
        pod: min(stay.first_ns for stay in there)
        for pod, there in by_pod.items()
        if covered[pod] >= most - PRESENCE_GAP_NS
    }
    begun = [pod for pod in first if first[pod] <= start_ns]
    chosen = max(begun, key=lambda pod: (first[pod], pod)) if begun else min(first, key=lambda pod: (first[pod], pod))
    return frozenset(stay.uuid for stay in by_pod[chosen])


def _longest(start_ns: int, end_ns: int | None, stays: Iterable[Presence]) -> int:
    """For how many nanoseconds of [start, end) the longest of a pod's devices was there, whoever told it."""
    longest = 0
    by_uuid: defaultdict[str, list[Presence]] = defaultdict(list)
    for stay in stays:
        by_uuid[stay.uuid].append(stay)
    for own in by_uuid.values():
        total, reached = 0, start_ns
        for stay in sorted(own, key=lambda one: (one.first_ns, one.last_ns)):
            until = stay.last_ns if end_ns is None else min(stay.last_ns, end_ns)
            total += max(0, until - max(stay.first_ns, reached))
            reached = max(reached, until)
        longest = max(longest, total)
    return longest
