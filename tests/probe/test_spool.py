"""What waits on disk is bounded, private, and sent by exactly one process."""

import fcntl
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from farthing_probe.spool import BLOCK, Batch, Spool, SpoolError
from farthing_probe.wire import USAGE_PATH, WINDOWS_PATH

MIB = 1 << 20


class Disk:
    """Spools over one directory, and what they say they dropped."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dropped: list[int] = []

    def spool(self, process: str, most_bytes: int = MIB) -> Spool:
        return Spool(self.root, process, most_bytes, self.dropped.append)

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "state/spool")


def batch(body: bytes = b"body", count: int = 3, path: str = USAGE_PATH) -> Batch:
    return Batch(path, count, body)


def drain(spool: Spool) -> list[tuple[str, int, bytes]]:
    """Everything a spool holds, in its order, removed."""
    found = []
    while (oldest := spool.oldest()) is not None:
        assert oldest.file is not None
        found.append((oldest.path, oldest.count, oldest.file.read_bytes()))
        spool.remove(oldest)
    return found


def test_batches_come_back_in_order_and_leave_nothing_behind(disk: Disk):
    """Path, count and body of each, first in, first out."""
    spool = disk.spool("b-0")
    wanted = [(USAGE_PATH if n % 2 else WINDOWS_PATH, n, b"x" * n) for n in range(1, 13)]
    for path, count, body in wanted:
        spool.append(Batch(path, count, body))
    assert spool.bytes == 12 * BLOCK
    assert drain(spool) == wanted
    assert spool.bytes == 0
    spool.close()
    assert disk.names() == []
    assert disk.dropped == []


def test_directories_and_files_are_private_whatever_the_umask(disk: Disk):
    """0700 and 0600."""
    before = os.umask(0)
    try:
        spool = disk.spool("b-0")
        spool.append(batch())
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [disk.root, *disk.root.rglob("*")]}
    assert modes == {"spool": 0o700, "b-0": 0o700, "lock": 0o600, "000000000000-3.usage.jsonl.gz": 0o600}


def test_what_a_dead_process_left_is_adopted_before_our_own(disk: Disk):
    """The oldest directory first; sent or not, no directory has two holders."""
    for age, name in ((20, "dead-1"), (30, "dead-0")):
        left = disk.spool(name)
        for number in range(2):
            left.append(batch(f"{name} {number}".encode(), count=number + 1))
        left.close()
        for file in (disk.root / name).glob("*.gz"):
            os.utime(file, (1e9 - age, 1e9 - age))
    ours = disk.spool("ours")
    ours.append(batch(b"ours"))
    assert ours.bytes == 5 * BLOCK
    second = disk.spool("second")
    second.adopt()
    assert second.oldest() is None
    assert [body for _, _, body in drain(ours)] == [b"dead-0 0", b"dead-0 1", b"dead-1 0", b"dead-1 1", b"ours"]
    assert disk.names() == ["ours", "ours/lock"]
    ours.close()
    assert disk.names() == []


HOLDER = """
import os, sys
from pathlib import Path
from farthing_probe.spool import Batch, Spool
spool = Spool(Path(sys.argv[1]), "holder", 1 << 20, lambda n: None)
spool.append(Batch("/v1/usage", 7, b"theirs"))
print("ready", flush=True)
sys.stdin.read()
os.abort()
"""


def test_a_living_process_keeps_its_directory_and_a_killed_one_loses_it(disk: Disk):
    """The lock is the kernel's, so it ends with the process however that ends."""
    command = [sys.executable, "-c", HOLDER, str(disk.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        spool = disk.spool("b-0")
        spool.adopt()
        assert spool.oldest() is None
        holder.kill()
        holder.wait(10)
    spool.adopt()
    assert drain(spool) == [(USAGE_PATH, 7, b"theirs")]


def test_a_forked_child_lets_go_without_unlocking_or_deleting(disk: Disk):
    """The parent's directory stays the parent's."""
    spool = disk.spool("b-0")
    spool.append(batch())
    child = os.fork()
    if child == 0:
        spool.close(tidy=False)
        os._exit(0 if spool.bytes == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    other = disk.spool("b-1")
    other.adopt()
    assert other.oldest() is None
    assert len(drain(spool)) == 1


def test_a_directory_removed_while_its_lock_is_awaited_is_not_adopted(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    """Its last holder was quicker: the lock we then have is of a file that is nowhere."""
    left = disk.spool("dead")
    left.append(batch())
    left.close()
    quicker = disk.spool("dead")

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        shutil.rmtree(disk.root / "dead")
        quicker.append(batch(b"quicker"))
        fcntl.flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    spool = disk.spool("b-0")
    spool.adopt()
    assert spool.oldest() is None
    assert [body for _, _, body in drain(quicker)] == [b"quicker"]


def test_the_oldest_goes_where_there_is_no_room_and_is_counted(disk: Disk):
    """Newest batches are the ones that stay; what is being sent right now is not given up."""
    spool = disk.spool("b-0", most_bytes=3 * BLOCK)
    for number in range(1, 4):
        spool.append(batch(b"%d" % number, count=number))
    sending = spool.oldest()
    spool.append(batch(b"4", count=4), keep=sending)
    spool.append(batch(b"5", count=5))
    assert disk.dropped == [2, 1]
    assert [count for _, count, _ in drain(spool)] == [3, 4, 5]


def test_a_batch_that_can_never_fit_costs_nothing_else(disk: Disk):
    """It is refused before anything is dropped for it."""
    spool = disk.spool("b-0", most_bytes=2 * BLOCK)
    spool.append(batch())
    with pytest.raises(SpoolError, match="no room"):
        spool.append(batch(b"x" * 3 * BLOCK))
    with pytest.raises(SpoolError, match="no room"):
        spool.append(batch(b"x" * 2 * BLOCK), keep=spool.oldest())
    assert disk.dropped == []
    assert len(drain(spool)) == 1


def test_what_other_processes_hold_counts_towards_the_limit(disk: Disk):
    """The limit is of the disk, not of each process."""
    theirs, ours = disk.spool("theirs"), disk.spool("ours", most_bytes=4 * BLOCK)
    for _ in range(3):
        theirs.append(batch())
    ours.append(batch(b"1", count=1))
    ours.append(batch(b"2", count=2))
    assert disk.dropped == [1]
    assert len(drain(theirs)) == 3


def test_a_full_disk_leaves_no_part_of_a_file(disk: Disk):
    """A file that the kernel cuts short is an error, and the spool works again once there is room."""
    spool = disk.spool("b-0")
    spool.append(batch(b"small"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = batch(os.urandom(3 * BLOCK))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            spool.append(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert disk.names() == ["b-0", "b-0/000000000000-3.usage.jsonl.gz", "b-0/lock"]
    assert (large.file, len(large.body), spool.bytes) == (None, 3 * BLOCK, BLOCK)
    spool.append(large)
    assert [len(body) for _, _, body in drain(spool)] == [5, 3 * BLOCK]


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_directory_that_others_may_write_into_is_not_used(disk: Disk, mode: int):
    """They could plant records, or links."""
    disk.root.mkdir(parents=True)
    disk.root.chmod(mode)
    spool = disk.spool("b-0")
    with pytest.raises(SpoolError, match="chmod 700"):
        spool.adopt()
    with pytest.raises(SpoolError, match="chmod 700"):
        spool.append(batch())
    assert disk.names() == []


def test_a_directory_of_somebody_else_is_not_used(disk: Disk, monkeypatch: pytest.MonkeyPatch):
    """Even where root could."""
    disk.root.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(SpoolError, match="belong to this user"):
        disk.spool("b-0").adopt()


def test_what_is_no_batch_is_left_alone(disk: Disk):
    """The kill switch lives beside; torn parts of files go with their directory."""
    disk.root.mkdir(parents=True, mode=0o700)
    (disk.root / "off").touch()
    (disk.root / ".b-9").mkdir(mode=0o700)
    left = disk.root / "dead"
    left.mkdir(mode=0o700)
    (left / "part").write_bytes(b"torn")
    (left / "000000000007-2.windows.jsonl.gz").write_bytes(b"whole")
    (left / "000000000008-x.windows.jsonl.gz").write_bytes(b"strange")
    spool = disk.spool("b-0")
    spool.adopt()
    assert drain(spool) == [(WINDOWS_PATH, 2, b"whole")]
    assert disk.names() == [".b-9", "dead", "dead/000000000008-x.windows.jsonl.gz", "off"]


def test_a_process_whose_name_has_been_used_overwrites_nothing(disk: Disk):
    """Numbers go on after those that are there."""
    first = disk.spool("b-0")
    first.append(batch(b"1"))
    first.close()
    again = disk.spool("b-0")
    again.append(batch(b"2"))
    assert [body for _, _, body in drain(again)] == [b"1", b"2"]


def test_two_processes_of_one_name_are_one_too_many(disk: Disk):
    """The second goes without, and the first never notices."""
    first, second = disk.spool("b-0"), disk.spool("b-0")
    first.append(batch(b"1"))
    with pytest.raises(OSError, match="not empty"):
        second.append(batch(b"2"))
    second.close()
    assert disk.names() == ["b-0", "b-0/000000000000-3.usage.jsonl.gz", "b-0/lock"]
    assert [body for _, _, body in drain(first)] == [b"1"]


def test_a_spool_cleared_away_from_under_us_is_made_again(disk: Disk):
    """An operator may delete it at any time."""
    spool = disk.spool("b-0")
    spool.append(batch(b"1"))
    shutil.rmtree(disk.root)
    spool.append(batch(b"2", count=2))
    gone = spool.oldest()
    assert gone is not None
    spool.remove(gone)
    assert drain(spool) == [(USAGE_PATH, 2, b"2")]
