"""What a GPU could do at most: dense FLOP/s, bytes per second of its memory, and watts, from ``peaks.yaml``."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from farthing.domain.errors import ConfigError

__all__ = ["PeakRates", "load_peaks", "parse_peaks", "peaks_of"]

Rate = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]

_FILE: Final = "peaks.yaml"
_FORGIVEN: Final = re.compile(r"[\s_-]+")


class PeakRates(BaseModel):
    """Of one device. Rates are per second, power in watts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bf16: Rate
    """FLOP/s of the matrix units in bfloat16, without sparsity."""
    fp8: Rate | None
    """The same in fp8; None where the device has no units for it."""
    memory_bytes_per_second: Rate
    watts: Rate
    printed_sparse: bool
    """Whether the source prints rates with sparsity, of which these are halves."""
    source: Text
    """The vendor's document."""
    url: Annotated[str, Field(pattern=r"^https://")]
    names: Annotated[tuple[Text, ...], Field(min_length=1)]
    """What drivers and price tables call the device."""

    @model_validator(mode="after")
    def _fp8_is_faster(self) -> PeakRates:
        """Every device with fp8 units computes it about twice as fast: anything else is a misread sheet."""
        if self.fp8 is not None and not 1.9 <= self.fp8 / self.bf16 <= 2.1:
            raise ValueError(f"fp8 {self.fp8:g} is not about twice bf16 {self.bf16:g}; is one of them with sparsity?")
        return self


@cache
def load_peaks() -> dict[str, PeakRates]:
    """Every device of the shipped file by its key; ConfigError where it is malformed."""
    return parse_peaks(files("farthing.vocabulary").joinpath(_FILE).read_text(encoding="utf-8"), _FILE)


def peaks_of(gpu: str) -> PeakRates | None:
    """The peak rates of a device by what its driver, or the price table, calls it; None when it is not known."""
    return _by_name().get(_plain(gpu))


def parse_peaks(text: str, name: str) -> dict[str, PeakRates]:
    """Devices from YAML text; ConfigError names ``name``, the device and the problem in one line."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: the top level must be a mapping, not {type(data).__name__}")
    devices: dict[str, PeakRates] = {}
    called: dict[str, str] = {}
    for key, entry in data.items():
        try:
            devices[key] = PeakRates.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join((str(key), *map(str, first["loc"])))
            raise ConfigError(f"{name}: {where}: {str(first['msg']).removeprefix('Value error, ')}") from error
        for alias in (str(key), *devices[key].names):
            other = called.setdefault(_plain(alias), key)
            if other != key:
                raise ConfigError(f"{name}: {alias!r} is a name of both {other} and {key}; give it to one of them")
    return devices


@cache
def _by_name() -> dict[str, PeakRates]:
    return {_plain(name): peaks for key, peaks in load_peaks().items() for name in (key, *peaks.names)}


def _plain(name: str) -> str:
    """A name without what spellings differ in."""
    return _FORGIVEN.sub("", name.lower())
