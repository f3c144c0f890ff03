"""A real engine with two API servers, all records through the disk: the same totals, canaries, and a full disk."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.probe.asks import BY_KEY, KEYED_TENANT, PLAIN_KEY, TENANTS, calm_plan, text_plan
from tests.integration.probe.canary import Marks, answer_marks, search, text_marks_plan
from tests.integration.probe.chaos import hanging_intake
from tests.integration.probe.claims import check_identity, check_load, check_tokens, red_checks
from tests.integration.probe.conftest import SEED, TEXT_REQUESTS
from tests.integration.probe.counters import wait_until_idle
from tests.integration.probe.load import Seen, drive, unexpected
from tests.integration.probe.reconcile import against_clients, as_lines, doubled
from tests.integration.probe.run import Run, run
from tests.integration.probe.stand import Stand, full_disk, probed_stand
from tests.service.running import wait_until
from tests.tracing.canary_stand import keep_exports
from tests.tracing.receiver import Receiver, otlp_receiver

from farthing.domain import conventions as c

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

VLLM = "vllm"
EVERYBODY = {*TENANTS, KEYED_TENANT}
PATIENCE_SECONDS = 60.0
SOON = {"grace_seconds": 10}
"""How long the books wait for records that were dropped."""


@dataclass(frozen=True, slots=True)
class Canaries:
    """Marked requests, half of them while nobody listened."""

    marks: dict[str, bytes]
    answers: dict[str, bytes]
    seen: list[Seen]
    spooled: int
    """Batches that were found on disk."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A load while the intake hung and the disk was full."""

    seen: list[Seen]
    posts: int
    counted: int
    """Records that the probe says it dropped."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    """Takes the spans of the probe and of vLLM."""
    with otlp_receiver() as made:
        yield made


@pytest.fixture(scope="module")
def stand(
    engine_python: Path,
    engine_models: Path,
    probe_installed: Path,
    text_arguments: tuple[str, ...],
    *,
    collector: Receiver,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stand]:
    """The engine; no memory for records, so that all of them go through the spool."""
    folder, model = tmp_path_factory.mktemp("several"), engine_models / "tinyqwen"
    no_queue = {"FARTHING_PROBE_QUEUE_MIB": "0"}
    traced = {
        "OTEL_SERVICE_NAME": VLLM,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    }
    with probed_stand(
        folder,
        engine_python,
        model,
        probe_installed,
        arguments=(*text_arguments, "--otlp-traces-endpoint", collector.url),
        environment={**no_queue, **traced},
        servers=2,
        costing=SOON,
    ) as made:
        yield made


@pytest.fixture(scope="module")
def mixed(stand: Stand) -> Run:
    """The load that the engine with one API server gets as well."""
    return run(stand, text_plan("mixed", SEED, TEXT_REQUESTS))


@pytest.fixture(scope="module")
def canaries(stand: Stand) -> Canaries:
    """Marked requests with the service up, then with nobody there, so that their records are on disk."""
    marks, seen, plans = Marks(), [], [text_marks_plan(name) for name in ("heard", "unheard")]
    for (plan, planted), up in zip(plans, (True, False), strict=True):
        marks.by_name |= {f"{name}, {plan[0].tag}": mark for name, mark in planted.by_name.items()}
        if not up:
            stand.serve.kill()
        seen += asyncio.run(drive(stand.engine.url, plan))
        wait_until_idle(stand.engine.url)
        if up:
            stand.wait_recorded("heard", len(plan))
    asyncio.run(asyncio.sleep(2.5))  # a record is encoded, and so put on disk, within a second or two
    spooled = stand.keep_spool()
    stand.serve.start()
    stand.serve.wait_ready()
    stand.wait_recorded("unheard", len(plans[1][0]))
    stand.keep("canaries")
    return Canaries(marks.by_name, answer_marks(seen).by_name, seen, spooled)


@pytest.fixture(scope="module")
def dropped(stand: Stand, mixed: Run, canaries: Canaries) -> Dropped:
    """The intake hangs and the disk is full; both are well again afterwards, and what is left has arrived."""
    port = int(stand.serve.url.rpartition(":")[2])
    before = stand.probe_metric("dropped_total")
    stand.serve.kill()
    with hanging_intake(port) as posts, full_disk(stand):
        seen = asyncio.run(drive(stand.engine.url, calm_plan("dropped", SEED, 60), 4))
        # a few records may wait for a body of their own; what is older has to go
        wait_until(lambda: stand.probe_metric("dropped_total") > before, PATIENCE_SECONDS, "the first drop")
    stand.serve.start()
    stand.serve.wait_ready()
    stand.wait_delivered()
    wait_until_idle(stand.engine.url)
    counted = stand.probe_metric("dropped_total") - before
    wait_until(lambda: stand.lost() >= counted, PATIENCE_SECONDS, "the service's notice of what is missing")
    return Dropped(seen, len(posts), counted)


@pytest.fixture(scope="module")
def books(stand: Stand, dropped: Dropped) -> dict[str, Any]:
    """The closed books of everything above."""
    return stand.close()


def test_every_request_is_recorded_once_as_its_client_saw_it(mixed: Run):
    """Both processes take part, and no request is recorded by both."""
    check_load(mixed)
    shares = Counter(record["proc"] for record in mixed.records)
    assert set(shares) == {0, 1}
    assert min(shares.values()) > TEXT_REQUESTS // 10


def test_the_totals_are_those_of_one_server(mixed: Run):
    """The plan fixes requests, prompts and most outputs; the engine's counters fix the rest."""
    check_tokens(mixed)
    planned = [item.ask for item in mixed.seen if item.ask.outcome == "finished"]
    tags = {ask.tag for ask in planned}
    finished = [record for record in mixed.records if record.get("workload") in tags]
    assert sum(len(record["sequences"]) for record in finished) == sum(ask.sequences for ask in planned)
    exact = {ask.tag: ask.output_tokens for ask in planned if ask.output_tokens is not None}
    claimed = {r["workload"]: sum(s["output_tokens"] for s in r["sequences"]) for r in finished}
    assert {tag: claimed[tag] for tag in exact} == exact


def test_no_content_is_kept_anywhere(stand: Stand, collector: Receiver, canaries: Canaries, books: dict[str, Any]):
    """Prompts, tool arguments, stop strings, users, keys and answers: in no record, span, file, log or metric."""
    assert unexpected(canaries.seen) == []
    assert canaries.spooled > 0, "nothing was on disk to be searched"
    assert len(canaries.answers) >= 10
    assert {c.SPAN_SERVICE, VLLM} <= {span.resource[c.RESOURCE_SERVICE] for span in collector.spans}
    keep_exports(stand.folder, collector)
    keys = {"key of everyone else": PLAIN_KEY.encode(), "key of hooli": BY_KEY.encode()}
    keys |= {f"key: {name}": value.encode() for name, value in stand.secrets.items()}
    marks = {**canaries.marks, **canaries.answers, **keys}
    found = search(marks, stand.kept_files())
    # vLLM itself writes into its log which model it was asked for in vain
    assert [f for f in found if not (f.mark.startswith("unknown model") and f.place == "engine.log")] == []


def test_a_mark_in_any_of_those_places_would_have_been_found(stand: Stand, canaries: Canaries, books: dict[str, Any]):
    """Every place holds the names that it may hold, and the search sees them there."""
    allowed = {"tenant": TENANTS[0].encode(), "tag": b"unheard-0000"}
    where = {found.place for found in search(allowed, stand.kept_files())}
    assert {"ledger.db, records", "ledger.db, requests", "ledger.db, journal", "metrics", "snapshot"} <= where
    assert any(place.endswith("usage.jsonl.gz, unpacked") for place in where)


def test_on_a_full_disk_nothing_is_lost_but_what_was_counted(stand: Stand, dropped: Dropped, books: dict[str, Any]):
    """Clients are served as ever; what is missing among the numbers is what the probe said it had dropped."""
    assert unexpected(dropped.seen) == []
    assert dropped.posts > 0
    assert dropped.counted > 0, "neither memory nor disk had room, yet nothing was dropped"
    numbers: defaultdict[int, set[int]] = defaultdict(set)
    with stand.ledger() as ledger:
        for _, raw in ledger.records_after(0, 10**6, done_id=0):
            numbers[raw.key.process].add(raw.key.sequence)
        (boot,) = ledger.boots()
    missing = sum(max(known) + 1 - len(known) for known in numbers.values())
    assert missing == dropped.counted
    assert boot.lost == dropped.counted
    records = stand.usage_records("dropped")
    assert doubled(records) == []
    arrived = {record["workload"] for record in records}
    kept = [item for item in dropped.seen if item.ask.tag in arrived]
    differences = against_clients(kept, records)
    assert not differences, as_lines(differences)


def test_what_was_dropped_turns_a_check_red_and_breaks_no_sum(stand: Stand, books: dict[str, Any]):
    """The identity holds, and says that records are missing."""
    check_identity(stand, books, EVERYBODY)
    assert c.CHECK_ARRIVED in red_checks(books)
