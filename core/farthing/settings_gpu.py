"""The section of farthing.yaml that says how GPUs are read, and what their electricity costs and emits."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    field_validator,
    model_validator,
)

__all__ = ["HOST_VARIABLE", "ExporterKind", "ExporterSettings", "GpuSettings", "GpuUuid"]

HOST_VARIABLE = "FARTHING_HOST"

ExporterKind = Literal["dcgm", "amd", "nvidia_smi", "xpum"]


def _switch(value: object) -> object:
    """YAML 1.1 reads a plain ``on`` as true and ``off`` as false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


# AMD's and Intel's are bare UUIDs too: their second group is 0000
_NVIDIA_UUID = re.compile(
    r"(?:gpu-|mig-)?([0-9a-f]{8}-(?!0000-)[0-9a-f]{4}(?:-[0-9a-f]{4}){2}-[0-9a-f]{12}(?:/\d+)?)", re.IGNORECASE
)


def _with_prefix(uuid: str) -> str:
    """A device's UUID as its driver spells it, or a ValueError that says how."""
    found = _NVIDIA_UUID.fullmatch(uuid)
    if found and not uuid.startswith(("GPU-", "MIG-")):
        raise ValueError(
            f"{uuid!r} lacks the prefix that drivers give it; write 'GPU-{found[1]}', or 'MIG-{found[1]}' for a slice "
            "(nvidia-smi -L shows them)"
        )
    return uuid


_ADDRESS = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")
_PORTS = range(1, 65_536)


def _address(text: str) -> str:
    found = _ADDRESS.fullmatch(text)
    if not found or int(found["port"]) not in _PORTS:
        raise ValueError(f"{text!r} is no HOST:PORT; write 'gpu-1:9466', say")
    return text


AgentAddress = Annotated[str, Field(max_length=255), AfterValidator(_address)]
GpuUuid = Annotated[str, Field(min_length=1, max_length=96, pattern=r"^\S+$"), AfterValidator(_with_prefix)]
Switch = Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)]
Amount = Annotated[Decimal | None, Field(gt=0, max_digits=18, decimal_places=9)]
OptionalAmount = Annotated[Decimal | None, Field(ge=0, max_digits=18, decimal_places=9)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExporterSettings(_Strict):
    """An exporter of GPU metrics that is read instead of the driver."""

    url: HttpUrl
    """Where its metrics are, path included: `http://gpu-host:9400/metrics`."""
    kind: ExporterKind | None = None
    """Whose names and units it has: NVIDIA's DCGM exporter, AMD's device-metrics exporter, nvidia_gpu_exporter
    (nvidia-smi) or Intel's XPU manager. None: found out by its metrics."""

    @field_validator("url")
    @classmethod
    def _url_has_no_password(cls, url: HttpUrl) -> HttpUrl:
        if url.username is not None or url.password is not None:
            raise ValueError(
                "a user or password in a URL would stand in logs and metrics; leave it out, and let the exporter be "
                "read without one on a network of its own"
            )
        return url


class GpuSettings(_Strict):
    """How GPUs are read, by `farthing serve` on its own host and by `farthing gpus --agent` on others, see
    [gpu-agent.md](gpu-agent.md)."""

    nvml: Switch = "auto"
    """NVIDIA's driver on this host. `auto`: read it where there is one, and say once where there is none."""
    pcie: bool = False
    """Measure NVIDIA's PCIe throughput, every ten seconds: the driver waits 40 ms for each device."""
    cpu: Switch = "off"
    """The processors' energy counters (RAPL), for engines without a GPU. `auto`: where they can be read."""
    exporters: tuple[ExporterSettings, ...] = ()
    """Exporters that are read besides. A device that two sources have is read from the driver."""
    agents: tuple[AgentAddress, ...] = ()
    """HOST:PORT of agents of other hosts, for Prometheus to scrape: `farthing serve` gets their records by itself, and
    shows its own host's devices alone."""
    sample_seconds: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    """How often devices are read."""
    batch_seconds: Annotated[float, Field(ge=1, le=600)] = 10.0
    """How often what was read goes into the ledger, as one record a device."""
    stuck_seconds: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 300.0
    """After so long at a utilization of 0, at a power well above idle, the utilization is a fault and not shown."""
    carbon_g_per_kwh: OptionalAmount = None
    """Grams of CO2 equivalent that the grid emits per kilowatt-hour. None: carbon is unknown."""
    pue: Annotated[Decimal, Field(ge=1, max_digits=9, decimal_places=6)] = Decimal(1)
    """The facility's energy by that of its equipment, where the engine's capacity is not `owned` with its own."""
    energy_usd_per_kwh: Amount = None
    """Tariff of electricity, where the engine's capacity is not `owned` with its own. For information: what rented
    GPUs draw is in their price. None: unknown."""

    @field_validator("exporters")
    @classmethod
    def _exporters_differ(cls, exporters: tuple[ExporterSettings, ...]) -> tuple[ExporterSettings, ...]:
        urls = [str(exporter.url) for exporter in exporters]
        twice = sorted({url for url in urls if urls.count(url) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is read twice; keep one entry")
        return exporters

    @model_validator(mode="after")
    def _agents_differ(self) -> GpuSettings:
        exporters = {f"{exporter.url.host}:{exporter.url.port}" for exporter in self.exporters}
        for agent in self.agents:
            if self.agents.count(agent) > 1:
                raise ValueError(f"{agent} is scraped twice; keep one entry")
            if agent in exporters:
                raise ValueError(f"{agent} is among the exporters, which are scraped too; keep one entry")
        return self

    @model_validator(mode="after")
    def _batch_holds_samples(self) -> GpuSettings:
        if self.batch_seconds < self.sample_seconds:
            raise ValueError(
                f"batch_seconds {self.batch_seconds:g} is less than sample_seconds {self.sample_seconds:g}; "
                "a record needs a sample"
            )
        return self
