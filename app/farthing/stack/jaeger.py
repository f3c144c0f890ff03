"""Jaeger 2's configuration: takes OTLP, keeps traces in memory, serves its page and API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

__all__ = ["JaegerPorts", "render_jaeger"]

MAX_TRACES = 100_000


@dataclass(frozen=True, slots=True)
class JaegerPorts:
    """Where Jaeger listens."""

    page: int
    query_grpc: int
    otlp_grpc: int
    otlp_http: int
    health: int


def render_jaeger(ports: JaegerPorts, host: str) -> str:
    """The configuration for ``jaeger --config FILE`` (keys as in cmd/jaeger/config.yaml of v2.20).

    Every endpoint is given: Jaeger's defaults listen on localhost only, which no other container reaches. Its own
    metrics are off, since their port cannot be told apart between two stacks on one machine by every 2.x release.
    """
    config: dict[str, Any] = {
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query", "healthcheckv2"],
            "pipelines": {
                "traces": {
                    "receivers": ["otlp"],
                    "processors": ["batch"],
                    "exporters": ["jaeger_storage_exporter"],
                }
            },
            "telemetry": {"resource": {"service.name": "jaeger"}, "metrics": {"level": "none"}},
        },
        "extensions": {
            "healthcheckv2": {"use_v2": True, "http": {"endpoint": f"{host}:{ports.health}"}},
            "jaeger_query": {
                "storage": {"traces": "memory"},
                "http": {"endpoint": f"{host}:{ports.page}"},
                "grpc": {"endpoint": f"{host}:{ports.query_grpc}"},
            },
            "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": MAX_TRACES}}}},
        },
        "receivers": {
            "otlp": {
                "protocols": {
                    "grpc": {"endpoint": f"{host}:{ports.otlp_grpc}"},
                    "http": {"endpoint": f"{host}:{ports.otlp_http}"},
                }
            }
        },
        "processors": {"batch": {}},
        "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
    }
    return yaml.safe_dump(config, sort_keys=False)
