"""The scraper's clock: UTC nanoseconds that never step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from farthing.domain.clock import Anchor

__all__ = ["Clock", "anchored_clock"]

Clock: TypeAlias = Callable[[], int]
"""UTC nanoseconds that never run backwards."""


def anchored_clock() -> Clock:
    """A clock that read the wall clock once and runs on the monotonic one, so that no interval is ever negative."""
    anchor = Anchor(time.time_ns(), time.monotonic_ns())
    return lambda: anchor.to_wall(time.monotonic_ns())
