"""A live replay: the recorded exposition at its moment, every record once and on time, and an end when told."""

import asyncio
import gzip
import itertools
import json
import time

import httpx
import pytest
from tests.replay.conftest import TEXT, VISION

from farthing.domain.clock import SECOND
from farthing.replay.live import LiveReplay, ReplayOptions
from farthing.replay.sender import Sender

URL = "http://intake:9464"


class Intake:
    """Takes everything and remembers it, unless it is away."""

    def __init__(self, away=False):
        self.away = away
        self.records = []

    def __call__(self, request):
        if self.away:
            raise httpx.ConnectError("nobody is there")
        lines = [json.loads(line) for line in gzip.decompress(request.content).splitlines()]
        self.records += lines
        return httpx.Response(200, json={"accepted": len(lines), "duplicate": 0, "refused": []})


async def play(replay, intake, seconds=30.0, stop=None):
    """Run the replay against the intake, at most so long; returns its sender."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(intake)) as client:
        sender = Sender(URL, None, client, stop=stop, first_wait_seconds=0.01, max_wait_seconds=0.02)
        await asyncio.wait_for(replay.run(sender), seconds)
        return sender


async def ask(replay, path="/metrics"):
    transport = httpx.ASGITransport(replay.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        return await client.get(path)


def test_all_records_are_sent_once_and_in_order(recording):
    """As a probe inside that engine would have sent them."""
    replay = LiveReplay(recording, ReplayOptions("e", URL, None, speed=500.0))
    intake = Intake()
    sender = asyncio.run(play(replay, intake))
    assert [record["seq"] for record in intake.records] == list(range(len(intake.records)))
    assert sender.delivered.records == len(intake.records) > len(recording.requests)
    assert {record["boot"] for record in intake.records} == {intake.records[0]["boot"]}
    assert intake.records[0]["kind"] == "started"
    assert (intake.records[-1]["kind"], intake.records[-1]["event"]) == ("lifecycle", "stop")


def test_a_lead_is_delivered_at_once_and_the_rest_at_its_speed(recordings):
    """So that a fresh stack has history to show."""
    recording = recordings[TEXT]
    clock = itertools.count(1_795_500_000 * SECOND, SECOND // 100)
    replay = LiveReplay(
        recording, ReplayOptions("e", URL, None, speed=2.0, lead_seconds=85.0), clock_ns=lambda: next(clock)
    )
    # each reading of this clock is 10 ms later than the one before it
    assert 85.0 <= replay.position_ns() / SECOND <= 85.1
    assert 85.02 <= replay.position_ns() / SECOND <= 85.2


def test_a_loop_starts_the_engine_again_as_a_new_boot(recordings):
    """Otherwise its records would be duplicates of the first round's."""
    replay = LiveReplay(recordings[TEXT], ReplayOptions("e", URL, None, speed=2_000.0, loop=True))
    intake = Intake()

    async def run():
        stop = asyncio.Event()
        playing = asyncio.create_task(play(replay, intake, stop=stop))
        while replay.boots < 3:
            await asyncio.sleep(0.01)
        stop.set()
        await playing

    asyncio.run(run())
    starts = [record for record in intake.records if record["kind"] == "started"]
    assert len({record["boot"] for record in starts}) == len(starts) >= 2
    assert starts[0]["wall_ns"] < starts[1]["wall_ns"]


@pytest.mark.parametrize("loop", [True, False])
def test_it_ends_at_once_when_it_is_stopped_while_the_intake_is_away(recordings, loop):
    """Ctrl-C must not play the rest of the recording to nobody."""
    replay = LiveReplay(recordings[TEXT], ReplayOptions("e", URL, None, loop=loop))

    async def run():
        stop = asyncio.Event()
        playing = asyncio.create_task(play(replay, Intake(away=True), stop=stop))
        await asyncio.sleep(0.3)
        stop.set()
        began = time.monotonic()
        await playing
        return time.monotonic() - began

    assert asyncio.run(run()) < 1.0


@pytest.mark.parametrize("name", [TEXT, VISION])
def test_the_exposition_is_the_one_of_its_moment(recordings, name):
    """Byte for byte what the engine answered then, or that it was down."""
    recording = recordings[name]
    now = [0]
    replay = LiveReplay(recording, ReplayOptions("e", URL, None), clock_ns=lambda: now[0])
    for scrape in (recording.scrapes[0], recording.scrapes[40], recording.scrapes[-1]):
        now[0] = scrape.wall_ns - recording.start_ns
        answer = asyncio.run(ask(replay))
        if scrape.body:
            assert answer.text == scrape.body
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        else:
            assert answer.status_code == 503
            assert "down" in answer.text
    assert not recording.scrapes[-1].body
    assert asyncio.run(ask(replay, "/health")).status_code == 200
