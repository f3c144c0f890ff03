"""A real vLLM with a vision model, scraped by a real Prometheus and costed by ``farthing serve``."""

import asyncio
import os
import random
import subprocess
import sys
import time

import httpx
import pytest
import sqlalchemy as sa
import yaml
from tests.integration.engine.chat import chat, image_part, text_part
from tests.stack.scenery import free_offset, require

from farthing.domain import conventions as c
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

FARTHING = (sys.executable, "-m", "farthing.cli.main")
ENGINE = "tiny"


@pytest.fixture
def stack(tmp_path, real_engine):
    """The native stack watching one engine of our own: no replay."""
    require("prometheus")
    require("prometheus-alertmanager", "alertmanager")
    settings = {
        "engines": [{"name": ENGINE, "url": real_engine.url, "gpu": "L4"}],
        "costing": {"scrape_seconds": 1},
        "stack": {"state_dir": str(tmp_path / "state")},
    }
    (tmp_path / "farthing.yaml").write_text(yaml.safe_dump(settings))
    offset = free_offset(5_000)
    environment = {**os.environ, "FARTHING_CONFIG": str(tmp_path / "farthing.yaml")}
    command = [*FARTHING, "up", "--native", "--detach", "--port-offset", str(offset)]
    started = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield tmp_path, offset
    finally:
        subprocess.run([*FARTHING, "down"], env=environment, capture_output=True, timeout=60, check=False)


def _query(offset, expression):
    url = f"http://127.0.0.1:{9090 + offset}/api/v1/query"
    result = httpx.get(url, params={"query": expression}).json()["data"]["result"]
    return [float(series["value"][1]) for series in result]


def _awaited(offset, expression, deadline):
    """The result of a query once it has one."""
    while not (found := _query(offset, expression)):
        assert time.monotonic() < deadline, f"Prometheus has nothing for {expression}"
        time.sleep(1)
    return found


def _settled(folder):
    """Sums of the journal and the windows: nano-dollars by (account, phase, method), and tokens."""
    ledger = Ledger.open(f"sqlite:///{folder}/state/ledger.db")
    try:
        j, w = t.journal.c, t.windows.c
        keys = (j.debit, j.phase, j.method)
        lines = {row[:3]: int(row[3]) for row in ledger.select(sa.select(*keys, sa.func.sum(j.nano)).group_by(*keys))}
        sums = sa.select(sa.func.sum(w.prompt_computed), sa.func.sum(w.prompt_cached), sa.func.sum(w.engine_output))
        bill = ledger.select(sa.select(sa.func.sum(w.bill_nano)))[0][0]
        return lines, tuple(int(value or 0) for value in ledger.select(sums)[0]), int(bill or 0)
    finally:
        ledger.close()


async def _traffic(engine):
    """Text and images, one by one and together; returns what usage said: prompt and completion tokens."""
    seed = random.randrange(2**32)  # noqa: S311 - so that no other test's images are in the engine's cache
    async with httpx.AsyncClient(trust_env=False) as client:
        usages = [
            await chat(client, engine, [text_part("hello")], max_tokens=16),
            await chat(client, engine, [text_part("what is this?"), image_part(64, 48, seed)], max_tokens=24),
        ]
        burst = [
            chat(client, engine, [text_part(f"number {n}"), image_part(96, 96, seed + n)], max_tokens=32)
            for n in range(1, 9)
        ]
        usages += await asyncio.gather(*burst)
    return tuple(sum(int(str(usage[key])) for usage in usages) for key in ("prompt_tokens", "completion_tokens"))


def test_text_and_images_on_a_real_engine_are_scraped_by_prometheus_and_costed_as_estimates(stack, real_engine):
    """Every token that usage names is in Prometheus and in the books, at a cost that says it is an estimate."""
    folder, offset = stack
    deadline = time.monotonic() + 120
    while not _query(offset, f'up{{job="{c.JOB_ENGINES}",instance="{ENGINE}"}} == 1'):
        assert time.monotonic() < deadline, "Prometheus never scraped the engine"
        time.sleep(1)
    total = "sum(vllm:prompt_tokens_total) + sum(vllm:generation_tokens_total)"
    time.sleep(6)
    (before,) = _query(offset, total)
    _, tokens_before, _ = _settled(folder)

    prompt, output = asyncio.run(_traffic(real_engine))

    while True:
        (after,) = _query(offset, total)
        lines, tokens, bill = _settled(folder)
        moved = tuple(now - then for now, then in zip(tokens, tokens_before, strict=True))
        if after - before == prompt + output and (moved[0] + moved[1], moved[2]) == (prompt, output):
            break
        assert time.monotonic() < deadline, f"usage {prompt, output}, Prometheus {after - before}, books {moved}"
        time.sleep(1)
    assert lines[c.CHARGED, c.PREFILL, c.ESTIMATED] > 0
    assert lines[c.CHARGED, c.DECODE, c.ESTIMATED] > 0
    assert {method for account, _, method in lines if account == c.CHARGED} == {c.ESTIMATED}
    assert sum(lines.values()) == bill
    # Prometheus has yet to scrape what was booked a moment ago, and to evaluate its rules on it
    (spend,) = _awaited(offset, f'sum({c.METRIC_TENANT_COST}{{tenant="{c.UNKNOWN}"}}) > 0', deadline)
    assert spend > 0
    assert _awaited(offset, c.REC_GENERATION_RATE, deadline)
