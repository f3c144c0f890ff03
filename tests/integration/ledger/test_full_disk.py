"""A full disk: one clear error, nothing acknowledged lost, and writing goes on once there is room again."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.integration.ledger.writing import batch, check_books, post
from tests.ledger.databases import running_cluster

from farthing.domain.errors import LedgerError
from farthing.ledger.repository import Ledger

SIZE = "24m"
BALLAST = 8 * 2**20
"""Bytes that are taken away, and given back when the disk is full."""


@pytest.fixture
def small_disk():
    """A disk of its own that is soon full; only root can mount one."""
    # not below pytest's folder, which is closed to the user that PostgreSQL runs as
    place = Path(tempfile.mkdtemp(prefix="farthing-disk-"))
    place.chmod(0o755)
    done = subprocess.run(
        [str(shutil.which("mount")), "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", place], check=False
    )
    if done.returncode:
        place.rmdir()
        message = "a disk can be mounted by root only"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    yield place
    subprocess.run([str(shutil.which("umount")), "--lazy", place], check=True)
    place.rmdir()


class Books:
    """A ledger, and how many batches of it were acknowledged."""

    def __init__(self, url):
        self.ledger = Ledger.open(url)
        self.added = self.posted = 0

    def write(self, batches):
        """Take and post so many more, from where the last answer was missing."""
        for _ in range(batches):
            self.ledger.add(batch(self.posted))
            self.added = self.posted + 1
            post(self.ledger, self.posted)
            self.posted += 1

    def check(self):
        """Everything acknowledged is there, once."""
        check_books(self.ledger, self.added, self.posted)


def fill(books):
    """Write until the disk is full, which one clear line says, again and again and doing no harm."""
    for attempt in range(4):
        with pytest.raises(LedgerError) as caught:
            books.write(10_000)
        assert "full" in str(caught.value) or "No space left on device" in str(caught.value)
        assert str(caught.value).endswith("nothing that was acknowledged is lost, and writing goes on by itself")
        assert "\n" not in str(caught.value)
        books.check()
        assert books.posted > 50, attempt


def goes_on(books):
    """The same ledger takes what comes, once there is room."""
    books.write(20)
    books.check()
    books.ledger.close()


@pytest.mark.real
def test_a_full_disk_under_sqlite(small_disk):
    """The database, its log and all."""
    (small_disk / "ballast").write_bytes(bytes(BALLAST))
    books = Books(f"sqlite:///{small_disk}/ledger.db")
    fill(books)
    (small_disk / "ballast").unlink()
    goes_on(books)


@pytest.mark.real
@pytest.mark.timeout(120)
def test_a_full_disk_under_postgresql(small_disk, server_programs):
    """The tables' disk; the server's own log is elsewhere."""
    with running_cluster(server_programs) as cluster:
        books = Books(cluster.database_on(small_disk))
        (small_disk / "ballast").write_bytes(bytes(BALLAST))
        fill(books)
        (small_disk / "ballast").unlink()
        goes_on(books)


def test_a_database_that_may_not_grow(tmp_path):
    """The same without a disk that is full: SQLite is told how many pages there are."""
    books = Books(f"sqlite:///{tmp_path}/ledger.db")

    def limit(pages):
        books.ledger.engine.dispose()
        sa.event.listen(books.ledger.engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={pages}"))

    limit(1_000)
    fill(books)
    limit(100_000)
    goes_on(books)
