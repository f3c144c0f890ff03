"""The section of farthing.yaml that says whether and where an audit trail is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from farthing.domain.errors import ConfigError

__all__ = ["MIN_KEY_BYTES", "AuditSettings", "read_keys"]

MIN_KEY_BYTES = 16


class AuditSettings(BaseModel):
    """The audit trail: a record of every request without its content, see [audit.md](audit.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dir: Path | None = None
    """Folder of the trail, on the disk of `farthing serve`; each service needs its own. None: no trail is written."""
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 2_192
    """Whole UTC days that are kept; six years, as HIPAA demands of documentation."""
    key_file: Path | None = None
    """File with keys of the operator's, one a line, at least 16 characters each: anchors are signed with the first, the
    others verify what was signed before. Keep it out of `dir`. None: anchors are not signed."""
    fsync: bool = True
    """Records are on the disk before they count as written. Without it a power cut may take the last ones."""

    @property
    def folder(self) -> Path | None:
        """Where the trail is; None: there is none."""
        return None if self.dir is None else self.dir.expanduser()


def read_keys(path: Path | None) -> tuple[bytes, ...]:
    """The keys of a file, none without one. Raises ConfigError when it cannot be read or a key is too short."""
    if path is None:
        return ()
    try:
        lines = path.expanduser().read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: audit keys cannot be read ({error.strerror}); let this user read them") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys or any(len(key) < MIN_KEY_BYTES for key in keys):
        raise ConfigError(
            f"{path}: needs a key of {MIN_KEY_BYTES} characters or more in each line; openssl rand -hex 32"
        )
    return keys
