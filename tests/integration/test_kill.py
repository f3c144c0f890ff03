"""``farthing serve``, killed with kill -9 at ten random moments of a replay, keeps the books of one that never was."""

import asyncio
import random
import time
from contextlib import suppress

import httpx
import pytest
import uvicorn
import yaml
from sqlalchemy.engine import make_url
from tests.alerts.real_parts import free_port
from tests.service.books import content, journal_sums, total
from tests.service.running import Serve

from farthing.domain import conventions as c
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.live import LiveReplay, ReplayOptions
from farthing.replay.recording import load_recording
from farthing.replay.sender import Delivered, Sender
from farthing.replay.wire_records import wire_records
from farthing.service.server import bind

KILLS = 10
SPEED = 16.0
UNDISTURBED_SPEED = 80.0
ENGINE = "llama"
KEYS = ("engine", "debit", "phase", "tenant", "model", "tier", "reason", "method")


class FixedStart:
    """A clock that runs at the speed of the real one and always starts at the recording's own time.

    With it two replays are the same engine boot, so that their books can be compared to the last bit.
    """

    def __init__(self, start_ns):
        self._start_ns = start_ns
        self._began = 0

    def __call__(self):
        now = time.monotonic_ns()
        self._began = self._began or now
        return self._start_ns + now - self._began


class Replayed:
    """One replay into one ``farthing serve``."""

    def __init__(self, folder, ledger_url, recording, speed):
        folder.mkdir()
        self.ledger_url = ledger_url
        self.engine_port, port = free_port(), free_port()
        config = folder / "farthing.yaml"
        engine = {"name": ENGINE, "url": f"http://127.0.0.1:{self.engine_port}", "gpu": "H100-SXM", "probe": True}
        config.write_text(yaml.safe_dump({"ledger": self.ledger_url, "engines": [engine]}))
        self.serve = Serve(config, port, folder / "serve.log")
        options = ReplayOptions(ENGINE, self.serve.url, None, speed=speed)
        self.replay = LiveReplay(recording, options, FixedStart(recording.start_ns))
        self.kills = 0
        self.restarting = False
        self.delivered = Delivered()

    async def run(self, kill_at=()):
        """Replay to the end; kill and restart the service whenever as many records were answered for."""
        listener = bind("127.0.0.1", self.engine_port, "no setting")
        server = uvicorn.Server(uvicorn.Config(self.replay.app, log_level="warning", access_log=False))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        self.serve.start()
        try:
            async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
                sender = Sender(self.serve.url, None, client, first_wait_seconds=0.1, max_wait_seconds=0.5)
                playing = asyncio.create_task(self.replay.run(sender))
                killing = asyncio.create_task(self._kill(sender, kill_at))
                await self._played(playing)
                await asyncio.wait_for(killing, 30)
                self.delivered = sender.delivered
            await asyncio.to_thread(self._catch_up)
        finally:
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await serving
            listener.close()

    async def _played(self, playing):
        """Wait for the replay's end; the service may end only when it is killed."""
        began = time.monotonic()
        while not playing.done():
            assert self.serve.alive or self.restarting, self.serve.log.read_text()
            assert time.monotonic() < began + 200, f"still playing: {self.serve.log.read_text()}"
            await asyncio.wait({playing}, timeout=0.5)
        await playing

    async def _kill(self, sender, kill_at):
        for records, delay in kill_at:
            while sender.delivered.records < records:
                await asyncio.sleep(0.005)
            await asyncio.sleep(delay)
            self.restarting = True
            await asyncio.to_thread(self.serve.kill)
            self.kills += 1
            self.serve.start()
            self.restarting = False

    def _catch_up(self):
        self.serve.wait_ready()
        deadline = time.monotonic() + 30
        while True:
            (engine,) = self.serve.get("/api/v1/snapshot").json()["engines"]
            if engine["state"] == "down":
                break
            assert time.monotonic() < deadline, engine
            time.sleep(0.1)
        self.engine = engine
        assert self.serve.stop() == 0


def moments(seed, records):
    """(records answered for, seconds after that) of ten kills, spread over the replay by chance."""
    draw = random.Random(seed)  # noqa: S311 - a seeded trial, not a secret
    counts = sorted(draw.sample(range(10, records - 50), KILLS))
    return [(count, draw.uniform(0.0, 0.6)) for count in counts]


@pytest.mark.parametrize("seed", [20261124])
def test_ten_kills_change_nothing_in_the_books(tmp_path, ledger_url, seed):
    """Journal, requests, windows, fits and the bill are those of an undisturbed replay, to the last nano-dollar."""
    recording = load_recording("h100-llama8b-vllm0.26")
    records = len(wire_records(recording, boot="b", engine=ENGINE))
    kill_at = moments(seed, records)
    calm = Replayed(tmp_path / "calm", f"sqlite:///{tmp_path}/calm.db", recording, UNDISTURBED_SPEED)
    killed = Replayed(tmp_path / "killed", ledger_url, recording, SPEED)
    try:
        asyncio.run(calm.run())
        asyncio.run(killed.run(kill_at))
    finally:
        calm.serve.close()
        killed.serve.close()
    story = f"seed {seed}, kills {kill_at}, delivered {killed.delivered}"
    assert killed.kills == KILLS, story

    # every record was answered for: accepted, or a duplicate where the answer had been lost in a kill
    assert calm.delivered.accepted == records, story
    assert killed.delivered.accepted + killed.delivered.duplicate == records, story
    assert killed.delivered.refused == 0, story

    with_kills, without = Ledger.open(killed.ledger_url), Ledger.open(calm.ledger_url)
    try:
        assert total(with_kills, t.records.c.sequence) == records * (records - 1) // 2, story
        assert journal_sums(with_kills, *KEYS) == journal_sums(without, *KEYS), story
        assert sum(journal_sums(with_kills, "debit").values()) == total(with_kills, t.boots.c.bill_nano), story
        # an estimate is the sender's, at the prices that it was told by then
        ours, theirs = content(with_kills, "estimate_nano"), content(without, "estimate_nano")
        for table in theirs:
            assert ours[table] == theirs[table], f"{table}: {story}"
    finally:
        with_kills.close()
        without.close()
    assert killed.engine["residual_nano"] == calm.engine["residual_nano"] == 0
    assert killed.engine["bill_nano"] == calm.engine["bill_nano"] > 0
    assert sum(killed.engine["wip_nano"].values()) == 0
    red = [check["name"] for check in killed.engine["checks"] if not check["ok"]]
    assert red == [], story
    assert c.CHECK_RESIDUAL in [check["name"] for check in killed.engine["checks"]]
    log = killed.serve.log.read_text()
    assert "Traceback" not in log, log
    password = make_url(ledger_url).password
    assert password is None or password not in log
