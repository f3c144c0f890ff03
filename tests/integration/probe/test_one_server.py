"""A real engine with one API server: a mixed load of text reconciles, aborts are known, and nothing gets lost.

Loads run once, in fixtures; the tests look at what came of them. The engine is ended by the last fixture, which
needs all the others.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.probe.aborts import SHOWN, Abort, measure_aborts, report
from tests.integration.probe.asks import KEYED_TENANT, TENANTS, abort_plan, calm_plan, text_plan
from tests.integration.probe.chaos import erring_intake, hanging_intake, killed_again_and_again
from tests.integration.probe.claims import booked_tokens, check_identity, check_load, check_tokens, red_checks
from tests.integration.probe.conftest import SEED, TEXT_REQUESTS
from tests.integration.probe.counters import wait_until_idle
from tests.integration.probe.load import Seen, drive, unexpected
from tests.integration.probe.reconcile import against_clients, against_engine, as_lines, doubled, uncertain
from tests.integration.probe.run import Run, marks_at_rest, run
from tests.integration.probe.stand import Stand, probed_stand
from tests.service.running import wait_until

from farthing.domain import conventions as c

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

ABORTS = 12
PATIENCE_SECONDS = 60.0
SUM_OF_ERRORS = 0.01
"""Of all tokens that aborted requests generated."""
EVERYBODY = {*TENANTS, KEYED_TENANT}


@dataclass(frozen=True, slots=True)
class Trouble:
    """A load while something is wrong with the intake."""

    seen: list[Seen]
    evidence: int
    """Kills, or posts that went wrong."""


@pytest.fixture(scope="module")
def stand(
    engine_python: Path,
    engine_models: Path,
    probe_installed: Path,
    text_arguments: tuple[str, ...],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stand]:
    """The engine; memory holds what cannot be delivered."""
    folder, model = tmp_path_factory.mktemp("one"), engine_models / "tinyqwen"
    with probed_stand(folder, engine_python, model, probe_installed, arguments=text_arguments) as made:
        yield made


@pytest.fixture(scope="module")
def mixed(stand: Stand) -> Run:
    """The mixed load."""
    return run(stand, text_plan("mixed", SEED, TEXT_REQUESTS))


@pytest.fixture(scope="module")
def aborts(stand: Stand) -> tuple[list[Abort], list[Abort]]:
    """Aborts of clients that were told nothing, and the same of clients that were told with every chunk."""
    silent, told = (abort_plan(name, SEED, ABORTS, told=name == "told") for name in ("silent", "told"))
    return measure_aborts(stand, silent), measure_aborts(stand, told)


@pytest.fixture(scope="module")
def trouble(stand: Stand) -> dict[str, Trouble]:
    """Three loads during which the service is killed, errs and hangs; it is back, and has everything, after them."""
    port = int(stand.serve.url.rpartition(":")[2])

    def send(name: str, size: int, concurrency: int) -> list[Seen]:
        return asyncio.run(drive(stand.engine.url, calm_plan(name, SEED, size), concurrency))

    with killed_again_and_again(stand.serve) as kills:
        seen = send("kills", 90, 4)
    found = {"kills": Trouble(seen, kills.number)}
    stand.serve.kill()
    for name, intake, faults in (("errors", erring_intake, 2), ("hangs", hanging_intake, 1)):
        with intake(port) as posts:
            seen = send(name, 40, 4)
            # between two tries the probe waits longer and longer
            wait_until(
                lambda posts=posts, faults=faults: len(posts) >= faults, PATIENCE_SECONDS, f"{name} of the intake"
            )
            found[name] = Trouble(seen, len(posts))
    stand.serve.start()
    stand.serve.wait_ready()
    stand.wait_delivered()
    wait_until_idle(stand.engine.url)
    marks_at_rest(stand)
    return found


@pytest.fixture(scope="module")
def books(stand: Stand, mixed: Run, aborts: object, trouble: object) -> dict[str, Any]:
    """The closed books of everything above."""
    return stand.close()


def test_every_request_is_recorded_once_as_its_client_saw_it(mixed: Run):
    """Four hundred requests of five tenants: outcome, tenant, model, ids and tokens, whatever their route."""
    check_load(mixed)


def test_the_records_add_up_to_the_engines_counters_without_a_remainder(mixed: Run):
    """Computed, cached and generated tokens of finished and of aborted requests, and first tokens."""
    check_tokens(mixed)
    assert mixed.counted.cached > 0
    aborted = [record for record in mixed.records if record["outcome"] == "aborted"]
    assert len(aborted) > len(uncertain(mixed.records)) > 0, "aborts before and after the first token"


def test_a_lost_a_doubled_and_a_misbooked_record_are_found(mixed: Run):
    """The comparison is worth something: each of three mistakes shows."""
    finished = next(i for i, record in enumerate(mixed.records) if record["outcome"] == "finished")
    lost = [*mixed.records[:finished], *mixed.records[finished + 1 :]]
    twice = [*mixed.records, mixed.records[finished]]
    elsewhere = [*lost, {**mixed.records[finished], "tenant": "somebody-else"}]
    assert [d.field for d in against_clients(mixed.seen, lost)] == ["records"]
    assert [d.field for d in against_clients(mixed.seen, twice)] == ["records"]
    assert [d.field for d in against_clients(mixed.seen, elsewhere)] == ["tenant"]
    assert against_engine(lost, mixed.counted)
    assert against_engine(twice, mixed.counted)


def test_what_an_aborted_request_generated_is_known(
    aborts: tuple[list[Abort], list[Abort]], request: pytest.FixtureRequest
):
    """Claim beside counter, abort by abort; without continuous usage as well as with it."""
    silent, told = aborts
    table = report(silent, told)
    request.config.stash[SHOWN] = table
    for run_of in (silent, told):
        generated = sum(abort.generated for abort in run_of)
        assert generated > 0
        assert abs(sum(abort.error for abort in run_of)) <= SUM_OF_ERRORS * generated, table
    for abort in told:
        assert abort.told is None or abort.told <= abort.claimed, f"{abort}: its client had more"


@pytest.mark.parametrize("name", ["kills", "errors", "hangs"])
def test_trouble_at_the_intake_is_nobodys_trouble_but_its_own(stand: Stand, trouble: dict[str, Trouble], name: str):
    """Every client is served as ever, and afterwards every request is recorded once, as its client saw it."""
    happened = trouble[name]
    assert happened.evidence > 0, "nothing went wrong, so nothing is proven"
    assert unexpected(happened.seen) == []
    records = stand.usage_records(name)
    assert doubled(records) == []
    differences = against_clients(happened.seen, records)
    assert not differences, as_lines(differences)


def test_no_sequence_is_missing_and_nothing_was_dropped(stand: Stand, books: dict[str, Any]):
    """Records of one process are numbered from 0 without gaps, through every kill, error and hang."""
    with stand.ledger() as ledger:
        raw = [record for _, record in ledger.records_after(0, 10**6, done_id=0)]
        (boot,) = ledger.boots()
    numbers = sorted(record.key.sequence for record in raw)
    assert numbers == list(range(len(numbers)))
    assert boot.lost == 0
    assert json.loads(raw[-1].line).get("event") == "stop"


def test_the_ledger_holds_the_engines_tokens(stand: Stand, mixed: Run, books: dict[str, Any]):
    """The rows that reports are made of, like the records that they were made from."""
    assert booked_tokens(stand, mixed) == {"computed": 0, "cached": 0, "output": 0}


def test_tenants_are_charged_what_the_engine_cost(stand: Stand, books: dict[str, Any]):
    """The identity of the whole session, chaos and aborts included."""
    check_identity(stand, books, EVERYBODY)
    # how long a step takes on cores that others use as well is nobody's to predict
    assert {name: detail for name, detail in red_checks(books).items() if name != c.CHECK_FIT_ERROR} == {}
