"""The parts of a native stack: what runs, on which ports, and how one sees that it is ready."""

from __future__ import annotations

from dataclasses import dataclass

from farthing.settings import Settings
from farthing.stack.effective import REPLAY
from farthing.stack.layout import StateLayout
from farthing.stack.programs import Programs
from farthing.stack.scrape import PROMETHEUS_CONFIG

__all__ = ["Part", "PartPort", "native_parts", "serve_url"]

LOOPBACK = "127.0.0.1"
RETENTION = "15d"
ALERTMANAGER_SAVES_SECONDS = 15
"""How often Alertmanager writes silences and what it notified of to disk; on its own it would every 15 minutes."""


@dataclass(frozen=True, slots=True)
class PartPort:
    """A port that a part listens on, and the setting that moves it."""

    number: int
    setting: str
    host: str = LOOPBACK


@dataclass(frozen=True, slots=True)
class Part:
    """One supervised process."""

    name: str
    command: tuple[str, ...]
    ports: tuple[PartPort, ...]
    ready_url: str
    page: str
    """What a person opens."""
    priority: int
    """Parts start from the lowest to the highest and stop the other way round."""
    stop_seconds: int = 10


def native_parts(settings: Settings, layout: StateLayout, programs: Programs, *, replaying: bool) -> tuple[Part, ...]:
    """The parts in the order in which they start; ``settings`` are effective ones.

    The replay stops first and Prometheus after Farthing, so that what the last requests cost is still scraped.
    """
    stack = settings.stack
    parts = [_alertmanager(stack.alertmanager_port, layout, programs)]
    if programs.jaeger:
        parts.append(_jaeger(settings, layout, programs))
    parts.append(_prometheus(stack.prometheus_port, layout, programs))
    parts.append(_serve(settings, layout, programs))
    if programs.grafana:
        parts.append(_grafana(stack.grafana_port, layout, programs))
    if replaying:
        parts.append(_replay(settings, layout, programs))
    return tuple(sorted(parts, key=lambda part: part.priority))


def serve_url(settings: Settings) -> str:
    """Where this machine reaches ``farthing serve``."""
    host = settings.serve.host
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared, not bound  # nosec B104
        host = LOOPBACK
    return f"{settings.serve.scheme}://{f'[{host}]' if ':' in host else host}:{settings.serve.port}"


def _alertmanager(port: int, layout: StateLayout, programs: Programs) -> Part:
    url = f"http://{LOOPBACK}:{port}"
    return Part(
        name="alertmanager",
        command=(
            *programs.alertmanager,
            f"--config.file={layout.alertmanager / 'alertmanager.yml'}",
            f"--storage.path={layout.data / 'alertmanager'}",
            f"--data.maintenance-interval={ALERTMANAGER_SAVES_SECONDS}s",
            f"--web.listen-address={LOOPBACK}:{port}",
            f"--web.external-url={url}",
            # a single Alertmanager gossips with nobody; by default it would listen on every address
            "--cluster.listen-address=",
        ),
        ports=(PartPort(port, "stack.alertmanager_port"),),
        ready_url=f"{url}/-/ready",
        page=url,
        priority=10,
    )


def _jaeger(settings: Settings, layout: StateLayout, programs: Programs) -> Part:
    stack = settings.stack
    names = (
        *("jaeger_port", "jaeger_query_grpc_port", "jaeger_otlp_grpc_port", "jaeger_otlp_http_port"),
        *("jaeger_health_port", "jaeger_metrics_port"),
    )
    return Part(
        name="jaeger",
        command=(*programs.jaeger, "--config", str(layout.jaeger / "jaeger.yaml")),
        ports=tuple(PartPort(getattr(stack, name), f"stack.{name}") for name in names),
        ready_url=f"http://{LOOPBACK}:{stack.jaeger_health_port}/status",
        page=f"http://{LOOPBACK}:{stack.jaeger_port}",
        priority=20,
    )


def _prometheus(port: int, layout: StateLayout, programs: Programs) -> Part:
    url = f"http://{LOOPBACK}:{port}"
    return Part(
        name="prometheus",
        command=(
            *programs.prometheus,
            f"--config.file={layout.prometheus / PROMETHEUS_CONFIG}",
            f"--storage.tsdb.path={layout.data / 'prometheus'}",
            f"--storage.tsdb.retention.time={RETENTION}",
            f"--web.listen-address={LOOPBACK}:{port}",
            f"--web.external-url={url}",
            "--enable-feature=exemplar-storage",
        ),
        ports=(PartPort(port, "stack.prometheus_port"),),
        ready_url=f"{url}/-/ready",
        page=url,
        priority=30,
        # a graceful stop writes the head to disk
        stop_seconds=20,
    )


def _serve(settings: Settings, layout: StateLayout, programs: Programs) -> Part:
    url = serve_url(settings)
    return Part(
        name="farthing",
        command=(*programs.farthing, "serve", "--config", str(layout.settings)),
        ports=(PartPort(settings.serve.port, "serve.port", settings.serve.host),),
        ready_url=f"{url}/readyz",
        page=f"{url}/",
        priority=40,
        stop_seconds=15,
    )


def _grafana(port: int, layout: StateLayout, programs: Programs) -> Part:
    url = f"http://{LOOPBACK}:{port}"
    return Part(
        name="grafana",
        command=(*programs.grafana, "--config", str(layout.grafana / "grafana.ini")),
        ports=(PartPort(port, "stack.grafana_port"),),
        ready_url=f"{url}/api/health",
        page=url,
        priority=50,
    )


def _replay(settings: Settings, layout: StateLayout, programs: Programs) -> Part:
    stack = settings.stack
    url = f"http://{LOOPBACK}:{stack.replay_port}"
    return Part(
        name=REPLAY,
        command=(
            *(*programs.farthing, "replay", stack.replay_recording, "--config", str(layout.settings)),
            *("--port", str(stack.replay_port), "--lead", f"{stack.replay_lead_seconds:g}", "--loop"),
            *("--to", serve_url(settings), "--engine-name", REPLAY),
        ),
        ports=(PartPort(stack.replay_port, "stack.replay_port"),),
        ready_url=f"{url}/metrics",
        page=f"{url}/metrics",
        priority=60,
    )
