"""The stat-logger plugin through which vLLM hands its statistics to the probe.

vLLM (0.11.2 and later) loads ``FarthingStatLogger`` from the entry point group ``vllm.stat_logger_plugins`` and
requires a subclass of its own ``vllm.v1.metrics.loggers.StatLoggerBase``. That base exists only inside the
engine's environment, so the class is made when it is first asked for; without vLLM it derives from ``object``.

The plugin is empty-handed for now: it counts the calls it gets, and keeps nothing of what they carry.
Whatever it does, it must never raise into the engine and never hold on to the engine's objects.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

__all__ = ["CallCounts", "FarthingStatLogger"]


class CallCounts:
    """The plugin's own side: the methods vLLM calls, by number of calls.

    Methods take whatever they are given, because the arguments grew from version to version and vLLM declares
    them unstable.
    """

    def __init__(self, vllm_config: object = None, engine_index: int = 0, *_: Any, **__: Any) -> None:
        self.engine_index = engine_index
        self.calls: dict[str, int] = {}

    def record(self, *_: Any, **__: Any) -> None:
        """Count one set of statistics: an engine step, or a report of state only."""
        self._count("record")

    def log_engine_initialized(self, *_: Any, **__: Any) -> None:
        """Count the engine's start."""
        self._count("log_engine_initialized")

    def log(self, *_: Any, **__: Any) -> None:
        """Count a periodic request to log; prints nothing."""
        self._count("log")

    def record_sleep_state(self, *_: Any, **__: Any) -> None:
        """Count a change between asleep and awake."""
        self._count("record_sleep_state")

    def record_admission_rejection(self, *_: Any, **__: Any) -> None:
        """Count a request that the frontend turned away (vLLM 0.32 and later)."""
        self._count("record_admission_rejection")

    def _count(self, method: str) -> None:
        self.calls[method] = self.calls.get(method, 0) + 1


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
    return types.new_class("FarthingStatLogger", (CallCounts, _base_class()), exec_body=fill)


if TYPE_CHECKING:
    FarthingStatLogger = CallCounts
else:

    def __getattr__(name: str) -> Any:
        """Make the class on first use (PEP 562) and keep it: there must be only one."""
        if name != "FarthingStatLogger":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        made = globals()[name] = _make()
        return made
