"""A PostgreSQL server of the tests' own, and a fresh database on it, or in SQLite, whenever one is asked for."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import URL

__all__ = [
    "Cluster",
    "NewLedgerUrl",
    "ledger_url",
    "new_ledger_url",
    "postgres",
    "postgres_programs",
    "running_cluster",
    "seeds",
    "server_programs",
]

START_SECONDS = 60.0
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 * 2**30
_ROLE = "farthing"
_numbers = count(1)

NewLedgerUrl = Callable[[str], str]
"""The URL of an empty ledger by name, the same one for the same name."""


def postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL server's programs; Debian keeps them off PATH. None: there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(debian, key=lambda path: float(path.parts[-3]), default=None)
    return newest.parent if newest else None


class Cluster:
    """A private server: data and socket in a folder of its own, a loopback port, everything synced to disk."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.port = _free_port()
        self.folder = folder
        self.log = folder / "server.log"
        self._programs = programs
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _server_user()
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self._make()

    def start(self) -> None:
        """Start it and wait until it answers."""
        arguments = ["-D", self.folder / "data", "-p", self.port, "-k", self.folder]
        with self.log.open("ab") as log:
            # it must not outlive the tests, however they end
            self._process = subprocess.Popen(
                [*self._as_user("postgres", "--pdeathsig=INT"), *map(str, arguments)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(psycopg.OperationalError), self._administrator():
                return
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in good order, not waiting for its clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_SECONDS)
            self._process = None

    def kill(self) -> None:
        """End the server and each of its backends at once, as a power cut would."""
        assert self._process is not None
        postmaster = self._process.pid
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(START_SECONDS)
        self._process = None
        # the next server refuses to start while a backend still holds the shared memory
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            time.sleep(0.01)

    def database(self, tablespace: str = "pg_default") -> str:
        """The URL of a new, empty database."""
        name = f"ledger_{next(_numbers)}"
        options = f"OWNER {_ROLE} TEMPLATE template0 ENCODING 'UTF8' TABLESPACE {tablespace}"
        self.execute(f"CREATE DATABASE {name} {options}")
        url = URL.create("postgresql", _ROLE, self._password, "127.0.0.1", self.port, name)
        return url.render_as_string(hide_password=False)

    def database_on(self, place: Path) -> str:
        """The URL of a new, empty database whose tables lie in a folder of their own."""
        folder = place / "tables"
        folder.mkdir()
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self.execute(f"CREATE TABLESPACE elsewhere LOCATION '{folder}'")
        url = self.database("elsewhere")
        # sorting must not need the place as well
        self.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET work_mem = '256MB'")
        return url

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Run one statement as the server's administrator, outside any transaction."""
        with self._administrator() as connection:
            connection.execute(statement)

    def _administrator(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=str(self.folder), port=self.port, user="postgres", dbname="postgres", autocommit=True
        )

    def _make(self) -> None:
        options = ["--pgdata", self.folder / "data", "--username", "postgres", "--encoding", "UTF8", "--locale", "C"]
        access = ["--auth-local", "trust", "--auth-host", "scram-sha-256", "--no-sync"]
        subprocess.run(
            [*self._as_user("initdb"), *map(str, options), *access],
            check=True,
            capture_output=True,
            cwd=self.folder,
        )
        self.start()
        self.execute(f"CREATE ROLE {_ROLE} LOGIN PASSWORD '{self._password}'")

    def _as_user(self, program: str, *options: str) -> list[str]:
        """The server refuses to run as root."""
        if self._user is not None:
            options += (f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--clear-groups")
        command = shutil.which("setpriv")
        assert command, "setpriv, of util-linux, is needed to run PostgreSQL"
        return [command, *options, str(self._programs / program)]


@contextmanager
def running_cluster(programs: Path, *, on_disk: bool = False) -> Iterator[Cluster]:
    """A server that runs within the block and leaves nothing behind.

    Unless it has to be on a disk it is in memory where there is room: to be killed there is the same, since what a
    killed program has written outlives it, and a disk that others use makes tests slow.
    """
    # not below pytest's folder: that is closed to the server's user, and too long a path for a socket
    place = None if on_disk or not _roomy(MEMORY) else MEMORY
    with tempfile.TemporaryDirectory(prefix="farthing-pg-", dir=place, ignore_cleanup_errors=True) as folder:
        cluster = Cluster(programs, Path(folder))
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def server_programs() -> Path:
    """The folder of PostgreSQL's programs; without them tests are skipped, and fail in CI."""
    programs = postgres_programs()
    if programs is None:
        message = "PostgreSQL is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return programs


@pytest.fixture(scope="session")
def postgres(server_programs: Path) -> Iterator[Cluster]:
    """The server that the tests of a session share."""
    with running_cluster(server_programs) as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def new_ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewLedgerUrl]:
    """Empty ledgers by name, in each database that a ledger can be in."""
    if request.param == "sqlite":
        yield lambda name: f"sqlite:///{tmp_path}/{name}.db"
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    made: dict[str, str] = {}

    def of(name: str) -> str:
        if name not in made:
            made[name] = cluster.database()
        return made[name]

    yield of
    for url in made.values():
        cluster.drop(url)


def seeds(sqlite: int, postgresql: int) -> pytest.MarkDecorator:
    """Trials of a test that takes a ``seed`` and, somewhere below, ``new_ledger_url``: so many in each database."""
    trials = [
        *(pytest.param("sqlite", seed) for seed in range(sqlite)),
        *(pytest.param("postgresql", seed, marks=pytest.mark.real) for seed in range(postgresql)),
    ]
    return pytest.mark.parametrize(("new_ledger_url", "seed"), trials, indirect=["new_ledger_url"])


@pytest.fixture
def ledger_url(new_ledger_url: NewLedgerUrl) -> str:
    """An empty ledger, in each database that a ledger can be in."""
    return new_ledger_url("ledger")


def _roomy(place: Path) -> bool:
    return place.is_dir() and os.access(place, os.W_OK) and shutil.disk_usage(place).free >= MEMORY_BYTES


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _server_user() -> pwd.struct_passwd | None:
    """Whom the server runs as; None: whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError("there is neither a user postgres nor a user nobody to run PostgreSQL as")
