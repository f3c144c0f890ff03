"""Everything a native stack reads, written into its state folder."""

from __future__ import annotations

from pathlib import Path

from farthing.alerts.alertmanager import alertmanager_files
from farthing.alerts.render import render_rules
from farthing.dashboards.render import render_dashboards
from farthing.settings import Settings
from farthing.stack.effective import render_settings
from farthing.stack.grafana import DASHBOARDS, PROVISIONING, GrafanaSources, grafana_files, render_grafana_ini
from farthing.stack.jaeger import JaegerPorts, render_jaeger
from farthing.stack.layout import StateLayout
from farthing.stack.parts import LOOPBACK, serve_url
from farthing.stack.programs import Programs
from farthing.stack.scrape import ENGINE_TARGETS, prometheus_files, render_targets

__all__ = ["write_configuration", "write_targets"]

SCRAPE_SECONDS = 2
"""One machine and a handful of series: often enough to feel live."""


def write_configuration(settings: Settings, layout: StateLayout, programs: Programs) -> None:
    """Write the configuration of every part; ``settings`` are effective ones. Secrets are generated when absent."""
    layout.write(layout.settings, render_settings(settings))
    if settings.serve.token_file == layout.intake_token:
        layout.secret(layout.intake_token)
    stack = settings.stack
    layout.write_tree(
        layout.prometheus,
        prometheus_files(
            engines=settings.engines,
            rules=render_rules(settings),
            farthing_address=serve_url(settings).removeprefix("http://"),
            alertmanager_address=f"{LOOPBACK}:{stack.alertmanager_port}",
            interval_seconds=SCRAPE_SECONDS,
            exporters=settings.gpus.exporters,
            agents=settings.gpus.agents,
        ),
    )
    layout.write_tree(layout.alertmanager, {Path(name): text for name, text in alertmanager_files(settings).items()})
    _write_grafana(settings, layout, with_jaeger=bool(programs.jaeger))
    ports = JaegerPorts(
        page=stack.jaeger_port,
        query_grpc=stack.jaeger_query_grpc_port,
        otlp_grpc=stack.jaeger_otlp_grpc_port,
        otlp_http=stack.jaeger_otlp_http_port,
        health=stack.jaeger_health_port,
    )
    layout.write_tree(layout.jaeger, {Path("jaeger.yaml"): render_jaeger(ports, LOOPBACK)})


def write_targets(settings: Settings, layout: StateLayout) -> None:
    """Tell a running Prometheus which engines there are; it notices within seconds, without a restart."""
    layout.write(layout.prometheus / ENGINE_TARGETS, render_targets(settings.engines))


def _write_grafana(settings: Settings, layout: StateLayout, *, with_jaeger: bool) -> None:
    """Written whether Grafana is installed or not, so that one started by hand finds it."""
    stack = settings.stack
    sources = GrafanaSources(
        prometheus=f"http://{LOOPBACK}:{stack.prometheus_port}",
        alertmanager=f"http://{LOOPBACK}:{stack.alertmanager_port}",
        jaeger=f"http://{LOOPBACK}:{stack.jaeger_port}" if with_jaeger else "",
        interval_seconds=SCRAPE_SECONDS,
    )
    layout.secret(layout.grafana_password)
    layout.write_tree(
        layout.grafana,
        {
            **grafana_files(sources, render_dashboards(settings), str(layout.grafana / DASHBOARDS)),
            Path("grafana.ini"): render_grafana_ini(
                port=stack.grafana_port,
                data=layout.data / "grafana",
                logs=layout.logs,
                provisioning=layout.grafana / PROVISIONING,
                dashboards=layout.grafana / DASHBOARDS,
                password_file=layout.grafana_password,
            ),
        },
    )
