"""Trouble made on purpose arrives at a webhook as a message that people can read, and so does its end.

The tests share one stack and run in order: each leaves it as healthy as it was. Delays are printed at the end.
"""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest
from tests.alerts.real_parts import wait_for
from tests.integration.alert_stack import (
    BUDGET_TENANT,
    ENGINE,
    RECORDED,
    AlertStack,
    Fired,
    alert_stack,
    write_settings,
)
from tests.integration.engine.real_engine import MODEL
from tests.integration.probe.stand import unpacked_wheel

from farthing.domain import conventions as c

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def stack(request, tmp_path_factory, engine_python, engine_models) -> Iterator[AlertStack]:
    """One stack for every kind of trouble."""
    probe = unpacked_wheel(tmp_path_factory.mktemp("probe-wheel"))
    folder = tmp_path_factory.mktemp("alerts")
    with alert_stack(folder, engine_python, engine_models / "tinysmolvlm", probe) as running:
        yield running
    request.config.pluginmanager.get_plugin("terminalreporter").write_line(f"\n{running.report()}")


@contextmanager
def _traffic(stack: AlertStack, at_once: int, tokens: int) -> Iterator[None]:
    """So many clients ask again and again within the block; nobody waits for an answer at its end."""
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(asyncio.run, _ask(stack, at_once, tokens, over.is_set))
        try:
            yield
        finally:
            over.set()
        answered.result()


async def _ask(stack: AlertStack, at_once: int, tokens: int, over: Callable[[], bool]) -> None:
    url = f"{stack.engine.url}/v1/completions"
    # each ask has a connection of its own: one that is kept may be closed by the engine as the next ask leaves
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=PATIENCE_SECONDS) as client:

        async def one(n: int) -> None:
            body = {"model": MODEL, "prompt": f"number {n}", "max_tokens": tokens, "ignore_eos": True}
            while True:
                with suppress(httpx.TransportError):
                    (await client.post(url, json=body, headers={"X-Tenant-Id": "crowd"})).raise_for_status()
                if over():
                    return

        await asyncio.gather(*(one(n) for n in range(at_once)))


def _readable(fired: Fired, summary: str) -> None:
    """The message says what ``summary`` (a pattern) says, what it costs and where to read on, and no template."""
    assert re.fullmatch(summary, fired.annotations["summary"]), fired.annotations["summary"]
    assert re.search(r"\bcosts? (\$\d|an unknown amount)", fired.annotations["description"])
    assert fired.annotations["runbook_url"].endswith(f"/alerts/runbooks/{fired.labels['alertname']}.md")
    text = " ".join(fired.annotations.values())
    assert "{{" not in text
    assert "<error" not in text
    assert "<no value>" not in text


def test_work_that_no_request_explains_is_told_and_its_end_too(stack):
    """A recorded H100 whose usage records are withheld for a while; work that is explained outweighs it later."""
    stack.send_recording(120, usage=False)
    known = f'{c.METRIC_UNATTRIBUTED}{{engine="{RECORDED}"}} > 0'
    wait_for(lambda: bool(stack.prometheus.query(known)), 60, "the first unattributed cost in Prometheus")
    since, caused = stack.messages, time.monotonic()
    stack.send_recording(140, usage=False)
    fired = stack.await_cause_told("unattributed cost", caused, "FarthingUnattributedHigh", since, engine=RECORDED)
    _readable(fired, rf"{RECORDED}: no request explains \d+(\.\d+)?% of busy cost")
    stack.send_recording(300, usage=True)
    stack.await_message("FarthingUnattributedHigh", "resolved", since, engine=RECORDED)


def test_a_budget_that_is_spent_is_told(stack):
    """A tenant of the recording has spent more than it may; no threshold of the same budget is told beside it."""
    fired = stack.await_cause_told("budget passed", stack.sent_at, "FarthingBudgetSpent", 0, tenant=BUDGET_TENANT)
    _readable(fired, rf"The budget of tenant {BUDGET_TENANT} is spent: [\d.e+]+%")
    assert not stack.told("FarthingBudgetThresholdPassed", tenant=BUDGET_TENANT)


def test_a_probe_that_cannot_deliver_is_told_until_it_can(stack):
    """Farthing is killed: its own page arrives, and what the probe keeps meanwhile; both end when it is back.

    The budget is raised meanwhile, so that its alert, which ended with the series, does not come back.
    """
    with _traffic(stack, 1, 4):
        pass
    known = f'{c.REC_GENERATION_RATE}{{instance="{ENGINE}"}}'
    wait_for(lambda: bool(stack.prometheus.query(known)), 60, "the engine in Prometheus")
    since, caused = stack.messages, time.monotonic()
    stack.serve.kill()
    with _traffic(stack, 4, 4):
        pass
    fired = stack.await_cause_told("Farthing killed", caused, "FarthingTargetDown", since, instance=c.JOB_FARTHING)
    _readable(fired, r"farthing target farthing does not answer its scrapes")
    fired = stack.await_cause_told("spool filling", caused, "FarthingProbeSpooling", since, instance=ENGINE)
    _readable(fired, rf"The probe in {ENGINE} has [\d.]+(ki)?B that it cannot deliver")

    stack.settings["budgets"][0]["monthly_usd"] = 1_000
    write_settings(stack.folder, stack.settings)
    stack.serve.start()
    for alert, labels in (
        ("FarthingTargetDown", {"instance": c.JOB_FARTHING}),
        ("FarthingProbeSpooling", {"instance": ENGINE}),
        ("FarthingBudgetSpent", {"tenant": BUDGET_TENANT}),
    ):
        stack.await_message(alert, "resolved", since, **labels)
    spent = f'{c.METRIC_BUDGET_RATIO}{{tenant="{BUDGET_TENANT}"}}'
    wait_for(lambda: bool(stack.prometheus.query(spent)), 60, "the raised budget in Prometheus")
    assert not stack.prometheus.query(f"{spent} >= 1")
    assert not stack.told("FarthingBudgetSpent", since=since, tenant=BUDGET_TENANT)


def test_an_engine_that_is_killed_is_one_page_and_no_warning_beside_it(stack):
    """Farthing's own failing scrape of the engine is held back; the page ends when the engine is back."""
    since, caused = stack.messages, time.monotonic()
    stack.kill_engine()
    fired = stack.await_cause_told("engine killed", caused, "FarthingTargetDown", since, instance=ENGINE)
    _readable(fired, rf"llm-engines target {ENGINE} does not answer its scrapes")
    stack.await_held_back("FarthingScrapeFailing", "FarthingTargetDown", instance=ENGINE)
    assert not stack.told("FarthingScrapeFailing", since=since, instance=ENGINE)
    stack.revive_engine()
    stack.await_message("FarthingTargetDown", "resolved", since, instance=ENGINE)
