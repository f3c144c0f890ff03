"""The world that every panel is asked of, made once for all of them, and the live engine beside it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.dashboards.asking import all_expressions, names_in
from tests.dashboards.grafana import Board, Span, Store, boards
from tests.dashboards.live_part import live_world
from tests.dashboards.world import RANGE_SECONDS, SCRAPE_SECONDS, World, build, world_settings
from tests.integration.engine.real_engine import engine_models, engine_python, running_engine

from farthing.alerts.render import rule_groups
from farthing.dashboards.render import render_dashboards

__all__ = ["engine_models", "engine_python"]


@dataclass(frozen=True)
class PanelWorld:
    """The world with a Prometheus that is running."""

    world: World
    url: str
    boards: list[Board]
    client: httpx.Client

    def store(self, end: float | None = None) -> Store:
        """The data source for the six hours until now, or until another moment."""
        until = time.time() if end is None else end
        return Store(self.url, Span(until - RANGE_SECONDS, until, SCRAPE_SECONDS), self.client)


ROOM = Path(__file__).parent
_RUNNING = pytest.StashKey[ExitStack]()
"""What ends the world."""


@pytest.fixture(scope="session")
def panel_world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, engine_python, engine_models
) -> Iterator[PanelWorld]:
    """Six hours of the fleet and a live engine, in one Prometheus; both are gone when other tests need the machine."""
    settings = world_settings()
    found = boards(render_dashboards(settings))
    expressions = all_expressions(found)
    rules = [rule.expr for group in rule_groups(settings) for rule in group.rules]
    world = build(tmp_path_factory.mktemp("world"), expressions, wanted=names_in([*expressions, *rules]))
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    with ExitStack() as stack:
        live = stack.enter_context(running_engine(engine_python, engine_models / "tinysmolvlm", log))
        server = stack.enter_context(live_world(world, live))
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=60))
        request.config.stash[_RUNNING] = stack
        yield PanelWorld(world, server.url, found, client)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the world after the last test of this folder: a session's fixtures would outlive it."""
    if _RUNNING in item.config.stash and not (nextitem and nextitem.path.is_relative_to(ROOM)):
        item.config.stash[_RUNNING].close()
