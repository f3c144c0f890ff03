"""farthing.yaml: what is served, what it costs, where Farthing listens. Every error names the key and its line."""

from __future__ import annotations

import os
import typing
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, ValidationError, field_validator, model_validator

from farthing.domain.errors import ConfigError
from farthing.domain.yaml_places import line_of
from farthing.settings_access import Port, ServeSettings
from farthing.settings_alerts import AlertSettings
from farthing.settings_audit import AuditSettings
from farthing.settings_autoscale import AutoscaleSettings
from farthing.settings_budgets import BudgetSettings
from farthing.settings_discovery import DiscoverySettings, DnsSettings, DockerSettings
from farthing.settings_fleet import FleetSettings
from farthing.settings_gpu import ExporterSettings, GpuSettings, GpuUuid
from farthing.settings_notify import NotifySettings
from farthing.settings_prices import CapacitySettings, Currency, ExchangeSettings, OwnedSettings, PriceSettings
from farthing.settings_slo import SloSettings, effective_slos
from farthing.settings_traces import TracesSettings

__all__ = [
    "TOKENS_FILE",
    "TOKEN_VARIABLE",
    "AlertSettings",
    "AuditSettings",
    "AutoscaleSettings",
    "BookSettings",
    "BudgetSettings",
    "CapacitySettings",
    "CostingSettings",
    "DiscoverySettings",
    "DnsSettings",
    "DockerSettings",
    "EngineSettings",
    "ExchangeSettings",
    "ExporterSettings",
    "FleetSettings",
    "GpuSettings",
    "NotifySettings",
    "OwnedSettings",
    "PriceSettings",
    "RetentionSettings",
    "ServeSettings",
    "Settings",
    "SloSettings",
    "StackSettings",
    "TracesSettings",
    "load_settings",
    "read_secret",
]

CONFIG_VARIABLE = "FARTHING_CONFIG"
DEFAULT_CONFIG = "farthing.yaml"
TOKEN_VARIABLE = "FARTHING_INTAKE_TOKEN"  # noqa: S105 - the name of a variable  # nosec B105
TOKENS_FILE = Path("secrets/tokens.yaml")
"""Where tokens are kept in the state folder, unless ``serve.tokens_file`` says otherwise."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSettings(_Strict):
    """One engine instance that Farthing watches."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
    url: HttpUrl
    """Base URL; metrics are read from ``metrics_path`` below it."""
    kind: Literal["vllm"] = "vllm"
    metrics_path: str = "/metrics"
    gpu: Annotated[str, Field(max_length=128)] = ""
    """Key of the price table, e.g. ``H100-SXM``; empty: as the probe reports it."""
    gpu_count: Annotated[int, Field(ge=1)] = 1
    gpu_fraction: Annotated[Decimal, Field(gt=0, le=1)] = Decimal(1)
    """Part of each GPU that this engine has to itself: a MIG slice or a time share, billed as such."""
    price: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]*$")] = ""
    """Which of its GPU's prices it is billed at: their ``name``. Empty: those without a name."""
    capacity: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]*$")] = ""
    """Name of the capacity that its GPUs belong to, whose cost it bears a part of. Empty: GPUs at a price."""
    probe: bool = False
    """The engine runs farthing-probe: costs come from its records, scraping gives only state and checks."""
    gpu_uuids: Annotated[tuple[GpuUuid, ...], Field(max_length=1024)] = ()
    """UUIDs of the devices that it runs on, as `nvidia-smi -L` prints them (`GPU-…`, `MIG-…`), where its probe does not
    say so."""
    pod: Annotated[str, Field(max_length=512, pattern=r"^([^/\s]+/[^/\s]+)?$")] = ""
    """`namespace/pod` that it runs in, where an exporter tells which pod has which device; `*` stands for any
    characters, as in `llm/llama-8b-*`."""

    @model_validator(mode="after")
    def _one_way_to_pay(self) -> EngineSettings:
        if self.price and self.capacity:
            raise ValueError(f"engine {self.name!r} has a price and a capacity; a capacity has its own price, keep one")
        return self

    @model_validator(mode="after")
    def _as_many_devices_as_are_billed(self) -> EngineSettings:
        uuids = len(set(self.gpu_uuids))
        if self.gpu and uuids and uuids != self.gpu_count:
            raise ValueError(
                f"engine {self.name!r} has {uuids} gpu_uuids and is billed for {self.gpu_count} (gpu_count); "
                "enter one for each"
            )
        return self

    @property
    def metrics_url(self) -> str:
        """Where the exposition is."""
        return str(self.url).rstrip("/") + self.metrics_path


class CostingSettings(_Strict):
    """How work is costed."""

    window_seconds: Annotated[int, Field(ge=1, le=60)] = 5
    grace_seconds: Annotated[int, Field(ge=1)] = 120
    """How long, in event time, a window waits for the records of requests that overlap it."""
    horizon_windows: Annotated[int, Field(ge=12)] = 720
    """Windows that a fit looks back over (720 of 5 s: one hour)."""
    scrape_seconds: Annotated[float, Field(gt=0)] = 2.0
    saturated_requests: Annotated[int, Field(ge=1)] = 128
    """Requests that a full engine runs at once, for what its tokens would cost then (vLLM: `--max-num-seqs`, or what
    fits into its KV cache)."""
    silent_seconds: Annotated[int, Field(ge=60)] = 600
    """After so long without any record of an engine that did not stop, what is known of it settles."""
    abandoned_seconds: Annotated[int, Field(ge=60)] = 86_400
    """After so long its books are closed: what it says later is counted as lost."""


class RetentionSettings(_Strict):
    """For how many days ``farthing ledger prune`` keeps what closed periods are made of; sums stay for ever."""

    records_days: Annotated[int, Field(ge=1)] = 30
    """The inbox, after a boot's end. Statements can be recomputed from records alone as long as these are kept."""
    requests_days: Annotated[int, Field(ge=1)] = 90
    """Single requests, after a boot's end."""
    windows_days: Annotated[int, Field(ge=1)] = 90
    """Single windows, after a boot's end."""
    journal_days: Annotated[int, Field(ge=1)] = 400
    """Journal lines, after the end of the period that they were posted in."""


class StackSettings(_Strict):
    """The native stack: its state folder and ports."""

    state_dir: Path = Path(".farthing")
    prometheus_port: Port = 9090
    alertmanager_port: Port = 9093
    grafana_port: Port = 3000
    jaeger_port: Port = 16686
    jaeger_otlp_grpc_port: Port = 4317
    jaeger_otlp_http_port: Port = 4318
    jaeger_query_grpc_port: Port = 16685
    jaeger_health_port: Port = 13133
    jaeger_metrics_port: Port = 8889
    replay_port: Port = 9465
    replay_recording: str = "h100-llama8b-vllm0.26"
    """What is replayed when no engine is configured."""
    replay_lead_seconds: Annotated[float, Field(ge=0)] = 85.0
    """How much of the recording is delivered at once as history, so that its busy phases show soon."""

    @model_validator(mode="after")
    def _ports_differ(self) -> StackSettings:
        ports: dict[int, str] = {}
        for name in type(self).model_fields:
            if name.endswith("_port"):
                port = getattr(self, name)
                if port in ports:
                    raise ValueError(f"{name} and {ports[port]} are both {port}; give each its own port")
                ports[port] = name
        return self


class BookSettings(_Strict):
    """How periods are closed and charged."""

    policy: Path | None = None
    """The policy file: pricing, pools, rate cards, cost centres. None: showback at actual cost."""


class Settings(_Strict):
    """All of farthing.yaml; every field has a default, so an empty file is valid."""

    currency: Currency = "USD"
    ledger: str = "sqlite:///.farthing/ledger.db"
    engines: tuple[EngineSettings, ...] = ()
    discovery: DiscoverySettings = DiscoverySettings()
    fleet: tuple[FleetSettings, ...] = ()
    prices: tuple[PriceSettings, ...] = ()
    capacity: tuple[CapacitySettings, ...] = ()
    exchange: tuple[ExchangeSettings, ...] = ()
    budgets: tuple[BudgetSettings, ...] = ()
    slos: tuple[SloSettings, ...] = ()
    slo_defaults: bool = True
    """The SLOs that are in force by default, see [slo.md](slo.md)."""
    books: BookSettings = BookSettings()
    retention: RetentionSettings = RetentionSettings()
    serve: ServeSettings = ServeSettings()
    costing: CostingSettings = CostingSettings()
    gpus: GpuSettings = GpuSettings()
    alerts: AlertSettings = AlertSettings()
    notify: NotifySettings = NotifySettings()
    autoscale: AutoscaleSettings = AutoscaleSettings()
    traces: TracesSettings = TracesSettings()
    audit: AuditSettings = AuditSettings()
    stack: StackSettings = StackSettings()

    @model_validator(mode="before")
    @classmethod
    def _ledger_beside_the_stack(cls, data: Any) -> Any:
        """A state folder of its own brings a ledger of its own, so that two stacks never write into one."""
        stack = data.get("stack") if isinstance(data, dict) else None
        if isinstance(stack, dict) and "ledger" not in data and isinstance(stack.get("state_dir"), str | Path):
            return {**data, "ledger": f"sqlite:///{Path(stack['state_dir']).expanduser() / 'ledger.db'}"}
        return data

    @field_validator("engines")
    @classmethod
    def _names_differ(cls, engines: tuple[EngineSettings, ...]) -> tuple[EngineSettings, ...]:
        names = [engine.name for engine in engines]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"engine name {twice[0]!r} is used twice; names must differ")
        return engines

    @field_validator("engines")
    @classmethod
    def _devices_have_one_engine(cls, engines: tuple[EngineSettings, ...]) -> tuple[EngineSettings, ...]:
        owners: dict[str, EngineSettings] = {}
        for engine in engines:
            for uuid in engine.gpu_uuids:
                other = owners.setdefault(uuid, engine)
                if other is not engine and 1 in {other.gpu_fraction, engine.gpu_fraction}:
                    raise ValueError(
                        f"GPU {uuid} is of {other.name!r} and of {engine.name!r}; leave it to one, or give both a "
                        "gpu_fraction"
                    )
        return engines

    @field_validator("fleet")
    @classmethod
    def _fleets_differ(cls, fleet: tuple[FleetSettings, ...]) -> tuple[FleetSettings, ...]:
        names = [entry.name for entry in fleet]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two fleet entries are called {twice[0]!r}; names must differ")
        return fleet

    @field_validator("budgets")
    @classmethod
    def _scopes_differ(cls, budgets: tuple[BudgetSettings, ...]) -> tuple[BudgetSettings, ...]:
        names = [entry.budget.name for entry in budgets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two budgets of {twice[0]!r}; keep one")
        return budgets

    @field_validator("slos")
    @classmethod
    def _slos_differ(cls, slos: tuple[SloSettings, ...]) -> tuple[SloSettings, ...]:
        names = [slo.name for slo in slos]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two SLOs are called {twice[0]!r}; names must differ")
        return slos

    @property
    def tokens_file(self) -> Path:
        """Where tokens are kept; the file need not exist."""
        return (self.serve.tokens_file or self.stack.state_dir / TOKENS_FILE).expanduser()

    def with_engines(self, engines: tuple[EngineSettings, ...]) -> Settings:
        """These settings with other engines, whose names differ.

        Raises ConfigError when they contradict one another, or name a capacity that is not theirs.
        """
        changed = self.model_copy(update={"engines": engines})
        try:
            self._devices_have_one_engine(engines)
            changed._check_capacities()
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return changed

    @property
    def watches_nothing(self) -> bool:
        """Whether no engine is named in any way: then a recorded one is replayed."""
        return not (self.engines or self.discovery.is_active or self.fleet)

    @property
    def objectives(self) -> tuple[SloSettings, ...]:
        """The SLOs in force: defaults and entries, less what is switched off."""
        return effective_slos(self.slos, self.slo_defaults)

    @model_validator(mode="after")
    def _capacities_exist(self) -> Settings:
        self._check_capacities()
        return self

    def _check_capacities(self) -> None:
        gpus = {capacity.name: capacity.gpu for capacity in self.capacity}
        for engine in self.engines:
            if engine.capacity and engine.capacity not in gpus:
                known = ", ".join(gpus) or "none"
                raise ValueError(f"engine {engine.name!r}: no capacity {engine.capacity!r}; add it (known: {known})")
            if engine.capacity and engine.gpu not in {"", gpus[engine.capacity]}:
                raise ValueError(
                    f"engine {engine.name!r} has gpu {engine.gpu!r} and its capacity {engine.capacity!r} "
                    f"{gpus[engine.capacity]!r}; leave out the engine's"
                )


def load_settings(path: Path | None = None, environ: dict[str, str] | None = None) -> Settings:
    """Settings from ``path``, else from $FARTHING_CONFIG, else from ./farthing.yaml if it exists, else defaults.

    Raises ConfigError naming file, line and key of the first problem.
    """
    environment = dict(os.environ) if environ is None else environ
    chosen = path or (Path(environment[CONFIG_VARIABLE]) if environment.get(CONFIG_VARIABLE) else None)
    if chosen is None:
        chosen = Path(DEFAULT_CONFIG)
        if not chosen.exists():
            return Settings()
    try:
        text = chosen.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{chosen}: cannot be read ({error}); give a readable YAML file with --config") from error
    return parse_settings(text, str(chosen))


def parse_settings(text: str, name: str) -> Settings:
    """Settings from YAML text; ``name`` is what errors call it."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if data is None:
        return Settings()
    if not isinstance(data, dict):
        raise ConfigError(f"{name}:1: the top level must be a mapping of settings, not {type(data).__name__}")
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        location = tuple(first["loc"])
        key = ".".join(str(part) for part in location) or "(top level)"
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown key; known here: {', '.join(_known_keys(location[:-1]))}"
        raise ConfigError(f"{name}:{line_of(root, location)}: {key}: {message}") from error


def read_secret(variable: str, file: Path | None, environ: dict[str, str] | None = None) -> str | None:
    """A secret from the environment variable, else from the file, else None. Never logged."""
    environment = dict(os.environ) if environ is None else environ
    if environment.get(variable):
        return environment[variable]
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            f"{file}: the secret cannot be read ({error.strerror}); create it or set {variable}"
        ) from error


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    """The keys that the section at ``location`` has; empty where there is no section."""
    model: type[BaseModel] = Settings
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        found = None if field is None else _section_of(field.annotation)
        if found is None:
            return []
        model = found
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds: itself, one of a list, or one that may be missing."""
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
