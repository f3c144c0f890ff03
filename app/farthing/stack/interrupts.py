"""Signals that ask a foreground stack to stop, as an event one can wait for."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

__all__ = ["stop_signals"]


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set while the block runs."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # what the caller ignores, as nohup does with SIGHUP, stays ignored
    kinds = [
        kind for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(kind) is not signal.SIG_IGN
    ]
    earlier = {kind: signal.signal(kind, lambda _signal, _frame: stop.set()) for kind in kinds}
    try:
        yield stop
    finally:
        for kind, handler in earlier.items():
            signal.signal(kind, handler)
