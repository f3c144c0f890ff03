"""The stat-logger plugin through which vLLM hands its statistics to the probe.

vLLM (0.11.2 and later) loads ``FarthingStatLogger`` from the entry point group ``vllm.stat_logger_plugins`` and
requires a subclass of its own ``vllm.v1.metrics.loggers.StatLoggerBase``. That base exists only inside the
engine's environment, so the class is made when it is first asked for; without vLLM it derives from ``object``.

Whatever it does, it must never raise into the engine and never hold on to the engine's objects.
"""

from __future__ import annotations

import logging
import time
import types
from collections import deque
from typing import TYPE_CHECKING, Any

from farthing_probe import wire
from farthing_probe.company import Company
from farthing_probe.probe import obtain
from farthing_probe.request_meter import finished

__all__ = ["FarthingStatLogger", "StepLog"]

ITERATION_LOGGER = "vllm.v1.metrics.loggers"
PREFILLED, DECODED = (wire.MARK_COLUMNS.index(f"{kind}_requests") for kind in ("prefill", "decode"))
MOST_MARKS = 60_000
"""In one batch; intake takes a little more. The rest goes with the next."""


class StepLog:
    """One engine index's step marks, as this process sees them.

    Methods take whatever they are given, because the arguments grew from version to version and vLLM declares
    them unstable.
    """

    def __init__(self, vllm_config: Any = None, engine_index: int = 0, *_: Any, **__: Any) -> None:
        self.engine_index = engine_index
        self.quiet_ns = time.monotonic_ns()
        """When nothing was last known to be running or waiting."""
        self.company = Company()
        self._marks: deque[tuple[int, ...]] = deque()
        self._first_ns = 0
        self.probe = obtain(vllm_config)
        if self.probe is None:
            return
        self._details = self.probe.identity.details
        self.probe.steps[engine_index] = self
        if self._details and not self.probe.settings.iteration_log:
            silence_iterations()

    def record(
        self, scheduler_stats: Any = None, iteration_stats: Any = None, *_: Any, engine_idx: int = 0, **__: Any
    ) -> None:
        """Take one set of statistics: an engine step, or a report of state only."""
        probe = self.probe
        if probe is None or not probe.on:
            return
        try:
            with probe.lock:
                at = time.monotonic_ns()
                mark = self._mark(at, scheduler_stats, iteration_stats)
                self._marks.append(mark)
                self.company.add(at, mark[PREFILLED] + mark[DECODED])
        except Exception as error:
            probe.failed("record", error)
        try:
            ended = getattr(iteration_stats, "finished_requests", None)
            if ended:
                finished(probe, self.engine_index, at, ended)
        except Exception as error:
            probe.failed("finished", error)

    def _mark(self, at: int, scheduler: Any, iteration: Any) -> tuple[int, ...]:
        """One row of wire.MARK_COLUMNS."""
        generated = computed = cached = preempted = 0
        if iteration is not None:
            generated = iteration.num_generation_tokens
            preempted = getattr(iteration, "num_preempted_reqs", 0)
            prompt = getattr(iteration, "prompt_token_stats", None)
            if prompt is None:  # before 0.16: cached tokens are not told apart
                computed = getattr(iteration, "num_prompt_tokens", 0)
            else:
                computed, cached = prompt.computed, prompt.total - prompt.computed
        if scheduler is None:
            return (at, -1, -1, 0, 0, 0, 0, 0, 0, generated, computed, cached, preempted)
        running, waiting = scheduler.num_running_reqs, scheduler.num_waiting_reqs
        if not running and not waiting:
            self.quiet_ns = at
        details = getattr(scheduler, "iteration_details", None)
        if details is not None:
            did = (
                details.num_ctx_requests,
                details.num_ctx_tokens,
                details.num_generation_requests,
                details.num_generation_tokens,
                getattr(details, "num_encoder_inputs", 0),
                getattr(details, "num_encoder_output_tokens", 0),
            )
            if getattr(details, "is_dummy", False):  # data-parallel padding: time of the step, work of nobody
                did = (0, 0, 0, 0, 0, 0)
        elif self._details:
            did = (0, 0, 0, 0, 0, 0)
        else:
            did = self._inferred(iteration, running, computed)
        return (at, running, waiting, *did, generated, computed, cached, preempted)

    @staticmethod
    def _inferred(iteration: Any, running: int, computed: int) -> tuple[int, int, int, int, int, int]:
        """A step's work without the scheduler's details: a prefill counts where it ends, images are unknown."""
        if iteration is None:
            # a chunk of a long prompt brings no output: it was a step all the same
            return (1 if running else 0, 0, 0, 0, 0, 0)
        first = len(getattr(iteration, "time_to_first_tokens_iter", ()))
        later = len(getattr(iteration, "inter_token_latencies_iter", ()))
        return (first, computed, later, max(later, iteration.num_generation_tokens - first) if later else 0, 0, 0)

    def cut(self) -> tuple[int, dict[str, list[int]], bool]:
        """See probe.Steps."""
        until_ns, rows = time.monotonic_ns(), list(self._marks)[:MOST_MARKS]
        if len(rows) < len(self._marks):
            until_ns = rows[-1][0]
        for _ in rows:
            self._marks.popleft()
        rows = [whole for row in rows if (whole := self._whole(row))]
        values = zip(*rows, strict=True) if rows else ((),) * len(wire.MARK_COLUMNS)
        columns = {name: list(column) for name, column in zip(wire.MARK_COLUMNS, values, strict=True)}
        return until_ns, columns, bool(self._marks)

    def _whole(self, row: tuple[int, ...]) -> tuple[int, ...]:
        """A mark of integers; empty when one is no number, for which the whole batch would be refused."""
        try:
            return tuple(map(int, row))
        except (TypeError, ValueError) as error:
            if self.probe is not None:
                self.probe.failed("record", error)
            return ()

    def log_engine_initialized(self, *_: Any, **__: Any) -> None:
        """Begin to report; called once every index has its logger."""
        probe = self.probe
        if probe is not None and not self._first_ns:
            self._first_ns = time.monotonic_ns()
            try:
                probe.begin_once()
            except Exception as error:
                probe.failed("log_engine_initialized", error)

    def log(self, *_: Any, **__: Any) -> None:
        """Nothing to print."""

    def record_sleep_state(self, sleep: int = 0, *_: Any, **__: Any) -> None:
        """Report a change between asleep and awake, once for all engine indexes."""
        probe = self.probe
        if probe is not None and probe.on and self.engine_index == min(probe.steps):
            probe.event("asleep" if sleep else "awake")

    def record_admission_rejection(self, *_: Any, **__: Any) -> None:
        """The middleware sees these as answers with a status."""


class _NotIterations(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("%sIteration(")


def silence_iterations() -> None:
    """Drop the INFO line for every step that vLLM writes with its iteration details; they reach us all the same."""
    logger = logging.getLogger(ITERATION_LOGGER)
    if not any(isinstance(each, _NotIterations) for each in logger.filters):
        logger.addFilter(_NotIterations())


def _base_class() -> type:
    try:
        from vllm.v1.metrics.loggers import StatLoggerBase  # noqa: PLC0415 - only the engine's process has it
    except Exception:
        # Not only ImportError: half an installation fails in other ways, and a plugin must not stop an engine.
        return object
    base: type = StatLoggerBase
    return base


def _make() -> type:
    def fill(namespace: dict[str, Any]) -> None:
        namespace["__module__"] = __name__
        namespace["__doc__"] = "vLLM's stat logger of this probe; one instance per API-server process and engine."

    # new_class rather than type(): vLLM's base is abstract, and its metaclass must take part.
    return types.new_class("FarthingStatLogger", (StepLog, _base_class()), exec_body=fill)


if TYPE_CHECKING:
    FarthingStatLogger = StepLog
else:

    def __getattr__(name: str) -> Any:
        """Make the class on first use (PEP 562) and keep it: there must be only one."""
        if name != "FarthingStatLogger":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        made = globals()[name] = _make()
        return made
