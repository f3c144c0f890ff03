"""Everything a native stack reads, written into its state folder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import HttpUrl

from farthing.alerts.alertmanager import alertmanager_files
from farthing.alerts.render import render_rules
from farthing.dashboards.render import render_dashboards
from farthing.service.asking import READ_TOKEN
from farthing.settings import Settings
from farthing.stack.effective import render_settings
from farthing.stack.grafana import DASHBOARDS, PROVISIONING, GrafanaSources, grafana_files, render_grafana_ini
from farthing.stack.jaeger import JaegerPorts, JaegerSite, render_jaeger
from farthing.stack.layout import StateLayout
from farthing.stack.parts import LOOPBACK, serve_url
from farthing.stack.programs import Programs
from farthing.stack.scrape import ENGINE_TARGETS, Logins, prometheus_files, render_targets
from farthing.stack.secret_files import make_tokens

__all__ = ["write_configuration", "write_targets"]

SCRAPE_SECONDS = 2
"""One machine and a handful of series: often enough to feel live."""


def write_configuration(settings: Settings, layout: StateLayout, programs: Programs) -> None:
    """Write the configuration of every part; ``settings`` are effective ones. Secrets are generated when absent."""
    tokens = settings.tokens_file
    make_tokens(tokens, datetime.now(UTC))
    layout.write(layout.settings, render_settings(_delivering(settings) if programs.jaeger else settings))
    if settings.serve.token_file == layout.intake_token:
        layout.secret(layout.intake_token)
    stack = settings.stack
    layout.write_tree(
        layout.prometheus,
        prometheus_files(
            engines=settings.engines,
            rules=render_rules(settings),
            farthing_address=serve_url(settings).partition("://")[2],
            alertmanager_address=f"{LOOPBACK}:{stack.alertmanager_port}",
            interval_seconds=SCRAPE_SECONDS,
            exporters=settings.gpus.exporters,
            agents=settings.gpus.agents,
            spans_addresses=(f"{LOOPBACK}:{stack.jaeger_metrics_port}",) if programs.jaeger else (),
            discovery=settings.discovery,
            logins=Logins(
                farthing_token_file=str(tokens.parent / READ_TOKEN), farthing_https=settings.serve.scheme == "https"
            ),
        ),
    )
    layout.write_tree(layout.alertmanager, {Path(name): text for name, text in alertmanager_files(settings).items()})
    _write_grafana(settings, layout, with_jaeger=bool(programs.jaeger))
    data = layout.data / "jaeger"
    data.mkdir(parents=True, exist_ok=True)
    site = JaegerSite(host=LOOPBACK, data=str(data), prometheus=f"http://{LOOPBACK}:{stack.prometheus_port}")
    layout.write_tree(layout.jaeger, {Path("jaeger.yaml"): render_jaeger(JaegerPorts.of(stack), site, settings)})


def write_targets(settings: Settings, layout: StateLayout) -> None:
    """Tell a running Prometheus which engines there are; it notices within seconds, without a restart."""
    layout.write(layout.prometheus / ENGINE_TARGETS, render_targets(settings.engines))


def _delivering(settings: Settings) -> Settings:
    """Settings by which the service hands spans to the stack's Jaeger, unless they name another place."""
    if settings.traces.endpoint is not None:
        return settings
    own = HttpUrl(f"http://{LOOPBACK}:{settings.stack.jaeger_otlp_http_port}")
    return settings.model_copy(update={"traces": settings.traces.model_copy(update={"endpoint": own})})


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
