"""``farthing autoscale``: objects for Kubernetes, from the settings and from what starts have cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa
import typer

from farthing.alerts.autoscaling import adapter_rules, documents, horizontal_pod_autoscaler, scaled_object
from farthing.alerts.scale_down import Start, hold
from farthing.domain.conventions import STARTING
from farthing.domain.errors import ConfigError
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.settings import Settings
from farthing.settings_autoscale import AutoscaleSettings, PrewarmSettings, ScaledModelSettings

__all__ = ["EXAMPLE", "booked_starts", "example_files", "print_autoscaling", "render_autoscaling"]

Kind: TypeAlias = Literal["keda", "hpa", "adapter"]
Starts: TypeAlias = Mapping[str, Sequence[Start]]

HOUR_NS: Final = 3_600_000_000_000

EXAMPLE: Final = AutoscaleSettings(
    models=(
        ScaledModelSettings(
            model="llama-8b",
            deployment="llama-8b",
            namespace="llm",
            prewarm=(PrewarmSettings(timezone="Europe/Berlin", start="30 7 * * 1-5", end="0 19 * * 1-5", replicas=2),),
        ),
    )
)
"""What the committed files show, where the settings name no model."""


def print_autoscaling(settings: Settings, kind: Kind, model: str | None, ledger_url: str | None) -> None:
    """Print the documents of one kind; ConfigError when there is nothing to scale."""
    models = [scaled for scaled in settings.autoscale.models if model in {None, scaled.model}]
    if not models:
        known = ", ".join(scaled.model for scaled in settings.autoscale.models) or "none"
        wanted = "" if model is None else f" for model {model!r}"
        raise ConfigError(f"autoscale.models: no deployment{wanted}; add it (known: {known})")
    with Ledger.open(ledger_url or settings.ledger) as ledger:
        starts = {scaled.model: booked_starts(ledger, scaled.model) for scaled in models}
    typer.echo(render_autoscaling(settings, kind, models, starts), nl=False)


def render_autoscaling(settings: Settings, kind: Kind, models: Sequence[ScaledModelSettings], starts: Starts) -> str:
    """YAML text of the documents of one kind; ``starts`` by model."""
    if kind == "adapter":
        return documents(
            [
                (
                    adapter_rules(settings, models),
                    "prometheus-adapter's configuration; in its chart the list is rules.external",
                )
            ]
        )
    make: Callable[..., dict[str, Any]] = scaled_object if kind == "keda" else horizontal_pod_autoscaler
    held = [(scaled, hold(scaled, starts.get(scaled.model, ()))) for scaled in models]
    return documents((make(settings, scaled, kept), kept.reason) for scaled, kept in held)


def booked_starts(ledger: Ledger, model: str) -> tuple[Start, ...]:
    """What each boot of the model cost until it was ready, and what its GPUs cost per hour."""
    b, lines = t.boots.c, t.boot_lines.c
    begun = sa.func.coalesce(b.billed_from_ns, b.started_ns)
    query = (
        sa.select(sa.func.coalesce(sa.func.sum(lines.nano), 0), b.bill_nano, b.covered_ns - begun)
        .outerjoin(t.boot_lines, sa.and_(lines.boot == b.boot, lines.account == STARTING))
        .where(b.model == model, b.covered_ns > begun)
        .group_by(b.boot, b.bill_nano, b.covered_ns, b.billed_from_ns, b.started_ns)
        .order_by(b.boot)
    )
    return tuple(Start(int(nano), int(bill) * HOUR_NS // int(span)) for nano, bill, span in ledger.select(query))


def example_files(settings: Settings) -> dict[Path, str]:
    """Path relative to one folder -> text: the settings' deployments, or an example; starts as assumed."""
    if not settings.autoscale.models:
        settings = settings.model_copy(update={"autoscale": EXAMPLE})
    kinds: dict[Kind, str] = {
        "keda": "keda/scaledobjects.yaml",
        "hpa": "hpa/horizontalpodautoscalers.yaml",
        "adapter": "hpa/prometheus-adapter.yaml",
    }
    return {
        Path(name): render_autoscaling(settings, kind, settings.autoscale.models, {}) for kind, name in kinds.items()
    }
