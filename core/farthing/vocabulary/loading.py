"""The shipped catalogues, read from their files, and catalogues from text."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from farthing.domain.errors import ConfigError
from farthing.vocabulary.catalogue import Catalogue
from farthing.vocabulary.gpus import ExporterCatalogue

__all__ = [
    "ENGINES",
    "EXPORTERS",
    "load_catalogue",
    "load_catalogues",
    "load_exporter",
    "load_exporters",
    "parse_catalogue",
    "parse_exporter",
    "unknown_to_family",
]

_Model = TypeVar("_Model", bound=BaseModel)

ENGINES: Final = (
    "vllm",
    "vllm-v0",
    "ray-vllm",
    "sglang",
    "trtllm",
    "triton-trtllm",
    "tgi",
    "llm-d-epp",
)
"""Every engine with a catalogue, in the order in which rules ask for their names."""

EXPORTERS: Final = ("farthing", "dcgm", "amd", "nvidia_smi", "xpum")
"""Every source of GPU metrics with a catalogue; of a device that several have, the first tells."""


@cache
def load_catalogue(engine: str) -> Catalogue:
    """The shipped catalogue of an engine; ConfigError when there is none, or it is malformed."""
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r} has no catalogue; known engines: {', '.join(ENGINES)}")
    name = f"{engine}.yaml"
    return parse_catalogue(files("farthing.vocabulary").joinpath("engines", name).read_text(encoding="utf-8"), name)


def load_catalogues() -> tuple[Catalogue, ...]:
    """Every shipped catalogue, in the order of ENGINES; ConfigError where one is malformed."""
    return tuple(load_catalogue(engine) for engine in ENGINES)


def unknown_to_family(catalogue: Catalogue, samples: set[str]) -> list[str]:
    """The metrics among the sample names that no catalogue of the engine's family reads or ignores, sorted.

    An older release has names that only the catalogue of its own versions knows.
    """
    unknown = set(catalogue.unknown(samples))
    for relative in load_catalogues():
        if catalogue.family and relative.family == catalogue.family:
            unknown &= set(relative.unknown(samples))
    return sorted(unknown)


@cache
def load_exporter(exporter: str) -> ExporterCatalogue:
    """The shipped catalogue of a GPU exporter; ConfigError when there is none, or it is malformed."""
    if exporter not in EXPORTERS:
        raise ConfigError(f"exporter {exporter!r} has no catalogue; known exporters: {', '.join(EXPORTERS)}")
    name = f"{exporter}.yaml"
    return parse_exporter(files("farthing.vocabulary").joinpath("gpus", name).read_text(encoding="utf-8"), name)


def load_exporters() -> tuple[ExporterCatalogue, ...]:
    """Every shipped catalogue of a GPU exporter, in the order of EXPORTERS; ConfigError where one is malformed."""
    return tuple(load_exporter(exporter) for exporter in EXPORTERS)


def parse_catalogue(text: str, name: str) -> Catalogue:
    """An engine's catalogue from YAML text; ConfigError names ``name``, the key and the problem in one line."""
    return _parse(Catalogue, text, name)


def parse_exporter(text: str, name: str) -> ExporterCatalogue:
    """A GPU exporter's catalogue from YAML text; ConfigError as ``parse_catalogue``."""
    return _parse(ExporterCatalogue, text, name)


def _parse(model: type[_Model], text: str, name: str) -> _Model:
    try:
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: the top level must be a mapping, not {type(data).__name__}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        message = "unknown key" if first["type"] == "extra_forbidden" else str(first["msg"])
        raise ConfigError(f"{name}: {key}: {message.removeprefix('Value error, ')}") from error
