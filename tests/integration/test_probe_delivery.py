"""The probe's delivery against a real ``farthing serve`` that is killed with kill -9 again and again."""

import json
import random
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
import yaml
from tests.alerts.real_parts import free_port
from tests.service.running import Serve

from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger

RECORDS = 5_000
LIVES = ((0, 2_500), (2_500, RECORDS - 1))
KILLS_EACH = 3

CHILD = """
import json, signal, sys, time
from pathlib import Path
from farthing_probe import delivery, wire
from farthing_probe.delivery import Delivery
from farthing_probe.settings import Settings

# Posts all the time, so that every kill finds one under way.
delivery.TICK_SECONDS, delivery.FIRST_WAIT, delivery.MOST_WAIT = 0.02, 0.05, 0.2
url, spool, process, first, last, until = sys.argv[1:]
# Little memory, so that an outage of a second needs the spool.
to = Delivery(Settings(url=url, spool=Path(spool), queue_bytes=4096), process, lambda: None)
to.start()
ended, spooled = [], 0
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
for seq in range(int(first), int(last)):
    now = time.monotonic_ns()
    if seq == 0:
        to.put(wire.started("boot", 0, 0, at_ns=now, wall_ns=time.time_ns(), engine="llama", engine_kind="vllm",
                            version="", model="m", gpu="H100-SXM", gpu_count=1))
    elif seq % 5:
        to.put(wire.usage("boot", 0, seq, request_id=f"r{seq}", engine_index=0, model="m", outcome="finished",
                          status=200, arrived_ns=now - 1000, ended_ns=now))
    else:
        to.put(wire.lifecycle("boot", 0, seq, at_ns=now, event="ready"))
    if seq % 5 == 0:
        time.sleep(0.012)
        spooled = max(spooled, to.spooled_bytes)
# It looks for what others left before it encodes a record of its own, so that one sent and nothing spooled is all.
while not ended and not (until == "delivered" and to.counts.sent and not to.spooled_bytes):
    time.sleep(0.02)
    spooled = max(spooled, to.spooled_bytes)
to.close(2.0)
print(json.dumps({**vars(to.counts), "spooled": spooled}), flush=True)
"""


class Killed:
    """A service that lives for a moment at a time."""

    def __init__(self, serve, seed):
        self._serve = serve
        self._draw = random.Random(seed)  # noqa: S311 - a seeded trial, not a secret
        self.kills = 0

    def once(self):
        """Kill it a moment after it has become ready."""
        self._serve.wait_ready()
        time.sleep(self._draw.uniform(0.1, 0.8))
        self._serve.kill()
        self.kills += 1


def inbox(ledger_url):
    """Keys of all records on disk, in order of arrival."""
    ledger = Ledger.open(ledger_url)
    try:
        columns = (t.records.c.boot, t.records.c.process, t.records.c.sequence)
        return [tuple(row) for row in ledger.select(sa.select(*columns).order_by(t.records.c.id))]
    finally:
        ledger.close()


@pytest.mark.parametrize("seed", [20261126])
def test_five_thousand_records_survive_a_killed_intake_and_an_engine_that_ends_meanwhile(tmp_path, seed):
    """Every record is in the inbox exactly once; nothing was dropped, refused or left in the spool."""
    ledger_url, port, spool = f"sqlite:///{tmp_path}/ledger.db", free_port(), tmp_path / "spool"
    config = tmp_path / "farthing.yaml"
    config.write_text(yaml.safe_dump({"ledger": ledger_url}))
    serve = Serve(config, port, tmp_path / "serve.log")
    killed = Killed(serve, seed)
    counts = []

    @contextmanager
    def engine(name, first, last, until):
        command = [sys.executable, "-c", CHILD, serve.url, str(spool), name, str(first), str(last), until]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
                out, _ = process.communicate(timeout=60)
                assert process.returncode == 0
                counts.append(json.loads(out))
            finally:
                process.kill()

    try:
        for life, (first, last) in enumerate(LIVES):
            with engine(f"engine-{life}", first, last, "terminated") as process:
                for _ in range(KILLS_EACH):
                    serve.start()
                    killed.once()
                process.terminate()  # with nobody to deliver to, it leaves the rest to the next
        serve.start()
        serve.wait_ready()
        with engine("engine-last", RECORDS - 1, RECORDS, "delivered"):
            pass
        assert serve.stop() == 0
    finally:
        serve.close()

    assert killed.kills == KILLS_EACH * len(LIVES)
    found = inbox(ledger_url)
    assert sorted(found) == [("boot", 0, number) for number in range(RECORDS)], counts
    assert sum(count["dropped"] + count["refused"] for count in counts) == 0, counts
    assert sum(count["sent"] for count in counts) == RECORDS, counts
    assert sum(count["failures"] for count in counts) > 0, counts
    assert max(count["spooled"] for count in counts) > 0, counts
    assert list(spool.iterdir()) == []
