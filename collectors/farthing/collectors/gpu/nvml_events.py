"""XID errors, which NVML tells only to those who wait for them."""

from __future__ import annotations

import logging
import threading
from ctypes import c_void_p, cast
from typing import Any, Final

from farthing.collectors.gpu.nvml_queries import DRIVER_GONE, Code

__all__ = ["XidWatch"]

_log = logging.getLogger(__name__)

_WAIT_MS: Final = 1_000
"""How long one wait takes at most, and so how long an end may take."""


class XidWatch:
    """Counts XID errors by UUID, in a thread that waits for them between ``listen`` and ``close``.

    A device that does not support it is left out. Counts outlast ``close``: they are from the first ``listen`` on.
    """

    def __init__(self, nvml: Any, wait_ms: int = _WAIT_MS) -> None:
        self._nvml = nvml
        self._wait_ms = wait_ms
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, int | None]] = {}
        self._uuids: dict[int | None, str] = {}
        self._set: Any = None
        self._refused = False
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def listen(self, handle: Any, uuid: str) -> None:
        """Begin to count the errors of a device; does nothing where it, or its driver, does not tell of them."""
        nvml = self._nvml
        if self._refused:
            return
        try:
            if self._set is None:
                self._set = nvml.nvmlEventSetCreate()
        except nvml.NVMLError as error:
            _log.debug("XID errors cannot be waited for: %s", error)
            self._refused = True
            return
        try:
            nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._set)
        except nvml.NVMLError as error:
            _log.debug("%s: tells of no XID errors: %s", uuid, error)
            return
        with self._lock:
            self._uuids[_address(handle)] = uuid
            self._seen.setdefault(uuid, (0, None))
        if self._thread is None:
            self._ended = threading.Event()
            self._thread = threading.Thread(
                target=self._wait, args=(self._set, self._ended), name="farthing-xid", daemon=True
            )
            self._thread.start()

    def seen(self, uuid: str) -> tuple[int, int | None] | None:
        """How many errors there were, and the last one's number; None for a device that is not listened to."""
        with self._lock:
            return self._seen.get(uuid)

    def close(self) -> None:
        """End the thread, and give back what NVML holds for it; ``listen`` begins anew. May be called twice."""
        thread, event_set = self._thread, self._set
        self._thread, self._set, self._refused = None, None, False
        self._ended.set()
        if thread is not None:
            thread.join(timeout=3 * self._wait_ms / 1000)
        if event_set is not None and (thread is None or not thread.is_alive()):
            try:
                self._nvml.nvmlEventSetFree(event_set)
            except self._nvml.NVMLError as error:
                _log.debug("the event set is gone already: %s", error)
        with self._lock:
            self._uuids.clear()

    def _wait(self, event_set: Any, ended: threading.Event) -> None:
        nvml = self._nvml
        while not ended.is_set():
            try:
                event = nvml.nvmlEventSetWait_v2(event_set, self._wait_ms)
            except nvml.NVMLError as error:
                if error.value in DRIVER_GONE or error.value == Code.FUNCTION_NOT_FOUND:
                    return
                if error.value != Code.TIMEOUT:
                    # a lost GPU fails at once, and must not make this a busy loop
                    ended.wait(self._wait_ms / 1000)
                continue
            if event.eventType & nvml.nvmlEventTypeXidCriticalError:
                self._count(event.device, int(event.eventData))

    def _count(self, handle: Any, xid: int) -> None:
        with self._lock:
            uuid = self._uuids.get(_address(handle))
            if uuid is None:
                return
            count, _ = self._seen[uuid]
            self._seen[uuid] = (count + 1, xid)
        _log.warning("%s: XID error %d", uuid, xid)


def _address(handle: Any) -> int | None:
    """What tells handles apart: two pointers to one device are not equal in Python."""
    return cast(handle, c_void_p).value
