"""Where the native stack keeps its files: one folder holds configuration, data, logs and secrets."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from farthing.domain.errors import ConfigError
from farthing.settings import TOKENS_FILE

__all__ = ["StateLayout"]

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
SOCKET_PATH_LIMIT = 107
"""Bytes that Linux allows in the path of a unix socket (sun_path, less its final zero)."""


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Paths below one state folder; ``root`` is absolute."""

    root: Path

    @classmethod
    def of(cls, state_dir: Path) -> StateLayout:
        """The layout of ``state_dir`` for whoever looks at what is there, which any path may hold."""
        return cls(state_dir.expanduser().absolute())

    @classmethod
    def at(cls, state_dir: Path) -> StateLayout:
        """The layout of ``state_dir`` for a stack that starts there; raises ConfigError when its path cannot serve.

        Supervisor's configuration reads " ;" and " #" as the start of a comment, and the control socket must fit
        into the kernel's limit.
        """
        layout = cls.of(state_dir)
        text = str(layout.root)
        if any(sign in text for sign in ("\n", " ;", " #", '"', "'")):
            raise ConfigError(
                f"stack.state_dir: {text!r} has a quote, a line break, ' ;' or ' #' in it; choose another"
            )
        # supervisord binds a temporary name that carries its process id before it links the final one
        spare = len(".4194304")
        if len(os.fsencode(layout.supervisor_socket)) + spare > SOCKET_PATH_LIMIT:
            raise ConfigError(f"stack.state_dir: {text} is too long a path for a unix socket; choose a shorter one")
        return layout

    @property
    def settings(self) -> Path:
        """The effective settings that every Farthing process of this stack reads."""
        return self.root / "farthing.effective.yaml"

    @property
    def parts(self) -> Path:
        """What runs here, as JSON: names, pages and logs."""
        return self.root / "stack.json"

    @property
    def lock(self) -> Path:
        """Held while a stack starts, so that two cannot start here at once."""
        return self.root / "start.lock"

    @property
    def logs(self) -> Path:
        """One file per part, rotated."""
        return self.root / "logs"

    @property
    def data(self) -> Path:
        """What Prometheus, Alertmanager and Grafana store."""
        return self.root / "data"

    @property
    def secrets(self) -> Path:
        """Generated secrets, readable by their owner only."""
        return self.root / "secrets"

    @property
    def intake_token(self) -> Path:
        """The bearer token of intake, when the settings name none."""
        return self.secrets / "intake-token"

    @property
    def tokens(self) -> Path:
        """Hashes of the tokens that the service lets in, when the settings name no such file."""
        return self.root / TOKENS_FILE

    @property
    def grafana_password(self) -> Path:
        """The password of Grafana's user ``admin``."""
        return self.secrets / "grafana-admin"

    @property
    def prometheus(self) -> Path:
        """Prometheus' configuration, rules and targets."""
        return self.root / "prometheus"

    @property
    def alertmanager(self) -> Path:
        """Alertmanager's configuration."""
        return self.root / "alertmanager"

    @property
    def grafana(self) -> Path:
        """Grafana's configuration, provisioning and dashboards."""
        return self.root / "grafana"

    @property
    def jaeger(self) -> Path:
        """Jaeger's configuration."""
        return self.root / "jaeger"

    @property
    def compose(self) -> Path:
        """The configuration of a stack that Docker Compose runs."""
        return self.root / "compose"

    @property
    def supervisor_config(self) -> Path:
        """What supervisord reads."""
        return self.root / "supervisord.conf"

    @property
    def supervisor_socket(self) -> Path:
        """Where supervisord is asked how its children fare."""
        return self.root / "supervisor.sock"

    @property
    def supervisor_pid(self) -> Path:
        """Process id of the running supervisord."""
        return self.root / "supervisord.pid"

    @property
    def supervisor_log(self) -> Path:
        """What supervisord did."""
        return self.logs / "supervisord.log"

    @property
    def supervisor_output(self) -> Path:
        """What supervisord says before its log is open."""
        return self.logs / "supervisord.out"

    def log(self, part: str) -> Path:
        """The log of one part."""
        return self.logs / f"{part}.log"

    def create(self) -> None:
        """Create the folders; the root and the secrets are the owner's alone."""
        try:
            for folder in (self.root, self.secrets):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(PRIVATE_FOLDER)
            for folder in (self.logs, self.data):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"stack.state_dir: {self.root} cannot be created ({error.strerror}); choose a writable folder"
            ) from error

    def write(self, path: Path, text: str) -> None:
        """Replace ``path`` by ``text`` at once, readable by its owner only (URLs may carry credentials)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)

    def write_tree(self, folder: Path, files: Mapping[Path, str]) -> None:
        """Make ``folder`` hold exactly ``files`` (relative paths), so that what is no longer generated goes."""
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        for relative, text in files.items():
            self.write(folder / relative, text)

    def secret(self, path: Path) -> str:
        """The secret at ``path``, generated on first use."""
        if not path.exists():
            self.write(path, secrets.token_urlsafe(32) + "\n")
        return path.read_text(encoding="utf-8").strip()
