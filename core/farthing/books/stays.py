"""When a GPU was there, whoever told it: stays of several sources made one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from farthing.books.idle_devices import Stay

__all__ = ["united"]


def united(stays: Iterable[Stay], gap_ns: int) -> list[Stay]:
    """Stays of which no two of a device overlap, with gaps of up to ``gap_ns`` (nanoseconds) closed.

    Where two kinds of GPU are told of one UUID, the one told first counts until its end.
    """
    found: list[Stay] = []
    for stay in sorted(stays, key=lambda one: (one.uuid, one.start_ns, one.end_ns, one.gpu)):
        last = found[-1] if found and found[-1].uuid == stay.uuid else None
        if last is None or stay.start_ns > last.end_ns + gap_ns:
            found.append(stay)
        elif stay.end_ns > last.end_ns:
            if stay.gpu == last.gpu:
                found[-1] = replace(last, end_ns=stay.end_ns)
            else:
                found.append(replace(stay, start_ns=last.end_ns))
    return found
