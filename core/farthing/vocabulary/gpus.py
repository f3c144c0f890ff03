"""The model of a GPU exporter's catalogue: which of its metrics tells which quantity of a device, and in which unit.

One YAML file per exporter in ``gpus/``; reading an exposition, the ``gpu:`` recording rules, documentation and tests go
by the same file. Every quantity has one base unit and one ceiling, whoever tells it: what is negative or reaches the
ceiling is no reading but a sentinel (DCGM's blanks, the all-ones of a field that AMD's driver does not fill), and is
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from farthing.domain.gpu import THROTTLE_REASONS
from farthing.vocabulary.catalogue import Evidence, MetricName, Text

__all__ = [
    "QUANTITIES",
    "THROTTLE",
    "UNITS",
    "XID_APPLICATION",
    "XID_HARDWARE",
    "DeviceLabels",
    "ExporterCatalogue",
    "InfoSeries",
    "Quantity",
    "Telling",
    "Unit",
    "Zero",
    "ceiling_of",
]

XID_APPLICATION: Final = (13, 31, 43, 45)
"""XID codes that an application brings about: an illegal access, a kernel that faults, a channel that is reset for it,
the clearing up after a process that ended (NVIDIA, "XID errors", r580)."""
XID_HARDWARE: Final = (48, 62, 63, 64, 74, 79, 94, 95, 119, 120)
"""XID codes of the device: uncorrectable memory errors (48, 94, 95), its microcontroller halted (62), rows remapped or
not (63, 64), NVLink (74), fallen off the bus (79), its system processor silent (119, 120)."""

Unit = Literal[
    "ratio",
    "percent",
    "bytes",
    "kibibytes",
    "mebibytes",
    "watts",
    "milliwatts",
    "joules",
    "millijoules",
    "microjoules",
    "celsius",
    "hertz",
    "megahertz",
    "seconds",
    "microseconds",
    "nanoseconds",
    "bytes_per_second",
    "count",
    "code",
    "flag",
]

UNITS: Final[Mapping[str, tuple[str, Fraction]]] = {
    "ratio": ("ratio", Fraction(1)),
    "percent": ("ratio", Fraction(1, 100)),
    "bytes": ("bytes", Fraction(1)),
    "kibibytes": ("bytes", Fraction(2**10)),
    "mebibytes": ("bytes", Fraction(2**20)),
    "watts": ("watts", Fraction(1)),
    "milliwatts": ("watts", Fraction(1, 1000)),
    "joules": ("joules", Fraction(1)),
    "millijoules": ("joules", Fraction(1, 1000)),
    "microjoules": ("joules", Fraction(1, 1_000_000)),
    "celsius": ("celsius", Fraction(1)),
    "hertz": ("hertz", Fraction(1)),
    "megahertz": ("hertz", Fraction(1_000_000)),
    "seconds": ("seconds", Fraction(1)),
    "microseconds": ("seconds", Fraction(1, 1_000_000)),
    "nanoseconds": ("seconds", Fraction(1, 1_000_000_000)),
    "bytes_per_second": ("bytes_per_second", Fraction(1)),
    "count": ("count", Fraction(1)),
    "code": ("code", Fraction(1)),
    "flag": ("flag", Fraction(1)),
}
"""Unit of an exporter -> base unit, and how many of it one is."""

_RISING: Final = {"bytes": "bytes_per_second", "seconds": "flag"}
"""Base unit of a counter -> what its rate is of: bytes become a throughput, time held down that it is held down."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One thing that is known of a device, in its base unit."""

    unit: str
    ceiling: float
    """From which on, in the base unit, a value is no reading: above what any device has, below every sentinel."""
    of_slices: bool = False
    """Whether a MIG slice has one of its own; of others its exporter repeats the GPU's."""


THROTTLE: Final = "throttle_"
"""Before a reason of THROTTLE_REASONS: whether clocks are held down for it."""

# 65535 is what an unsigned field of 16 bits holds that AMD's driver does not fill: W, MHz, °C. DCGM's blanks are
# 2147483632 (32 bits), 9223372036854775792 (64 bits) and 140737488355328 (floating point), and up to 15 more.
_RATIO: Final = Quantity("ratio", 1.01)
_SLICE_RATIO: Final = Quantity("ratio", 1.01, of_slices=True)
_BYTES: Final = Quantity("bytes", 2.0**46, of_slices=True)
_WATTS: Final = Quantity("watts", 1e4)
_CELSIUS: Final = Quantity("celsius", 250)
_HERTZ: Final = Quantity("hertz", 2e10)
_COUNT: Final = Quantity("count", 2e9)
_THROUGHPUT: Final = Quantity("bytes_per_second", 1e13)
_TRANSFERRED: Final = Quantity("bytes", 1e18)

QUANTITIES: Final[Mapping[str, Quantity]] = {
    "utilization": _SLICE_RATIO,
    "memory_utilization": _RATIO,
    "sm_active": _SLICE_RATIO,
    "tensor_active": _SLICE_RATIO,
    "dram_active": _SLICE_RATIO,
    "memory_used": _BYTES,
    "memory_total": _BYTES,
    "power": _WATTS,
    "power_limit": _WATTS,
    "energy": Quantity("joules", 1e13),
    "temperature": _CELSIUS,
    "memory_temperature": _CELSIUS,
    "sm_clock": _HERTZ,
    "memory_clock": _HERTZ,
    "max_sm_clock": _HERTZ,
    **{THROTTLE + reason: Quantity("flag", 1e18) for reason in THROTTLE_REASONS},
    "ecc_corrected": _COUNT,
    "ecc_uncorrected": _COUNT,
    "remapped_rows_pending": Quantity("flag", 1e9),
    "xid": Quantity("code", 1e4),
    "xid_count": _COUNT,
    "pcie_tx": _THROUGHPUT,
    "pcie_rx": _THROUGHPUT,
    "nvlink_tx": _TRANSFERRED,
    "nvlink_rx": _TRANSFERRED,
}
"""Everything that a catalogue may tell, by name."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Zero(_Strict):
    """Where no series means 0: an exporter that counts shows nothing before the first event."""

    beside: MetricName
    """A metric that is there only where the exporter counts."""


class Telling(_Strict):
    """A sample name, with the labels it must have, that tells a quantity. The first that a device has is read."""

    metric: MetricName
    unit: Unit
    where: dict[str, str] = {}
    """Label -> the value that it must have; an absent label is empty text."""
    excluding: dict[str, str] = {}
    """Label -> a regular expression that its whole value must not match."""
    plus: tuple[MetricName, ...] = ()
    """Metrics of the same labels and unit that are added to it; without any of them this source says nothing."""
    adding: tuple[str, ...] = ()
    """Labels over which a device's series add up (links, tiles); of others the largest counts, since they repeat it."""
    bits: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """The value is a mask: a flag is up when one of these bits is."""
    latest: str = ""
    """The value is a moment: what is told is this label of the latest series, as a number."""
    zero: Zero | None = None
    proxy: str = ""
    """What it means instead, where it is not quite the quantity."""
    evidence: Evidence | None = None
    """Where it differs from the catalogue's."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that the source names."""
        return (self.metric, *self.plus, *((self.zero.beside,) if self.zero else ()))

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that the source names."""
        return (*self.where, *self.excluding, *self.adding, *((self.latest,) if self.latest else ()))


def ceiling_of(quantity: str, telling: Telling) -> float:
    """From which on, in the base unit of the source, a value is no reading; a flag told as a share has a share's."""
    is_share = UNITS[telling.unit][0] == "ratio" and not telling.bits
    return (_RATIO if is_share else QUANTITIES[quantity]).ceiling


class InfoSeries(_Strict):
    """A series of value 1 that has what others of the device lack."""

    metric: MetricName
    labels: dict[Literal["index", "name", "kind", "parent", "profile", "pod"], str]
    """What it tells -> its label."""


class DeviceLabels(_Strict):
    """Where an exporter says which device a sample is of. Of several labels the first that is not empty counts."""

    uuid: Annotated[tuple[str, ...], Field(min_length=1)]
    uuid_prefix: str = ""
    """Put before the UUID where it is not there, so that it is spelt as the driver spells it."""
    host: tuple[str, ...] = ()
    """Empty: the exporter's own address, which Prometheus has as ``instance``."""
    index: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    namespace: tuple[str, ...] = ()
    pod: tuple[str, ...] = ()
    slice: str = ""
    """Number of a MIG slice on its GPU, whose UUID the sample has."""
    profile: str = ""
    """Of a MIG slice."""
    info: InfoSeries | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that samples may have, besides those of the info series."""
        several = (*self.uuid, *self.host, *self.index, *self.name, *self.namespace, *self.pod)
        return tuple(label for label in (*several, self.slice, self.profile) if label)


class ExporterCatalogue(_Strict):
    """One exporter's metrics by quantity."""

    exporter: Text
    title: Text
    versions: Text
    evidence: Evidence
    told_by: Annotated[tuple[MetricName, ...], Field(min_length=1)]
    """Metrics of which this exporter always has one, and no other exporter any."""
    prefixes: tuple[str, ...] = ("",)
    """What an exporter's settings may put before every name."""
    device: DeviceLabels
    quantities: Annotated[dict[str, tuple[Telling, ...]], Field(min_length=1)]
    lacking: dict[str, Text] = {}
    """Quantity -> why this exporter has no series of it."""

    @model_validator(mode="after")
    def _is_whole(self) -> ExporterCatalogue:
        unknown = sorted((set(self.quantities) | set(self.lacking)) - set(QUANTITIES))
        if unknown:
            raise ValueError(f"{unknown[0]} is no quantity; known are {', '.join(QUANTITIES)}")
        both = sorted(set(self.quantities) & set(self.lacking))
        if both:
            raise ValueError(f"{both[0]} is both told and lacking")
        missing = sorted(set(QUANTITIES) - set(self.quantities) - set(self.lacking))
        if missing:
            raise ValueError(f"{missing[0]} is neither told nor lacking")
        for name, tellings in self.quantities.items():
            for telling in tellings:
                _check(name, telling)
        return self

    def evidence_of(self, telling: Telling) -> Evidence:
        """How sure the source's name is."""
        return telling.evidence or self.evidence

    def metric_names(self) -> list[str]:
        """Every metric that the catalogue reads, without prefix, sorted."""
        named = {metric for tellings in self.quantities.values() for telling in tellings for metric in telling.metrics}
        return sorted(named | set(self.told_by) | ({self.device.info.metric} if self.device.info else set()))


def _check(name: str, telling: Telling) -> None:
    """ValueError where a unit cannot become the quantity's."""
    wanted = QUANTITIES[name].unit
    base, _ = UNITS[telling.unit]
    if telling.bits or telling.latest:
        if wanted != ("flag" if telling.bits else "code"):
            raise ValueError(f"{name}: {telling.metric} tells a {'flag' if telling.bits else 'code'}, not {wanted}")
        return
    becomes = {base, _RISING.get(base, base)} | ({"flag"} if base == "ratio" else set())
    becomes |= {"bytes"} if base == "bytes_per_second" and name.startswith("nvlink") else set()
    if wanted not in becomes:
        raise ValueError(f"{name}: {telling.metric} is in {telling.unit}, which cannot become {wanted}")
