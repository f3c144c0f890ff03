"""What the RAG example knows of costs, whatever the service does; its module needs nothing but the standard library."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from tests.service.running import served

SECRET = "the patient's name is Canary"
PHASES = [{"phase": "prefill", "nano": 300}, {"phase": "decode", "nano": 1_000}]
SETTLED = {"request_id": "r/1", "state": "settled", "estimate_nano": 1_200, "cost_nano": 1_300, "phases": PHASES}
OPEN = {**SETTLED, "state": "in progress", "cost_nano": 300, "phases": PHASES[:1]}


@pytest.fixture(scope="module")
def costs() -> Iterator[Any]:
    """The example's module."""
    spec = importlib.util.spec_from_file_location("example_costs", Path(__file__).parents[2] / "examples/rag/costs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "example_costs", module)  # a dataclass looks its own up
        spec.loader.exec_module(module)
        yield module


class Service:
    """Answers as it is told."""

    def __init__(self) -> None:
        self.answer: Response = Response()
        self.holds_seconds = 0.0
        self.asked: list[str] = []

    async def trace(self, request: Request) -> Response:
        """The one endpoint."""
        self.asked.append(request.path_params["name"])
        await asyncio.sleep(self.holds_seconds)
        return self.answer


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[Service, str]]:
    """A service and its address."""
    made = Service()
    with served(Starlette(routes=[Route("/api/v1/trace/{name:path}", made.trace)])) as url:
        yield made, url


def test_a_cost_is_settled_or_it_is_not_known_yet(costs: Any, service: tuple[Service, str]):
    """What an open window has so far is no cost, and neither is the 0 of a request that nobody prices."""
    world, url = service
    farthing = costs.Farthing(url)
    world.answer = JSONResponse({"requests": [OPEN]})
    assert farthing.cost("r/1") == costs.Cost(1_200, None, {"prefill": 300})
    world.answer = JSONResponse({"requests": [{**SETTLED, "request_id": "another"}, SETTLED]})
    assert farthing.cost("r/1") == costs.Cost(1_200, 1_300, {"prefill": 300, "decode": 1_000})
    world.answer = JSONResponse({"requests": [{**SETTLED, "cost_nano": 0, "phases": [], "estimate_nano": None}]})
    assert farthing.cost("r/1") == costs.Cost(None, None, {})
    world.answer = JSONResponse({"requests": []})
    assert farthing.cost("r/1") is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (PlainTextResponse(SECRET, 429), "HTTP 429"),
        (PlainTextResponse(SECRET, 401), "HTTP 401"),
        (PlainTextResponse(SECRET), "JSONDecodeError"),
        (JSONResponse({SECRET: []}), "KeyError"),
        (JSONResponse({"requests": [{"request_id": "r/1"}]}), "KeyError"),
        (JSONResponse([SECRET]), "TypeError"),
        (JSONResponse({"requests": SECRET}), "TypeError"),
        (Response(b"\xff", media_type="application/json"), "UnicodeDecodeError"),
        (Response(b"[" * 200_000, media_type="application/json"), "RecursionError"),
        (JSONResponse({"requests": [{**SETTLED, "cost_nano": "9"}]}), "TypeError"),
        (JSONResponse({"requests": [{**SETTLED, "estimate_nano": SECRET}]}), "TypeError"),
        (JSONResponse({"requests": [{**SETTLED, "phases": [{"phase": "prefill", "nano": 0.5}]}]}), "TypeError"),
        (RedirectResponse("/api/v1/trace/elsewhere"), "HTTP 307"),
    ],
)
def test_whatever_the_service_answers_a_cost_that_it_does_not_tell_is_unknown(
    costs: Any, service: tuple[Service, str], caplog: pytest.LogCaptureFixture, answer: Response, reason: str
):
    """None and never an error; said once until it answers again, without a word of what it said."""
    world, url = service
    farthing = costs.Farthing(url, token=SECRET.replace(" ", ""))
    for _ in range(2):
        world.answer = answer
        assert [farthing.cost("r/1"), farthing.cost("r/1")] == [None, None]
        world.answer = JSONResponse({"requests": [SETTLED]})
        assert farthing.cost("r/1").settled_nano == 1_300
    assert "elsewhere" not in world.asked, "a token goes nowhere else"
    assert caplog.messages == [f"costs are unknown: Farthing does not answer ({reason})"] * 2


def test_a_service_that_is_away_or_hangs_is_not_waited_for(
    costs: Any, service: tuple[Service, str], monkeypatch: pytest.MonkeyPatch
):
    """An answer of the application is worth more than its price."""
    world, url = service
    assert costs.Farthing("http://127.0.0.1:9").cost("r/1") is None
    assert costs.Farthing("http://127.0.0.1:9").settled("r/1", time.monotonic()) is None
    monkeypatch.setattr(costs, "TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(world, "holds_seconds", 0.3)
    assert costs.Farthing(url).cost("r/1") is None
