"""The configuration that the Compose stack mounts, from the same functions as the native one's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml
from pydantic import HttpUrl

from farthing.alerts.alertmanager import alertmanager_files
from farthing.alerts.render import render_rules
from farthing.dashboards.render import render_dashboards
from farthing.domain.conventions import DEFAULT_PORT
from farthing.domain.errors import ConfigError
from farthing.settings import EngineSettings, ServeSettings, Settings, StackSettings
from farthing.settings_discovery import DiscoverySettings
from farthing.settings_gpu import GpuSettings
from farthing.settings_traces import TracesSettings
from farthing.stack.effective import replay_engine
from farthing.stack.grafana import PROVISIONING, GrafanaSources, render_provider, render_sources
from farthing.stack.jaeger import JAEGER_OWN_METRICS, JaegerPorts, JaegerSite, render_jaeger
from farthing.stack.scrape import ENGINE_TARGETS, PROMETHEUS_CONFIG, Logins, render_prometheus, render_targets
from farthing.stack.secret_files import JAEGER_HEADERS, TOKENS, WEB_USER

__all__ = ["COMPOSE_FILE", "GPU_EXPORTER", "compose_configuration", "compose_files"]

COMPOSE_FILE = Path("deploy/compose/compose.yaml")
GENERATED = COMPOSE_FILE.parent / "generated"
SCRAPE_SECONDS = 5
HOST_GATEWAY = "host.docker.internal"
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
# where compose.yaml mounts things
RULES_FOLDER = Path("/etc/farthing/rules")
DASHBOARDS_FOLDER = "/etc/farthing/dashboards"
CONTAINER_LEDGER = "sqlite:////var/lib/farthing/ledger.db"
SECRETS_FOLDER = "/etc/farthing/secrets"
OWN_SECRETS = "/run/farthing/secrets"
"""Where a container that is not Farthing's finds the folder of secrets that was made for it."""
SERVICE_SECRETS = Path("/run/farthing/secrets/farthing")
CLIENT = Path("client.yml")
JAEGER_DATA = "/var/lib/jaeger"
GPU_EXPORTER = "dcgm-exporter"
GPU_EXPORTER_PORT = 9400
ENGINES_FOLDER = Path("/run/farthing/engines.d")
TRACES_FOLDER = Path("/run/farthing/traces")
ALL_ENGINES = (ENGINES_FOLDER / "*.yaml", ENGINES_FOLDER / "*.json")
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - inside a container; compose.yaml publishes on loopback only  # nosec B104


def compose_files(settings: Settings) -> dict[Path, str]:
    """The committed configuration of the Compose stack, by path relative to the repository's root.

    Rules and dashboards are not among them: they are mounted from alerts/generated and dashboards/generated.
    """
    return {GENERATED / path: text for path, text in _configuration(settings).items()}


def compose_configuration(settings: Settings) -> dict[Path, str]:
    """All that ``farthing up`` mounts instead, for these settings, by path relative to one folder."""
    return {
        **_configuration(settings),
        **{Path("rules") / name: text for name, text in render_rules(settings).items()},
        **{Path("dashboards") / name: text for name, text in render_dashboards(settings).items()},
    }


def _configuration(settings: Settings) -> dict[Path, str]:
    ports = StackSettings()
    engines = tuple(_as_containers_see(settings.engines))
    if settings.watches_nothing:
        engines = (replay_engine("replay", ports.replay_port),)
    discovery = _discovery_as_containers_see(settings.discovery)
    gpus = _gpus_as_containers_see(settings.gpus)
    prometheus = Path("prometheus")
    sources = GrafanaSources(
        prometheus="http://prometheus:9090",
        alertmanager="http://alertmanager:9093",
        jaeger=f"http://jaeger:{ports.jaeger_port}",
        interval_seconds=SCRAPE_SECONDS,
        user=WEB_USER,
        password_files={
            "prometheus": f"{OWN_SECRETS}/prometheus-password",
            "alertmanager": f"{OWN_SECRETS}/alertmanager-password",
            "jaeger": f"{OWN_SECRETS}/jaeger-password",
        },
    )
    provisioning = Path("grafana") / PROVISIONING
    return {
        Path("farthing/farthing.yaml"): _farthing_yaml(settings, engines, discovery, gpus),
        prometheus / PROMETHEUS_CONFIG: render_prometheus(
            rule_files=[str(RULES_FOLDER / name) for name in sorted(render_rules(settings))],
            farthing_address=f"farthing:{DEFAULT_PORT}",
            alertmanager_address="alertmanager:9093",
            interval_seconds=SCRAPE_SECONDS,
            exporters=gpus.exporters,
            agents=gpus.agents,
            # it is there with the profile gpu alone, and a name that is not found is no target
            found_gpus=() if gpus.exporters else ((GPU_EXPORTER, GPU_EXPORTER_PORT),),
            spans_addresses=(f"jaeger:{ports.jaeger_metrics_port}", f"jaeger:{JAEGER_OWN_METRICS}"),
            logins=Logins(
                farthing_token_file=f"{OWN_SECRETS}/farthing-token",
                alertmanager_password_file=f"{OWN_SECRETS}/alertmanager-password",
                alertmanager_user=WEB_USER,
            ),
            discovery=discovery,
            static_names=[engine.name for engine in engines],
        ),
        prometheus / CLIENT: _client(),
        prometheus / ENGINE_TARGETS: render_targets(engines),
        **{Path("alertmanager") / name: text for name, text in alertmanager_files(settings, _secret).items()},
        Path("alertmanager") / CLIENT: _client(),
        provisioning / "datasources/farthing.yml": render_sources(sources),
        provisioning / "dashboards/farthing.yml": render_provider(DASHBOARDS_FOLDER),
        Path("jaeger/jaeger.yaml"): render_jaeger(
            JaegerPorts.of(ports, own=JAEGER_OWN_METRICS),
            JaegerSite(
                host=ALL_ADDRESSES,
                data=JAEGER_DATA,
                htpasswd=f"{OWN_SECRETS}/htpasswd",
                prometheus=sources.prometheus,
                prometheus_user=WEB_USER,
                prometheus_password_file=f"{OWN_SECRETS}/prometheus-password",
            ),
            settings,
        ),
    }


def _farthing_yaml(
    settings: Settings, engines: tuple[EngineSettings, ...], discovery: DiscoverySettings, gpus: GpuSettings
) -> str:
    """farthing.yaml inside the containers; a ledger in PostgreSQL stays, one in a file moves to the volume."""
    inside = settings.model_copy(
        update={
            "engines": engines,
            "discovery": discovery,
            "ledger": CONTAINER_LEDGER if settings.ledger.startswith("sqlite") else settings.ledger,
            "serve": _serve(settings.serve),
            "traces": _traces(settings.traces),
            "stack": StackSettings(),
            "gpus": gpus,
        }
    )
    data = inside.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return "# Generated by `farthing generate`; do not edit.\n" + yaml.safe_dump(data, sort_keys=False)


def _serve(serve: ServeSettings) -> ServeSettings:
    """The service inside: everywhere it listens, and with the secrets of its volume."""
    inside = {
        "host": ALL_ADDRESSES,
        "port": DEFAULT_PORT,
        "token_file": SERVICE_SECRETS / "intake-token",
        "tokens_file": SERVICE_SECRETS / TOKENS,
        "tls_certificate": None,
        "tls_key": None,
    }
    return serve.model_copy(update=inside)


def _traces(traces: TracesSettings) -> TracesSettings:
    """Spans go to the stack's Jaeger, with its login, unless the settings name another place."""
    if traces.endpoint is not None:
        headers = traces.headers_file and TRACES_FOLDER / traces.headers_file.name
        return traces.model_copy(update={"endpoint": _from_inside(traces.endpoint), "headers_file": headers})
    own = HttpUrl(f"http://jaeger:{StackSettings().jaeger_otlp_http_port}")
    return traces.model_copy(update={"endpoint": own, "headers_file": SERVICE_SECRETS / JAEGER_HEADERS})


def _client() -> str:
    """How promtool and amtool log in where they check whether their server is well."""
    login = {"username": WEB_USER, "password_file": f"{OWN_SECRETS}/password"}
    return yaml.safe_dump({"basic_auth": login}, sort_keys=False)


def _secret(path: Path) -> str:
    """Where the container of Alertmanager finds the file of a secret: the folder of all of them is mounted."""
    return f"{SECRETS_FOLDER}/{path.name}"


def _as_containers_see(engines: Iterable[EngineSettings]) -> Iterable[EngineSettings]:
    """Engines with loopback replaced by the host's name."""
    for engine in engines:
        yield engine.model_copy(update={"url": _from_inside(engine.url)})


def _gpus_as_containers_see(gpus: GpuSettings) -> GpuSettings:
    """Exporters of GPU metrics, and agents, with loopback replaced by the host's name."""
    exporters = tuple(one.model_copy(update={"url": _from_inside(one.url)}) for one in gpus.exporters)
    agents = tuple(map(_address_from_inside, gpus.agents))
    return gpus.model_copy(update={"exporters": exporters, "agents": agents})


def _discovery_as_containers_see(discovery: DiscoverySettings) -> DiscoverySettings:
    """The folder of the files where it is mounted, and Docker through the host's name; without files all of the folder.

    Raises ConfigError for a socket: no container of the stack reaches the machine's Docker.
    """
    files = tuple(ENGINES_FOLDER / path.name for path in discovery.files)
    docker = []
    for one in discovery.docker:
        scheme, _, place = one.host.partition("://")
        if scheme == "unix":
            raise ConfigError(
                f"discovery.docker: containers of the stack do not reach {one.host}; give the tcp://HOST:PORT of a "
                "proxy that lets containers be listed, or use --native"
            )
        docker.append(one.model_copy(update={"host": f"{scheme}://{_address_from_inside(place)}"}))
    return discovery.model_copy(update={"files": files or ALL_ENGINES, "docker": tuple(docker)})


def _address_from_inside(address: str) -> str:
    """HOST:PORT, as ``_from_inside``."""
    host, _, port = address.rpartition(":")
    return f"{HOST_GATEWAY if host in LOOPBACK_NAMES else host}:{port}"


def _from_inside(url: HttpUrl) -> HttpUrl:
    """The address with loopback replaced by the host's name, for loopback is the container itself there."""
    if url.host not in LOOPBACK_NAMES:
        return url
    port = f":{url.port}" if url.port else ""
    query = f"?{url.query}" if url.query else ""
    return HttpUrl(f"{url.scheme}://{HOST_GATEWAY}{port}{url.path or ''}{query}")
