"""The probe of one engine process: it numbers records, keeps the requests in flight, and cuts step batches.

Three threads of execution meet here: the engine's event loop (statistics and HTTP), the delivery's thread (ticks),
and whoever ends the process. One lock serves them all; nothing under it waits for anything.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing.util
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from farthing_probe import wire
from farthing_probe.company import Company
from farthing_probe.delivery import Delivery
from farthing_probe.identity import Identity
from farthing_probe.self_metrics import SelfMetrics
from farthing_probe.settings import SettingError, Settings
from farthing_probe.span_delivery import Otlp, SpanDelivery
from farthing_probe.trace_settings import ENDPOINT

if TYPE_CHECKING:
    from farthing_probe.sequences import EngineSequence

__all__ = ["Pending", "Probe", "Steps", "current", "obtain", "ordered"]

SECOND = 1_000_000_000
BATCH_NS = 5 * SECOND
FLUSH_SECONDS = 2.0
COMPLAIN_NS = 60 * SECOND

log = logging.getLogger("farthing_probe")


class Pending(Protocol):
    """A request whose usage record has not been sent yet."""

    arrived_ns: int

    def settle(self, now_ns: int, *, final: bool) -> bool:
        """Whether its record has been sent, now or before; ``final``: send whatever is known."""
        ...


class Steps(Protocol):
    """The step marks of one engine index."""

    company: Company

    def cut(self) -> tuple[int, dict[str, list[int]], bool]:
        """(complete up to, columns, whether more are left); called under the probe's lock."""
        ...


class Probe:
    """See the module. ``on`` is False while the kill switch is set; everything then passes by untouched."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.settings = settings
        self.identity = identity
        self.lock = threading.RLock()
        self.on = False
        self.errors = 0
        self.boot = identity.boot
        self.steps: dict[int, Steps] = {}
        """By engine index."""
        self.pending: dict[Pending, None] = {}
        """In order of arrival."""
        self.lag_ns: dict[int, int] = {}
        """By engine index: from the engine core's clock reading of an output to the mark that reported it."""
        self.unreported: dict[str, list[EngineSequence]] = {}
        """By the id that the engine reports: sequences of which it has not said yet how they ended."""
        self.watched: object = None
        """The engine client whose output processor tells of new requests."""
        self.attribution: dict[str, str] = {}
        """Of requests that come from no client: those of an offline job."""
        self.metered_http = False
        """Whether the middleware is there, so that a finished sequence belongs to a request it holds."""
        self.delivery = Delivery(settings, f"{identity.boot}-{identity.proc}", self.tick)
        traces, engine = settings.traces, identity.engine
        self.spans = SpanDelivery(traces, lambda: Otlp(traces, engine)) if traces.mode == "sdk" else None
        """Where edge spans go; None where they go with the records, or nowhere."""
        self._metrics = SelfMetrics()
        self._sequence = 0
        self._cut_ns = 0
        self.began_ns = 0
        """Where this boot begins."""
        self._began = self._ended = self._stopped = False
        self._switched_ns: int | None = None

    # ---- life ----------------------------------------------------------------------------------

    def begin_once(self) -> None:
        """Begin the first boot, and the thread that delivers; where a boot has been ended, the next."""
        if not self._began:
            self._began = True
            self._begin(self.identity.boot, self.identity.started_ns)
            self.delivery.start()
            if self.spans is not None:
                self.spans.start()
        elif self._ended and self._switched_ns is None:
            now = time.monotonic_ns()
            self._begin(f"{self.identity.boot}-{now:x}", now)

    def _begin(self, boot: str, started_ns: int) -> None:
        with self.lock:
            self.boot, self._sequence, self._ended, self._stopped = boot, 0, False, False
            self.began_ns = started_ns
            self._cut_ns = time.monotonic_ns()
            self.on = True
            if self.identity.proc:
                return
            who = self.identity
            now, wall = time.monotonic_ns(), time.time_ns()
            self.send(
                wire.started,
                at_ns=started_ns,
                wall_ns=wall - (now - started_ns),
                engine=who.engine,
                engine_kind="vllm",
                version=who.version,
                model=who.model,
                gpu=who.gpu,
                gpu_count=who.gpu_count,
                gpu_uuids=who.gpu_uuids,
                details=who.details,
                processes=who.processes,
                ranks=max(1, len(self.steps)),
            )
            self.event("ready")

    def event(self, name: str) -> None:
        """Report a change of state, one of wire.EVENTS."""
        self.send(wire.lifecycle, at_ns=time.monotonic_ns(), event=name)

    def end(self) -> None:
        """Say all that is known, and that nothing more comes of this boot."""
        with self.lock:
            if self._ended:
                return
            self._ended, self.on = True, False
            self._settle(final=True)
            while self._cut():
                pass
            self.event("stop")
            self._stopped = True

    def stop(self, seconds: float = FLUSH_SECONDS) -> None:
        """End the boot and deliver what waits, in at most so many seconds; what is left goes to the spool."""
        try:
            until = time.monotonic() + seconds
            self.end()
            if self.spans is not None:
                self.spans.close()
            self.delivery.close(seconds)
            if self.spans is not None:
                self.spans.join(until - time.monotonic())
        except Exception as error:
            self.failed("stop", error)

    # ---- records -------------------------------------------------------------------------------

    def send(self, build: Callable[..., wire.Wire], **fields: Any) -> None:
        """Number a record and hand it on; its key is unique whichever thread sends it."""
        with self.lock:
            if self._stopped:  # its last record is out; the engine's thread came a moment too late
                return
            sequence = self._sequence
            self._sequence += 1
            self.delivery.put(build(self.boot, self.identity.proc, sequence, **fields))

    def tick(self) -> None:
        """Once a second: the kill switch, requests that wait for their engine's word, step batches, own metrics."""
        self._obey_switch()
        with self.lock:
            if self.on:
                self._settle(final=False)
                if time.monotonic_ns() - self._cut_ns >= BATCH_NS:
                    self._cut()
        self._metrics.update(self)

    def _settle(self, *, final: bool) -> None:
        now = time.monotonic_ns()
        for request in list(self.pending):
            try:
                settled = request.settle(now, final=final)
            except Exception as error:
                self.failed("settle", error)
                settled = True
            if settled:
                self.pending.pop(request, None)

    def _cut(self) -> bool:
        """One batch of each engine index, an empty one as a heartbeat: this process lives. Whether steps are left."""
        self._cut_ns, left = time.monotonic_ns(), False
        for rank, index in enumerate(sorted(self.steps)):
            until_ns, columns, more = self.steps[index].cut()
            left = left or more
            oldest = next(iter(self.pending), None)
            open_ns = until_ns if oldest is None else min(until_ns, oldest.arrived_ns)
            if not self.metered_http:
                open_ns = min(open_ns, self._quiet_ns(until_ns))
            self.send(wire.steps, engine_index=rank, until_ns=until_ns, open_ns=open_ns, columns=columns)
        return left

    def _quiet_ns(self, until_ns: int) -> int:
        """Without the middleware nobody tells when requests arrive: not before the engine last had none."""
        return min((getattr(steps, "quiet_ns", until_ns) for steps in self.steps.values()), default=until_ns)

    def rank(self, engine_index: int) -> int:
        """The position of an engine index among this instance's, as records number them."""
        return sorted(self.steps).index(engine_index) if engine_index in self.steps else 0

    # ---- the kill switch -----------------------------------------------------------------------

    def _obey_switch(self) -> None:
        path = self.settings.off_file
        try:
            switched_ns = path.stat().st_mtime_ns if path else None
        except OSError:
            switched_ns = None
        if switched_ns is not None and self.on:
            log.warning("farthing_probe is off: %s exists", path)
            self.end()
            self._switched_ns = switched_ns
        elif switched_ns is None and self._switched_ns is not None:
            log.warning("farthing_probe is on again")
            # the file's time is the same for every process of the instance, so they agree on the new boot
            boot, self._switched_ns = f"{self.identity.boot}-{self._switched_ns:x}", None
            self._begin(boot, time.monotonic_ns())

    # ---- errors --------------------------------------------------------------------------------

    _complained_ns = 0

    def failed(self, where: str, error: BaseException) -> None:
        """Count an exception of the probe's own; log one a minute. Never its text: that may quote a request."""
        self.errors += 1
        now = time.monotonic_ns()
        if now - self._complained_ns > COMPLAIN_NS or not self._complained_ns:
            self._complained_ns = now
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            line = trace.tb_lineno if trace is not None else 0
            log.warning("farthing_probe: %s in %s, line %d (%d so far)", type(error).__name__, where, line, self.errors)


# ---- the one probe of this process ------------------------------------------------------------------

_probe: Probe | None = None
_refused = False
_making = threading.Lock()


def current() -> Probe | None:
    """The probe of this process; None before its engine is known, or when its settings cannot be used."""
    return _probe


def obtain(config: Any) -> Probe | None:
    """The probe of this process, made when first asked for; None when that fails, which is logged once."""
    global _probe, _refused  # noqa: PLW0603 - one probe a process, whoever asks first
    with _making:
        if _probe is None and not _refused:
            try:
                settings = Settings.from_environment(_environment(config))
                _probe = Probe(settings, Identity.of(config, settings))
                os.register_at_fork(after_in_child=_forget)
                atexit.register(_probe.stop)
                # children that multiprocessing forks leave without atexit
                multiprocessing.util.Finalize(None, _probe.stop, exitpriority=100)
            except SettingError as error:
                _refused = True
                log.error("farthing_probe is off: %s", error)
            except Exception as error:
                _refused = True
                log.error("farthing_probe is off: %s while starting", type(error).__name__)
        return _probe


def _environment(config: Any) -> Mapping[str, str]:
    """This process's environment; the collector that vLLM's own flag names is in it, as later versions put it there."""
    endpoint = getattr(getattr(config, "observability_config", None), "otlp_traces_endpoint", None)
    return {**os.environ, ENDPOINT: endpoint} if isinstance(endpoint, str) and endpoint else os.environ


def _forget() -> None:
    """A forked child is another process: it must neither number records nor deliver."""
    global _probe  # noqa: PLW0603
    if _probe is not None:
        _probe.on = False
        _probe._ended = True
        _probe.delivery.abandon()
        if _probe.spans is not None:
            _probe.spans.abandon()
        _probe = None


def ordered(moments: Sequence[int | None]) -> list[int | None]:
    """Moments made to never go back; None stays None."""
    latest = 0
    result: list[int | None] = []
    for moment in moments:
        latest = max(latest, moment or 0)
        result.append(None if moment is None else latest)
    return result
