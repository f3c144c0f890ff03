"""The part of Farthing that lives inside the serving engine. Standard library only; vLLM imported lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farthing_probe.offline import meter
    from farthing_probe.request_meter import RequestMeter

__all__ = ["RequestMeter", "meter"]


def __getattr__(name: str) -> Any:
    """Load what is asked for (PEP 562): the wire's schema is read outside of engines too."""
    if name == "RequestMeter":
        from farthing_probe.request_meter import RequestMeter  # noqa: PLC0415

        return RequestMeter
    if name == "meter":
        from farthing_probe.offline import meter  # noqa: PLC0415

        return meter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
