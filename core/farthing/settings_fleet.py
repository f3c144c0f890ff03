"""The section of farthing.yaml that names Prometheus-compatible APIs to read engines' counters from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, field_validator, model_validator

from farthing.domain.conventions import JOB_ENGINES

__all__ = ["FleetGpuSettings", "FleetSettings", "gpu_in_fleet"]

_LABEL = r"[a-zA-Z_][a-zA-Z0-9_]*"
_MATCHER = rf'{_LABEL}\s*(?:=~|!~|!=|=)\s*"(?:[^"\\]|\\.)*"'
_MATCHERS = re.compile(rf"\s*{_MATCHER}(?:\s*,\s*{_MATCHER})*\s*")

Label = Annotated[str, Field(pattern=rf"^({_LABEL})?$")]
Pattern = Annotated[str, Field(min_length=1, max_length=256)]


def _matchers(text: str) -> str:
    if not _MATCHERS.fullmatch(text):
        raise ValueError(f'{text!r} are no label matchers; write job="{JOB_ENGINES}", cluster=~"eu-.*", say')
    return text.strip()


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FleetGpuSettings(_Strict):
    """What some engines of a fleet run on; the first entry that fits an engine counts."""

    engine: Pattern = "*"
    """Which engines: their name, `*` standing for any characters, as in `eu-1:llama-*`. The name is the `instance`
    label, behind the cluster and a colon where there is one."""
    model: Pattern = "*"
    """Which served models, likewise."""
    gpu: Annotated[str, Field(min_length=1, max_length=128)]
    """Key of the price table, e.g. `H100-SXM`."""
    gpu_count: Annotated[int, Field(ge=1)] = 1
    """GPUs that each of them occupies, all billed."""

    def fits(self, engine: str, model: str) -> bool:
        """Whether it says what an engine runs on."""
        return fnmatchcase(engine, self.engine) and fnmatchcase(model, self.model)


class FleetSettings(_Strict):
    """A Prometheus, Thanos, Mimir or VictoriaMetrics that scrapes engines already: Farthing asks it for their counters
    instead of the engines, see [fleet.md](fleet.md)."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
    """What logs and messages call it."""
    url: HttpUrl
    """Base URL, to which `/api/v1/query` is added: `http://prometheus:9090`, Mimir's with `/prometheus`."""
    match: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_matchers)] = f'job="{JOB_ENGINES}"'
    """Label matchers of the engines' series, as between the braces of PromQL."""
    token_file: Path | None = None
    """File with a bearer token; read again for every poll."""
    username: Annotated[str, Field(max_length=256, pattern=r"^[^:\s]*$")] = ""
    """For basic authentication, with `password_file`."""
    password_file: Path | None = None
    """File with the password; read again for every poll."""
    ca_file: Path | None = None
    """File with the certificates that the server's is checked against. None: the public ones."""
    tenant: Annotated[str, Field(max_length=256, pattern=r"^[!-~]*$")] = ""
    """Mimir's and Cortex's tenant, sent as `X-Scope-OrgID`. Empty: none."""
    cluster_label: Label = ""
    """Label that tells clusters apart in which instances are called alike: `cluster`. It comes before the instance in
    an engine's name. Empty: instances differ."""
    replica_label: Label = ""
    """Label by which a pair of Prometheus that scrape the same engines differ: `replica`. An engine is read from one of
    them, and from another when that falls silent. Empty: there is one, or what answers has taken duplicates out."""
    interval_seconds: Annotated[float, Field(ge=1, le=300)] = 15.0
    """How often it is asked; at least as often as it scrapes is of use."""
    lookback_seconds: Annotated[int | None, Field(ge=2, le=3600)] = None
    """How far back each question reaches, for what came late. None: four times the interval, at least 60 s."""
    stale_intervals: Annotated[int, Field(ge=2, le=100)] = 4
    """After so many intervals without anything new from a replica, another one is read."""
    max_series: Annotated[int, Field(ge=100)] = 50_000
    """Series that one question may be answered with: more are asked for in several, by metric."""
    gpu_label: Label = "gpu"
    """Label that says which GPU an engine runs on, where no entry of `gpus` does."""
    gpu_count_label: Label = "gpu_count"
    """Label that says how many. Missing: 1."""
    gpus: Annotated[tuple[FleetGpuSettings, ...], Field(max_length=1024)] = ()
    """What engines run on. An engine of which neither this nor a label says it is unpriced."""

    @property
    def lookback(self) -> int:
        """Seconds that each question reaches back."""
        return self.lookback_seconds or max(60, round(4 * self.interval_seconds))

    def gpu_of(self, engine: str, model: str) -> FleetGpuSettings | None:
        """What an engine runs on by the entries of ``gpus``; None where none fits."""
        return next((entry for entry in self.gpus if entry.fits(engine, model)), None)

    @field_validator("url")
    @classmethod
    def _url_has_no_password(cls, url: HttpUrl) -> HttpUrl:
        if url.username is not None or url.password is not None:
            raise ValueError("a user or password in a URL would stand in logs; enter username and password_file")
        if url.query or url.fragment:
            raise ValueError("a base URL has no query; leave out what follows the path")
        return url

    @model_validator(mode="after")
    def _one_login(self) -> FleetSettings:
        if bool(self.username) != (self.password_file is not None):
            raise ValueError("username and password_file go together; enter both or neither")
        if self.username and self.token_file is not None:
            raise ValueError("token_file and username are two ways to log in; keep one")
        return self

    @model_validator(mode="after")
    def _looks_back_far_enough(self) -> FleetSettings:
        if self.lookback_seconds is not None and self.lookback_seconds < 2 * self.interval_seconds:
            raise ValueError(
                f"lookback_seconds {self.lookback_seconds} is less than two intervals of {self.interval_seconds:g} s; "
                "what comes late would be missed"
            )
        return self

    @model_validator(mode="after")
    def _labels_differ(self) -> FleetSettings:
        taken = [label for label in (self.cluster_label, self.replica_label, "instance") if label]
        if len(set(taken)) < len(taken):
            raise ValueError("cluster_label, replica_label and instance are three labels; enter different ones")
        return self


def gpu_in_fleet(fleet: Iterable[FleetSettings], engine: str, model: str) -> FleetGpuSettings | None:
    """What an engine runs on by the first API whose ``gpus`` say it; None where none does."""
    return next((gpu for entry in fleet if (gpu := entry.gpu_of(engine, model)) is not None), None)
