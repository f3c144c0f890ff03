"""A real engine with a vision model: pictures reconcile, and nothing of them is kept."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.probe.asks import KEYED_TENANT, TENANTS, vision_plan
from tests.integration.probe.canary import answer_marks, picture_plan, search
from tests.integration.probe.claims import booked_tokens, check_identity, check_load, check_tokens, red_checks
from tests.integration.probe.conftest import SEED, VISION_REQUESTS
from tests.integration.probe.load import Seen, drive, unexpected
from tests.integration.probe.run import Run, run
from tests.integration.probe.stand import Stand, probed_stand

from farthing.domain import conventions as c

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

IMAGE_TOKENS, TOLD_IMAGE_TOKENS = 16, 19
"""What the tiny model's encoder makes of a picture, and what clients are told: with the tokens that frame it."""


@dataclass(frozen=True, slots=True)
class Canaries:
    """Marked pictures."""

    marks: dict[str, bytes]
    seen: list[Seen]


@pytest.fixture(scope="module")
def stand(
    engine_python: Path,
    engine_models: Path,
    probe_installed: Path,
    vision_arguments: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stand]:
    """The engine."""
    folder, model = tmp_path_factory.mktemp("pictures"), engine_models / "tinysmolvlm"
    with probed_stand(folder, engine_python, model, probe_installed, arguments=vision_arguments) as made:
        yield made


@pytest.fixture(scope="module")
def mixed(stand: Stand) -> Run:
    """The mixed load."""
    return run(stand, vision_plan("vision", SEED, VISION_REQUESTS))


@pytest.fixture(scope="module")
def canaries(stand: Stand) -> Canaries:
    """Marked pictures."""
    plan, marks = picture_plan("pictures")
    seen = asyncio.run(drive(stand.engine.url, plan))
    stand.wait_recorded("pictures", len(plan))
    stand.keep("pictures")
    return Canaries({**marks.by_name, **answer_marks(seen).by_name}, seen)


@pytest.fixture(scope="module")
def books(stand: Stand, mixed: Run, canaries: Canaries) -> dict[str, Any]:
    """The closed books of both loads."""
    return stand.close()


def test_every_request_is_recorded_once_as_its_client_saw_it(mixed: Run):
    """A hundred requests with no, one or two pictures."""
    check_load(mixed)


def test_the_records_add_up_to_the_engines_counters_without_a_remainder(mixed: Run):
    """Of finished and of aborted requests, pictures included."""
    check_tokens(mixed)


def test_image_tokens_are_those_of_the_pictures_sent(mixed: Run):
    """They share the cost of encoding, so one picture is worth what another is, whether its client was told or not."""
    worth: defaultdict[float, list[str]] = defaultdict(list)
    by_tag = {record.get("workload"): record for record in mixed.records}
    for item in mixed.seen:
        pictures = str(item.ask.body).count("data:image/png")
        told = by_tag[item.ask.tag].get("image_tokens", 0)
        if item.ask.outcome == "finished" and pictures:
            worth[told / pictures].append(f"{item.ask.tag} {item.ask.recipe}")
        elif item.ask.outcome != "aborted":
            assert told == 0
    assert set(worth) == {IMAGE_TOKENS}, worth
    told = {item.told.image for item in mixed.seen if item.told is not None and item.told.image}
    assert told
    assert all(image % TOLD_IMAGE_TOKENS == 0 for image in told), told


def test_nothing_of_a_picture_is_kept_anywhere(stand: Stand, canaries: Canaries, books: dict[str, Any]):
    """Neither its text chunk, nor its pixels, nor its file in base64, nor what the model said to it."""
    assert unexpected(canaries.seen) == []
    assert any("picture" in name for name in canaries.marks)
    assert search(canaries.marks, stand.kept_files()) == []


def test_the_ledger_holds_the_engines_tokens(stand: Stand, mixed: Run, books: dict[str, Any]):
    """The rows that reports are made of, like the records that they were made from."""
    assert booked_tokens(stand, mixed) == {"computed": 0, "cached": 0, "output": 0}


def test_tenants_are_charged_what_the_engine_cost_and_pictures_are_a_phase_of_their_own(
    stand: Stand, books: dict[str, Any]
):
    """The identity of the whole session."""
    check_identity(stand, books, {*TENANTS, KEYED_TENANT})
    assert next(line["nano"] for line in books["lines"] if line["account"] == "vision") > 0
    # how long a step takes on cores that others use as well is nobody's to predict
    assert {name: detail for name, detail in red_checks(books).items() if name != c.CHECK_FIT_ERROR} == {}
