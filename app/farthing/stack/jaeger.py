"""Jaeger 2's configuration: it takes OTLP, throws content away, counts, keeps what is remarkable, and shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import yaml

from farthing.domain import conventions as names
from farthing.settings import Settings, StackSettings
from farthing.stack.jaeger_content import delete_content, drop_events
from farthing.stack.jaeger_policies import tail_sampling

__all__ = [
    "CLEANING",
    "JAEGER_OWN_METRICS",
    "JaegerPorts",
    "JaegerSite",
    "cleaning",
    "counting",
    "document",
    "limiting",
    "one_process",
    "otlp",
    "page",
    "render_jaeger",
    "sampling",
    "time_to_live",
]

MEMORY_LIMIT_MIB: Final = 1100
"""Beyond it a forced collection of garbage; less the spike, spans are refused, which senders are told. compose.yaml
grants more, for what Badger keeps outside Go's heap."""
MEMORY_SPIKE_MIB: Final = 250
JAEGER_OWN_METRICS: Final = 8888
"""The collector's usual port for its own metrics, where Jaeger has an address to itself."""
AUTHENTICATOR: Final = "basicauth"
# the extension itself never says how to log in, so that a browser would not ask
CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="Jaeger"'}

LIMITER: Final = "memory_limiter"
CONTENT: Final = "attributes/content"
EVENTS: Final = "filter/events"
CLEANING: Final = (LIMITER, CONTENT, EVENTS)
"""Before anything else sees a span."""
SAMPLER: Final = "tail_sampling"
BATCH: Final = "batch"
SPAN_METRICS: Final = "spanmetrics"
FORWARD: Final = "forward"
STORAGE: Final = "jaeger_storage_exporter"
TRACES: Final = "traces"
"""What the storage is called."""
COUNTS: Final = "span_metrics"
"""What the Prometheus that has the span metrics is called."""

SPAN_METRICS_NAMESPACE: Final = "traces.span.metrics"
"""The connector's default, written out because Jaeger's page asks for the same in Prometheus' spelling."""
BUCKETS: Final = (
    *("10ms", "50ms", "100ms", "250ms", "500ms", "1s", "2500ms", "5s", "10s", "20s", "30s", "60s", "120s", "300s"),
)
DIMENSIONS: Final = (names.ATTRIBUTE_OPERATION, names.ATTRIBUTE_MODEL, names.ATTRIBUTE_TIER, names.ATTRIBUTE_OUTCOME)
"""Beside service, span, kind and status. Neither tenants nor ids: each would be a series of every bucket."""
MOST_SERIES: Final = 2000
"""Per service; callers choose names of models and spans, and what is beyond is counted together."""


@dataclass(frozen=True, slots=True)
class JaegerPorts:
    """Where Jaeger listens."""

    page: int
    query_grpc: int
    otlp_grpc: int
    otlp_http: int
    health: int
    metrics: int
    """Where Prometheus scrapes the span metrics."""
    own: int = 0
    """Where it scrapes what Jaeger tells of itself; 0: nowhere."""

    @classmethod
    def of(cls, stack: StackSettings, *, own: int = 0) -> JaegerPorts:
        """Those of the settings."""
        return cls(
            page=stack.jaeger_port,
            query_grpc=stack.jaeger_query_grpc_port,
            otlp_grpc=stack.jaeger_otlp_grpc_port,
            otlp_http=stack.jaeger_otlp_http_port,
            health=stack.jaeger_health_port,
            metrics=stack.jaeger_metrics_port,
            own=own,
        )


@dataclass(frozen=True, slots=True)
class JaegerSite:
    """What surrounds Jaeger, as it finds it."""

    host: str
    """Address that every port is on."""
    data: str = ""
    """Folder of the traces, writable."""
    htpasswd: str = ""
    """File of who may look and deliver. Empty: everybody who reaches it."""
    prometheus: str = ""
    """Base URL of the Prometheus that scrapes it, for its page about span metrics."""
    prometheus_user: str = ""
    prometheus_password_file: str = ""


def render_jaeger(ports: JaegerPorts, site: JaegerSite, settings: Settings) -> str:
    """The configuration for ``jaeger --config FILE`` (keys as in Jaeger 2.20 and the collector 0.154 in it).

    With ``site.htpasswd``, whoever looks or delivers has to log in: by the collector's basicauth extension, which is
    among Jaeger's components (cmd/jaeger/builder.yaml). The check of health and the span metrics stay open.

    Every endpoint is given: Jaeger's defaults listen on localhost only, which no other container reaches. Without
    ``ports.own`` its own metrics are off, for not every 2.x release can be told their port.
    """
    badger = {
        "ephemeral": False,
        "directories": {"keys": f"{site.data}/keys", "values": f"{site.data}/values"},
        "ttl": {"spans": time_to_live(settings)},
    }
    return one_process(ports, site, settings, {"badger": badger})


def one_process(ports: JaegerPorts, site: JaegerSite, settings: Settings, backend: dict[str, Any]) -> str:
    """The configuration of a Jaeger that does everything itself, and stores in ``backend``.

    Two pipelines: what comes in is cleaned and counted, and goes on through ``forward`` to be sampled and stored, so
    that span metrics count every request and not those that are kept.
    """
    pipelines, counted = counting(ports, site)
    return document(
        site=site,
        ports=ports,
        pipelines={
            "traces/in": {"receivers": ["otlp"], "processors": [*CLEANING], "exporters": [SPAN_METRICS, FORWARD]},
            "traces/sampled": {"receivers": [FORWARD], "processors": [SAMPLER, BATCH], "exporters": [STORAGE]},
            **pipelines,
        },
        extensions=page(ports, site, backend),
        receivers=otlp(ports, site),
        processors={**cleaning(), **sampling(settings)},
        connectors={**counted["connectors"], FORWARD: {}},
        exporters={STORAGE: {"trace_storage": TRACES}, **counted["exporters"]},
    )


def document(
    *,
    site: JaegerSite,
    ports: JaegerPorts,
    pipelines: dict[str, Any],
    extensions: dict[str, Any],
    **components: dict[str, Any],
) -> str:
    """YAML of a collector with these pipelines and components, its check of health and, if told to, its login."""
    login: dict[str, Any] = {AUTHENTICATOR: {"htpasswd": {"file": site.htpasswd}}} if site.htpasswd else {}
    checked = {"healthcheckv2": {"use_v2": True, "http": {"endpoint": f"{site.host}:{ports.health}"}}}
    every = {**login, **extensions, **checked}
    config = {
        "service": {
            "extensions": list(every),
            "pipelines": pipelines,
            "telemetry": {"resource": {"service.name": "jaeger"}, "metrics": _own_metrics(site.host, ports.own)},
        },
        "extensions": every,
        **components,
    }
    return yaml.safe_dump(config, sort_keys=False, width=120)


def _own_metrics(host: str, port: int) -> dict[str, Any]:
    """What Jaeger tells of itself, spans that it refused and traces that it lost among it (keys as in its own
    cmd/jaeger/config-kafka-collector.yaml).
    """
    if not port:
        return {"level": "none"}
    return {"level": "normal", "readers": [{"pull": {"exporter": {"prometheus": {"host": host, "port": port}}}}]}


def otlp(ports: JaegerPorts, site: JaegerSite) -> dict[str, Any]:
    """Receivers: OTLP over gRPC and HTTP."""
    return {
        "otlp": {
            "protocols": {
                "grpc": {"endpoint": f"{site.host}:{ports.otlp_grpc}", **_login(site)},
                "http": {"endpoint": f"{site.host}:{ports.otlp_http}", **_login(site)},
            }
        }
    }


def limiting() -> dict[str, Any]:
    """The processor that refuses spans rather than dying of them."""
    return {
        LIMITER: {"check_interval": "1s", "limit_mib": MEMORY_LIMIT_MIB, "spike_limit_mib": MEMORY_SPIKE_MIB},
    }


def cleaning() -> dict[str, Any]:
    """The processors of ``CLEANING``."""
    return {**limiting(), CONTENT: delete_content(), EVENTS: drop_events()}


def sampling(settings: Settings) -> dict[str, Any]:
    """The processors that decide which traces are kept, and batch what is."""
    return {SAMPLER: tail_sampling(settings.traces.sampling, settings.objectives), BATCH: {}}


def time_to_live(settings: Settings) -> str:
    """How long a storage keeps a trace, as a duration that Go reads."""
    return f"{24 * settings.traces.sampling.retention_days}h"


def counting(ports: JaegerPorts, site: JaegerSite) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Pipelines, and components by kind, that turn spans into metrics which Prometheus scrapes."""
    connector = {
        "namespace": SPAN_METRICS_NAMESPACE,
        "histogram": {"unit": "ms", "explicit": {"buckets": list(BUCKETS)}},
        "dimensions": [{"name": name} for name in DIMENSIONS],
        "aggregation_cardinality_limit": MOST_SERIES,
        # an engine that starts again has another service.instance.id, and would begin series anew beside the old ones
        "resource_metrics_key_attributes": [names.RESOURCE_SERVICE],
        "metrics_flush_interval": "15s",
        "metrics_expiration": "24h",
    }
    pipelines = {"metrics/spans": {"receivers": [SPAN_METRICS], "exporters": ["prometheus"]}}
    exporter = {"endpoint": f"{site.host}:{ports.metrics}"}
    return pipelines, {"connectors": {SPAN_METRICS: connector}, "exporters": {"prometheus": exporter}}


def page(ports: JaegerPorts, site: JaegerSite, backend: dict[str, Any]) -> dict[str, Any]:
    """Extensions: the storage, and the page and API that show what is in it."""
    counts = {"metrics": COUNTS} if site.prometheus else {}
    challenge = {"response_headers": dict(CHALLENGE)} if site.htpasswd else {}
    storage: dict[str, Any] = {"backends": {TRACES: backend}}
    if site.prometheus:
        storage["metric_backends"] = {COUNTS: {"prometheus": _prometheus(site)}}
    return {
        "jaeger_storage": storage,
        "jaeger_query": {
            "storage": {"traces": TRACES, **counts},
            "http": {"endpoint": f"{site.host}:{ports.page}", **_login(site), **challenge},
            "grpc": {"endpoint": f"{site.host}:{ports.query_grpc}", **_login(site)},
        },
    }


def _prometheus(site: JaegerSite) -> dict[str, Any]:
    """Where span metrics are read back; names and units as the exporter writes them, with _total and milliseconds."""
    login: dict[str, Any] = {}
    if site.prometheus_password_file:
        basic = {"username": site.prometheus_user, "password_file": site.prometheus_password_file}
        login = {"auth": {"basic": basic}}
    return {"endpoint": site.prometheus, "normalize_calls": True, "normalize_duration": True, **login}


def _login(site: JaegerSite) -> dict[str, Any]:
    return {"auth": {"authenticator": AUTHENTICATOR}} if site.htpasswd else {}
