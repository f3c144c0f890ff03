"""Trouble made on purpose arrives at a webhook as a message that people can read, and so does its end.

The tests share one stack and run in order: each leaves it as healthy as it was. Delays are printed at the end.
"""

import asyncio
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

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

from farthing.alerts.slo import BURNING_FAST, BURNING_SLOWLY
from farthing.domain import conventions as c

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

FLOOD, FLOOD_TOKENS = 40, 50
"""Clients that ask at once an engine that takes two, and for how much each."""
QUICK = 4
"""Clients that ask for a token each, once all is well."""
UNKNOWN = "an unknown amount"
"""What something costs while Farthing, which would know, does not run."""
PATIENCE_SECONDS = 300
"""For an answer: an engine that is stopped answers minutes later."""


@pytest.fixture(scope="module")
def stack(request, tmp_path_factory, engine_python, engine_models) -> Iterator[AlertStack]:
    """One stack for every kind of trouble."""
    probe = unpacked_wheel(tmp_path_factory.mktemp("probe-wheel"))
    folder = tmp_path_factory.mktemp("alerts")
    with alert_stack(folder, engine_python, engine_models / "tinysmolvlm", probe) as running:
        yield running
    plugin = request.config.pluginmanager.get_plugin
    with plugin("capturemanager").global_and_fixture_disabled():
        plugin("terminalreporter").write_line(f"\n{running.report()}")


@contextmanager
def _traffic(stack: AlertStack, at_once: int, tokens: int) -> Iterator[None]:
    """So many clients ask again and again within the block; what they have asked is answered at its end.

    A client that is refused or cut off ends them all, and its error is raised: without load a test waits in vain.
    """
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
                (await client.post(url, json=body, headers={"X-Tenant-Id": "crowd"})).raise_for_status()
                if over():
                    return

        await asyncio.gather(*(one(n) for n in range(at_once)))


def _readable(fired: Fired, summary: str, cost: str = r"\$\d") -> None:
    """The message says what ``summary`` (a pattern) says, what it costs and where to read on, and no template."""
    assert re.fullmatch(summary, fired.annotations["summary"]), fired.annotations["summary"]
    assert re.search(rf"\bcosts? {cost}", fired.annotations["description"]), fired.annotations["description"]
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


def test_a_flood_is_told_and_a_stall_that_explains_it_and_the_promise_that_both_break(stack):
    """Backlog first; when the core is stopped the stall is told and holds it back; the SLO burns; all of it ends.

    Each holds back what it explains: slow first tokens slow answers, a stall the queue and the idle GPU, a fast burn a
    slow one, which is given by hand: its windows are added up at whole five minutes.
    """
    with _traffic(stack, 1, 4):
        pass
    known = f'{c.REC_GENERATION_RATE}{{instance="{ENGINE}"}}'
    wait_for(lambda: bool(stack.prometheus.query(known)), 60, "the engine in Prometheus")
    since, caused = stack.messages, time.monotonic()
    with _traffic(stack, FLOOD, FLOOD_TOKENS):
        fired = stack.await_cause_told("queue flooded", caused, "LLMQueueBacklog", since, instance=ENGINE)
        _readable(fired, rf"{ENGINE}: \d+ requests of {MODEL} wait")

        stopped = time.monotonic()
        stack.signal_core(signal.SIGSTOP)
        try:
            stack.await_held_back("LLMEndToEndLatencyHigh", "LLMTimeToFirstTokenHigh", model=MODEL)
            fired = stack.await_cause_told("engine stalled", stopped, "LLMEngineStalled", since, instance=ENGINE)
            _readable(fired, rf"{ENGINE} has \d+ requests of {MODEL} and makes no token")
            stack.await_held_back("LLMQueueBacklog", "LLMEngineStalled", instance=ENGINE)
            stack.await_held_back("LLMGPUIdleWhileQueued", "LLMEngineStalled", model=MODEL)
            slo = {"slo": "first-token", "model": MODEL}
            fired = stack.await_cause_told("SLO broken", caused, BURNING_FAST, since, **slo)
            _readable(fired, rf"{MODEL}: first-token burns its error budget \d+\.\d times too fast")
            stack.hand_over({**fired.labels, "alertname": BURNING_SLOWLY, "severity": "warning"}, 10)
            stack.await_held_back(BURNING_SLOWLY, BURNING_FAST, **slo)
        finally:
            stack.signal_core(signal.SIGCONT)
        stack.await_message("LLMEngineStalled", "resolved", since, instance=ENGINE)
        for held_back in ("LLMEndToEndLatencyHigh", BURNING_SLOWLY):
            assert not stack.told(held_back, since=since, model=MODEL)
    with _traffic(stack, QUICK, 1):
        stack.await_message("LLMQueueBacklog", "resolved", since, instance=ENGINE)
        stack.await_message(BURNING_FAST, "resolved", since, **slo)


def test_a_budget_that_is_spent_is_told(stack):
    """A tenant of the recording has spent more than it may; no threshold of the same budget is told beside it."""
    fired = stack.await_cause_told("budget passed", stack.sent_at, "FarthingBudgetSpent", 0, tenant=BUDGET_TENANT)
    _readable(fired, rf"The budget of tenant {BUDGET_TENANT} is spent: [\d.e+]+%")
    assert not stack.told("FarthingBudgetThresholdPassed", tenant=BUDGET_TENANT)


def test_a_probe_that_cannot_deliver_is_told_until_it_can(stack):
    """Farthing is killed: its own page arrives, and what the probe keeps meanwhile; both end when it is back.

    The budget is raised meanwhile, so that its alert, which ended with the series, does not come back.
    """
    since, caused = stack.messages, time.monotonic()
    stack.serve.kill()
    with _traffic(stack, 4, 4):
        pass
    fired = stack.await_cause_told("Farthing killed", caused, "FarthingTargetDown", since, instance=c.JOB_FARTHING)
    _readable(fired, r"farthing target farthing does not answer its scrapes", UNKNOWN)
    fired = stack.await_cause_told("spool filling", caused, "FarthingProbeSpooling", since, instance=ENGINE)
    _readable(fired, rf"The probe in {ENGINE} has [\d.]+(ki)?B that it cannot deliver", UNKNOWN)

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
