"""Metering of vLLM's offline ``LLM``, which loads no stat-logger plugins: ``with meter(llm, job="nightly"):``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from farthing_probe.attribution import clamp
from farthing_probe.probe import log, obtain
from farthing_probe.stat_logger import FarthingStatLogger

__all__ = ["meter"]


@contextmanager
def meter(llm: Any, *, job: str, tenant: str = "", project: str = "") -> Iterator[None]:
    """Meter what an ``LLM`` does inside the block, booked to the workload ``job``; one block a process at a time.

    The ``LLM`` must keep statistics (``LLM(..., disable_log_stats=False)``): without them this logs one error
    and the block runs unmetered. It never raises anything of its own. Each block is a boot of its own.
    """
    probe = attached = manager = None
    try:
        engine = llm.llm_engine
        manager = getattr(engine, "logger_manager", None)
        if manager is None:
            log.error("farthing_probe: nothing is metered; make the LLM with disable_log_stats=False")
        else:
            from vllm.v1.metrics.loggers import PerEngineStatLoggerAdapter  # noqa: PLC0415

            probe = obtain(engine.vllm_config)
            if probe is not None:
                probe.attribution = {
                    "workload": clamp(job, 512), "tenant": clamp(tenant, 256), "project": clamp(project, 512),
                }  # fmt: skip
                attached = PerEngineStatLoggerAdapter(engine.vllm_config, [0], FarthingStatLogger)
                manager.stat_loggers.append(attached)
                attached.log_engine_initialized()
    except Exception as error:
        log.error("farthing_probe: nothing is metered (%s while attaching)", type(error).__name__)
    try:
        yield
    finally:
        if probe is not None and attached is not None and manager is not None:
            if attached in manager.stat_loggers:
                manager.stat_loggers.remove(attached)
            probe.end()
