"""A real vLLM without the probe: its counters are read as they are, and every token of them is costed."""

import asyncio
import random

import httpx
import pytest
from tests.integration.engine.chat import chat, image_part, text_part

from farthing.collectors.engines.catalogue import load_catalogue
from farthing.collectors.engines.clock import anchored_clock
from farthing.collectors.engines.scrape import EngineScraper, probe_engine
from farthing.costing.scraped import ScrapedCoster
from farthing.domain.clock import HOUR

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

PRICE = 2_990_000_000
"""Nano-dollars an hour."""
IMAGE_TOKENS = 19
"""What tinysmolvlm makes of an image: 16, and 3 that frame it."""


def bill(start_ns, end_ns):
    """A telescoping bill at one price."""
    return PRICE * end_ns // HOUR - PRICE * start_ns // HOUR


def differences(before, after):
    """How far each counter went."""
    return {name: after.values[name] - value for name, value in before.values.items()}


class Traffic:
    """Text and image requests, and what the client was told of them."""

    def __init__(self, engine):
        self.engine = engine
        self.usages = []
        self.images = 0

    async def send(self):
        """Single requests, a burst of eight, a long prompt twice, three images of which one comes twice."""
        seed = random.randrange(2**32)  # noqa: S311 - so that no other test's images are in the engine's cache
        long_prompt = text_part(f"{seed} " + "every request is answered with tokens " * 60)
        picture, other = image_part(64, 48, seed), image_part(200, 150, seed + 1)
        one_by_one = [
            [text_part("hello")],
            [long_prompt],
            [long_prompt],
            [text_part("what is this?"), picture],
            [text_part("and this?"), picture, other],
        ]
        async with httpx.AsyncClient(trust_env=False) as client:
            for parts in one_by_one:
                self.usages.append(await chat(client, self.engine, parts, max_tokens=16))
            burst = [chat(client, self.engine, [text_part(f"number {n}")], max_tokens=8 + n) for n in range(8)]
            self.usages += await asyncio.gather(*burst)
        self.images = 3

    def total(self, *path):
        """A field of usage summed over the requests; a detail that a request lacks counts nothing."""
        total = 0
        for usage in self.usages:
            value = usage
            for key in path:
                value = (value or {}).get(key)
            total += value or 0
        return total


def test_what_the_engine_counts_is_what_its_clients_were_told_and_is_costed(real_engine):
    """Scraped counters equal the sum of usage, and the estimate books every token at a cost."""
    traffic = Traffic(real_engine)

    async def story():
        records, outcomes = [], []
        async with httpx.AsyncClient(trust_env=False) as client:
            scraper = EngineScraper("engine", real_engine.url, load_catalogue("vllm"), client, anchored_clock())

            async def scrape():
                outcome = await scraper.scrape()
                assert outcome.error is None, outcome.error
                outcomes.append(outcome)
                records.extend(outcome.records)
                return outcome.counters

            first = await scrape()
            sending = asyncio.create_task(traffic.send())
            while not sending.done():
                await asyncio.sleep(0.5)
                await scrape()
            await sending
            # the engine counts a request just after it has answered it
            async with asyncio.timeout(15):
                while differences(first, await scrape())["requests_finished_total"] < len(traffic.usages):
                    await asyncio.sleep(0.1)
            last = await scrape()
        return outcomes, records, first, last

    outcomes, records, first, last = asyncio.run(story())

    moved = differences(first, last)
    cached = traffic.total("prompt_tokens_details", "cached_tokens")
    assert moved["prompt_tokens_total"] == traffic.total("prompt_tokens")
    assert moved["cached_prompt_tokens_total"] == cached > 0
    assert moved["computed_prompt_tokens_total"] == traffic.total("prompt_tokens") - cached
    assert moved["generation_tokens_total"] == traffic.total("completion_tokens") == 5 * 16 + sum(range(8, 16))
    assert moved["requests_finished_total"] == moved["first_tokens_total"] == len(traffic.usages) == 13
    assert moved["mm_cache_queries_total"] == traffic.images
    assert moved["mm_cache_hits_total"] == 1
    image_tokens = traffic.total("prompt_tokens_details", "multimodal_tokens", "image")
    assert image_tokens == traffic.images * IMAGE_TOKENS
    assert outcomes[0].started.version == "0.32.0"
    assert outcomes[0].started.model == real_engine.model
    assert {outcome.degraded for outcome in outcomes} == {()}

    coster = ScrapedCoster(first.key.boot, bill, real_engine.model)
    windows = [window for record in records for window in coster.feed(record)]
    postings = [posting for window in windows for posting in window.postings]
    assert sum(posting.nano for posting in postings) == bill(first.at_ns, last.at_ns)
    assert all(posting.nano > 0 for posting in postings)
    assert {posting.method for posting in postings} == {"estimated"}
    charged = {"prefill": 0, "decode": 0}
    for posting in postings:
        if posting.account == "charged":
            assert (posting.tenant, posting.model) == ("unknown", real_engine.model)
            charged[posting.phase] += posting.nano
    assert charged["prefill"] > 0
    assert charged["decode"] > 0
    assert sum(window.tokens["engine_output"] for window in windows) == moved["generation_tokens_total"]
    assert sum(window.tokens["prompt_computed"] for window in windows) == moved["computed_prompt_tokens_total"]
    assert sum(window.tokens["prompt_cached"] for window in windows) == moved["cached_prompt_tokens_total"]


def test_a_real_engine_tells_its_version_and_model_and_nothing_is_missing(real_engine):
    """What ``farthing check`` asks of an engine that runs no probe."""
    probe = probe_engine(real_engine.url)
    assert (probe.version, probe.model) == ("0.32.0", real_engine.model)
    assert set(probe.used) == set(load_catalogue("vllm").scraped)
    assert len(probe.degraded) == 1
    assert probe.degraded[0].startswith("no probe reports from it")
