"""What a newcomer finds in Jaeger: the requests of the recording that is played, with what each is thought to cost."""

import asyncio

import httpx
from tests.service.running import served
from tests.tracing.receiver import otlp_receiver

from farthing.domain import conventions as c
from farthing.ledger.repository import Ledger
from farthing.replay.live import LiveReplay, ReplayOptions
from farthing.replay.recording import load_recording
from farthing.replay.sender import Sender
from farthing.service.server import Service
from farthing.settings import Settings


def has_estimate(span):
    return c.ATTRIBUTE_ESTIMATE in span.attributes


async def played(replay, url, until):
    """What a condition gives, while the recording's records go to an intake."""
    stop = asyncio.Event()
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        playing = asyncio.create_task(replay.run(Sender(url, None, client, stop=stop)))
        try:
            return await asyncio.to_thread(until)
        finally:
            stop.set()
            await playing


def test_replayed_requests_reach_the_collector_with_their_estimates(tmp_path):
    """Those of the lead without: nothing was settled when they were sent."""
    with otlp_receiver() as receiver, Ledger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        settings = Settings.model_validate({"traces": {"endpoint": receiver.endpoint}})
        with served(Service(settings, ledger).app) as url:
            replay = LiveReplay(
                load_recording("h100-llama8b-vllm0.26"), ReplayOptions("replay", url, None, lead_seconds=85.0)
            )
            spans = asyncio.run(
                played(replay, url, lambda: receiver.wait_for(lambda found: any(map(has_estimate, found)), 60))
            )
    assert {span.resource["service.name"] for span in spans} == {"farthing-edge"}
    assert len({span.trace_id for span in spans}) == len(spans) > 50
    assert not all(map(has_estimate, spans))
    assert all(span.attributes[c.ATTRIBUTE_ESTIMATE] > 0 for span in spans if has_estimate(span))
