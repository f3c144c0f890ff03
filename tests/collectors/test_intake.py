"""Intake: what it answers is true of what is stored, and nothing that is posted breaks it."""

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from tests.collectors.wire_records import Pair, pairs

from farthing.collectors import intake as intake_module
from farthing.collectors.intake import IntakeCounts, IntakeLimits, intake_routes
from farthing.collectors.wire import device_line
from farthing.domain import conventions as c
from farthing.domain.errors import LedgerError
from farthing.domain.gpu import DeviceSamples
from farthing.domain.records import RawRecord, RecordKey, mirrored
from farthing.service.access import Access, Guard
from farthing_probe import wire

LIMIT = 64 * 1024
LIMITS = IntakeLimits(LIMIT)
TOKEN = "crown-and-farthing"


class MemoryStore:
    """A store that keeps records by key; it breaks on demand and notices being called twice at a time."""

    def __init__(self) -> None:
        self.stored: dict[RecordKey, RawRecord] = {}
        self.broken: Exception | None = None
        self.threads: set[int] = set()
        self._busy = threading.Lock()

    def sequences(self) -> list[int]:
        """Of the records, without what is kept of refused ones."""
        return sorted(record.key.sequence for record in self.stored.values() if record.kind != c.INBOX_REFUSED)

    def add_each(self, batches: Sequence[Sequence[RawRecord]]) -> list[int]:
        assert self._busy.acquire(blocking=False), "two batches are being stored at once"
        try:
            if self.broken:
                raise self.broken
            self.threads.add(threading.get_ident())
            return [self._add(batch) for batch in batches]
        finally:
            self._busy.release()

    def _add(self, records: Sequence[RawRecord]) -> int:
        before = len(self.stored)
        for record in records:
            self.stored.setdefault(record.key, record)
        return len(self.stored) - before


class Bench:
    """An intake over a memory store, and how often it said that something new came in."""

    def __init__(self, token: str | None = None, limits: IntakeLimits = LIMITS) -> None:
        self.store = MemoryStore()
        self.counts = IntakeCounts()
        self.woken = 0
        self.clock = 0.0
        self.wall_ns = 1_795_445_251_000_000_000
        self.prices: dict[str, dict[str, int]] = {}
        routes = intake_routes(
            self.store,
            limits,
            self.counts,
            self._wake,
            unit_prices=lambda boots: {boot: self.prices[boot] for boot in boots & self.prices.keys()},
            clock=lambda: self.clock,
            wall_ns=lambda: self.wall_ns,
        )
        guard = Middleware(Guard, access=Access(intake_token=token), denied=lambda _: self.counts.refuse_body())
        self.app = Starlette(routes=routes, middleware=[guard])

    def _wake(self) -> None:
        self.woken += 1

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://farthing")

    def post(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        async def one() -> httpx.Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            async with self.client() as client:
                return await client.post(path, content=body, headers=named)

        return asyncio.run(one())

    def post_gzip(self, path: str, body: bytes) -> httpx.Response:
        return self.post(path, body, content_encoding="gzip")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def usage(seq: int, **changes: Any) -> dict[str, Any]:
    record = wire.usage(
        "boot-1", 0, seq, request_id=f"r{seq}", engine_index=0, model="m", outcome="finished", status=200,
        arrived_ns=100, ended_ns=200, tenant="acme",
    )  # fmt: skip
    return {**record, **changes}


def ready(seq: int) -> dict[str, Any]:
    return wire.lifecycle("boot-1", 0, seq, at_ns=5, event="ready")


def test_records_are_stored_and_counted(bench: Bench):
    """The ordinary case, and the signal that wakes costing."""
    answer = bench.post_gzip(wire.USAGE_PATH, wire.encode([usage(1), usage(2)]))
    assert answer.status_code == 200
    told = {"unit_prices": {}, "send_every_seconds": 1}
    assert answer.json() == {"accepted": 2, "duplicate": 0, "refused": [], **told}
    assert [(r.key.sequence, r.kind, r.event_ns) for r in bench.store.stored.values()] == [
        (1, "usage", 200),
        (2, "usage", 200),
    ]
    assert bench.counts.view().records == {("usage", "accepted"): 2}
    assert bench.woken == 1


def test_plain_json_lines_are_taken_too(bench: Bench):
    """A person with curl; blank lines and carriage returns do no harm."""
    body = json.dumps(ready(1)).encode() + b"\r\n\n" + json.dumps(ready(2)).encode()
    assert bench.post(wire.WINDOWS_PATH, body).json()["accepted"] == 2
    assert bench.post(wire.WINDOWS_PATH, b"", content_encoding="identity").json()["accepted"] == 0


def test_of_many_refused_lines_all_are_counted_and_twenty_shown(bench: Bench):
    """A body that is nearly all wrong must not be remembered line by line."""
    body = wire.encode([usage(1)] + [usage(number, status=-1) for number in range(2, 52)])
    answer = bench.post_gzip(wire.USAGE_PATH, body).json()
    assert (answer["accepted"], [refused["line"] for refused in answer["refused"]]) == (1, list(range(2, 22)))
    assert bench.counts.view().records == {("usage", "accepted"): 1, ("unknown", "refused"): 50}


def test_twice_is_once(bench: Bench):
    """Delivery is at least once; a repeated batch is counted as duplicate by kind and wakes nobody."""
    counters = wire.counters("boot-1", 0, 3, at_ns=1, values={}, gauges={})
    bench.post_gzip(wire.WINDOWS_PATH, wire.encode([ready(1), counters]))
    again = bench.post_gzip(wire.WINDOWS_PATH, wire.encode([ready(1), ready(2), counters]))
    assert (again.json()["accepted"], again.json()["duplicate"]) == (1, 2)
    assert bench.counts.view().records == {
        ("lifecycle", "accepted"): 2,
        ("lifecycle", "duplicate"): 1,
        ("counters", "accepted"): 1,
        ("counters", "duplicate"): 1,
    }
    assert bench.post_gzip(wire.WINDOWS_PATH, wire.encode([counters])).json()["duplicate"] == 1
    assert bench.woken == 2


def test_a_bad_line_is_refused_by_field_and_the_rest_is_stored(bench: Bench, caplog):
    """One broken record must not cost a batch; the log names the field and no content."""
    body = wire.encode([usage(1), usage(2, prompt_tokens=-1, user="ada"), usage(3)])
    answer = bench.post_gzip(wire.USAGE_PATH, body)
    assert answer.status_code == 200
    assert answer.json()["accepted"] == 2
    assert answer.json()["refused"] == [{"line": 2, "field": "prompt_tokens", "problem": "expected int >= 0"}]
    assert bench.store.sequences() == [1, 3]
    assert bench.counts.view().records[("unknown", "refused")] == 1
    assert "prompt_tokens" in caplog.text
    assert "ada" not in caplog.text


def test_one_control_character_in_a_body_is_found(bench: Bench):
    """Most bodies have none for certain, and are not looked through line by line."""
    odd = json.dumps(usage(2, workload="a\x7fb"), ensure_ascii=False).encode()
    body = b"\n".join([json.dumps(usage(1)).encode(), odd, json.dumps(usage(3)).encode()])
    assert b"\\" not in body
    assert bench.post(wire.USAGE_PATH, body).json()["refused"] == [
        {"line": 2, "field": "workload", "problem": "holds a control character"}
    ]
    assert bench.store.sequences() == [1, 3]


def test_only_the_first_refusals_are_shown_and_all_are_counted(bench: Bench):
    """A hundred wrong lines need no hundred explanations."""
    answer = bench.post(wire.USAGE_PATH, b"nonsense\n" * 100)
    assert answer.status_code == 200
    assert [refusal["line"] for refusal in answer.json()["refused"]] == list(range(1, 21))
    assert bench.counts.view().records == {("unknown", "refused"): 100}


def test_what_is_kept_of_a_refused_record_is_its_key_and_why(bench: Bench):
    """Costing then knows that it will not come; no value of it is stored, and it stands in no other record's way."""
    bad = usage(2, prompt_tokens=-1, user="ada")
    bench.post_gzip(wire.USAGE_PATH, wire.encode([usage(1), bad]))
    kept = bench.store.stored[RecordKey("boot-1", 0, -3)]
    assert mirrored(kept.key) == RecordKey("boot-1", 0, 2)
    assert kept.kind == "refused"
    assert json.loads(kept.line) == {"kind": "refused", "field": "prompt_tokens", "problem": "expected int >= 0"}
    assert bench.woken == 1
    again = bench.post_gzip(wire.USAGE_PATH, wire.encode([bad]))
    assert (again.json()["accepted"], again.json()["duplicate"], bench.woken) == (0, 0, 1)
    assert bench.post_gzip(wire.USAGE_PATH, wire.encode([usage(2)])).json()["accepted"] == 1
    assert bench.store.sequences() == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b"[1]",
        json.dumps({**usage(1), "boot": ""}).encode(),
        json.dumps({**usage(1), "boot": "a\x00b", "status": -1}).encode(),
        json.dumps({**usage(1), "boot": "scrape:h100/m/1"}).encode(),
        json.dumps({**usage(1), "proc": -1}).encode(),
        json.dumps({**usage(1), "seq": 2**63}).encode(),
        json.dumps({**ready(1), "kind": "started"}).encode(),
    ],
)
def test_a_refused_line_that_does_not_say_whose_it_is_leaves_nothing(bench: Bench, line: bytes):
    """Nor does a start: without it nothing can be costed, so a mended one is waited for."""
    assert len(bench.post(wire.USAGE_PATH, line).json()["refused"]) == 1
    assert not bench.store.stored


def test_boots_that_farthing_scrapes_itself_are_not_taken_from_outside(bench: Bench):
    """A sender must not write into the account of another's engine."""
    answer = bench.post_gzip(wire.WINDOWS_PATH, wire.encode([{**ready(1), "boot": "scrape:h100/m/1"}]))
    assert answer.json()["refused"][0]["field"] == "boot"
    assert not bench.store.stored


def sampled(*at_ns: int, seq: int = 0) -> bytes:
    """A line of a device that was there at these moments."""
    samples = DeviceSamples(
        key=RecordKey("device:GPU-1/1", 0, seq), uuid="GPU-1", name="NVIDIA H100 80GB HBM3", host="gpu-1", index=0,
        source="nvml", method="none", at_ns=at_ns, energy_mj=(0,) * len(at_ns),
    )  # fmt: skip
    return device_line(samples)


def test_a_sample_of_the_future_is_refused_with_the_clock_to_set(bench: Bench, caplog):
    """Its device would be billed for days that have not come; what is old is taken, as a replay sends it."""
    now, five = bench.wall_ns, 300 * 10**9
    lines = [sampled(now - 10**18, seq=1), sampled(now + five, seq=2), sampled(now, now + five + 10**9, seq=3)]
    answer = bench.post(wire.WINDOWS_PATH, b"\n".join(lines)).json()
    assert (answer["accepted"], bench.store.sequences()) == (2, [1, 2])
    problem = (
        "ends 301 s ahead of Farthing's clock, and 300 s are allowed; "
        "set the clock of the host that reads the device, or that of Farthing's host"
    )
    assert answer["refused"] == [{"line": 3, "field": "at_ns", "problem": problem}]
    assert "intake refused 1 records; first: at_ns ends 301 s ahead of Farthing's clock" in caplog.text
    assert bench.counts.view().records["device", "refused"] == 1
    # a clock that is right again needs no restart of anybody, and an engine's own clock began with its host
    bench.wall_ns += 10**9
    assert bench.post(wire.WINDOWS_PATH, lines[2]).json()["accepted"] == 1
    bench.wall_ns = -(10**12)
    assert bench.post_gzip(wire.WINDOWS_PATH, wire.encode([ready(7)])).json()["accepted"] == 1


def test_the_answer_brings_unit_prices_of_the_boots_that_the_body_named(bench: Bench):
    """And of no others: a sender learns nothing of other engines."""
    bench.prices = {"boot-1": {"prefill": 12, "decode": 345}, "boot-2": {"decode": 7}}
    assert bench.post_gzip(wire.USAGE_PATH, wire.encode([usage(1)])).json()["unit_prices"] == {
        "boot-1": {"prefill": 12, "decode": 345}
    }
    again = bench.post_gzip(wire.USAGE_PATH, wire.encode([usage(1)]))
    assert again.json()["unit_prices"] == {"boot-1": {"prefill": 12, "decode": 345}}
    assert bench.post_gzip(wire.USAGE_PATH, wire.encode([usage(1, boot="boot-3")])).json()["unit_prices"] == {}
    assert bench.post(wire.USAGE_PATH, b"").json()["unit_prices"] == {}


def test_a_sender_run_wild_is_told_when_to_come_back():
    """429 with whole seconds, counted as limited; after them it is let in again."""
    bench = Bench(limits=IntakeLimits(LIMIT, bodies_per_second=0.5))
    body = json.dumps(usage(1)).encode()
    # ten seconds' worth at once, and one more
    assert [bench.post(wire.USAGE_PATH, body).status_code for _ in range(6)] == [200] * 6
    told = bench.post(wire.USAGE_PATH, body)
    assert (told.status_code, told.headers["retry-after"]) == (429, "2")
    assert told.json() == {"error": "too much at a time; send it again in 2 s"}
    assert bench.counts.view().records["body", "limited"] == 1
    bench.clock += 2
    assert bench.post(wire.USAGE_PATH, body).status_code == 200
    assert bench.post(wire.USAGE_PATH, body).status_code == 429


def test_bytes_are_counted_as_they_unfold_and_for_all_senders_together():
    """A body of any size passes and is paid for afterwards: what a sender must send never becomes unsendable."""
    bench = Bench(limits=IntakeLimits(LIMIT, bytes_per_second=LIMIT / 20))
    large = gzip.compress(b" " * LIMIT)
    assert bench.post_gzip(wire.USAGE_PATH, large).status_code == 200
    told = bench.post_gzip(wire.USAGE_PATH, large)
    assert (told.status_code, told.headers["retry-after"]) == (429, "10")
    bench.clock += 10.1
    assert bench.post_gzip(wire.USAGE_PATH, gzip.compress(b" " * (LIMIT + 1))).status_code == 413
    assert bench.post_gzip(wire.USAGE_PATH, large).status_code == 429


def test_a_wrong_token_costs_its_sender_nothing_of_the_limits():
    """Who may not enter cannot use up what others share an address with."""
    bench = Bench(TOKEN, limits=IntakeLimits(LIMIT, bodies_per_second=0.1))
    assert [bench.post(wire.USAGE_PATH, b"").status_code for _ in range(20)] == [401] * 20
    assert bench.post(wire.USAGE_PATH, b"", authorization=f"Bearer {TOKEN}").status_code == 200


@pytest.mark.parametrize(
    ("path", "record", "problem"),
    [
        (wire.WINDOWS_PATH, usage(1), "usage records belong at /v1/usage"),
        (wire.USAGE_PATH, ready(1), "lifecycle records belong at /v1/windows"),
    ],
)
def test_a_record_at_the_wrong_path_is_told_the_right_one(bench: Bench, path, record, problem):
    """Each path takes its kinds."""
    answer = bench.post_gzip(path, wire.encode([record]))
    assert answer.json()["refused"] == [{"line": 1, "field": "kind", "problem": problem}]
    assert bench.counts.view().records == {(record["kind"], "refused"): 1}
    assert not bench.store.stored


@pytest.mark.parametrize("cut", [0, 1, 5, 20, -9, -1])
def test_a_truncated_gzip_body_stores_nothing(bench: Bench, cut: int):
    """Half a batch is no batch; the sender repeats it."""
    answer = bench.post_gzip(wire.USAGE_PATH, wire.encode([usage(n) for n in range(50)])[:cut])
    assert answer.status_code == 400
    assert answer.json() == {"error": "the gzip body is truncated; nothing was stored"}
    assert not bench.store.stored
    assert bench.counts.view().records == {("body", "refused"): 1}


@pytest.mark.parametrize(
    ("body", "encoding", "problem"),
    [
        (b"not gzip", "gzip", "the body is not valid gzip; nothing was stored"),
        (wire.encode([usage(1)])[:-8] + b"\0" * 8, "gzip", "the body is not valid gzip; nothing was stored"),
        (wire.encode([usage(1)]) + b"more", "gzip", "bytes follow the gzip body; send one gzip member"),
        (b"{}", "br", "the content encoding is not supported; send gzip or plain JSON lines"),
    ],
)
def test_an_unreadable_body_is_one_clear_line(bench: Bench, body, encoding, problem):
    """400 for the body as a whole, with nothing stored."""
    answer = bench.post(wire.USAGE_PATH, body, content_encoding=encoding)
    assert (answer.status_code, answer.json()) == (400, {"error": problem})
    assert not bench.store.stored


def test_a_body_over_the_limit_is_refused_in_every_form(bench: Bench):
    """As it streams in and as it unfolds: a gzip bomb is never held in memory."""
    line = json.dumps(usage(1)).encode() + b"\n"
    assert bench.post(wire.USAGE_PATH, line * (LIMIT // len(line) + 1)).status_code == 413
    bomb = gzip.compress(b" " * (200 * LIMIT))
    assert len(bomb) < LIMIT
    refused = bench.post_gzip(wire.USAGE_PATH, bomb)
    assert refused.status_code == 413
    assert "when decompressed" in refused.json()["error"]
    fits = gzip.compress(line + b" " * (LIMIT - len(line)))
    assert bench.post_gzip(wire.USAGE_PATH, fits).json()["accepted"] == 1


def test_more_lines_than_any_sender_sends_are_refused(bench: Bench, monkeypatch):
    """A body of line ends alone would become a list a hundred times its size."""
    monkeypatch.setattr(intake_module, "MAX_LINES", 10)
    assert bench.post(wire.USAGE_PATH, b"\n" * 11).status_code == 413


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": TOKEN},
    ],
)
def test_without_the_token_nothing_is_read(headers):
    """A missing or wrong bearer token is 401, and says which scheme to use."""
    bench = Bench(TOKEN)
    answer = bench.post(wire.USAGE_PATH, b"whatever", **headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].partition(" ")[0] == "Bearer"
    assert not bench.store.stored
    assert bench.counts.view().records == {("body", "refused"): 1}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_token_records_are_taken(scheme):
    """The scheme's case does not matter (RFC 9110, 11.1)."""
    answer = Bench(TOKEN).post(wire.USAGE_PATH, json.dumps(usage(1)).encode(), authorization=f"{scheme} {TOKEN}")
    assert answer.json()["accepted"] == 1


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (LedgerError("ledger x: the disk is full"), "ledger x: the disk is full"),
        (RuntimeError("INSERT of acme"), "RuntimeError"),
    ],
)
def test_a_failing_store_is_a_503_that_is_worth_repeating(bench: Bench, caplog, failure, said):
    """Nothing counts until it is stored. The reason is logged once if it is the ledger's; a driver's quotes records."""
    bench.store.broken = failure
    for _ in range(3):
        answer = bench.post_gzip(wire.USAGE_PATH, wire.encode([usage(1)]))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "acme" not in answer.text
        assert said not in answer.text
    assert bench.counts.view().records == {}
    assert bench.woken == 0
    assert caplog.text.count("cannot store records") == caplog.text.count(said) == 1
    assert "acme" not in caplog.text
    bench.store.broken = None
    assert bench.post_gzip(wire.USAGE_PATH, wire.encode([usage(1)])).json()["accepted"] == 1


def test_concurrent_posts_reach_the_store_one_at_a_time(bench: Bench):
    """SQLite has one writer; and the event loop's own thread never waits for it."""

    async def many() -> list[httpx.Response]:
        async with bench.client() as client:
            posts = [
                client.post(wire.USAGE_PATH, content=wire.encode([usage(n)]), headers={"content-encoding": "gzip"})
                for n in range(40)
            ]
            return await asyncio.gather(*posts)

    answers = asyncio.run(many())
    assert [answer.status_code for answer in answers] == [200] * 40
    assert len(bench.store.stored) == 40
    assert threading.get_ident() not in bench.store.threads


def test_a_body_that_never_arrives_gives_its_place_back(bench: Bench, monkeypatch):
    """A stalled sender must not shut the others out; 503 tells it to try again."""
    monkeypatch.setattr(intake_module, "BODY_SECONDS", 0.05)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async def post() -> httpx.Response:
        async with bench.client() as client:
            return await client.post(wire.USAGE_PATH, content=stalled())

    answer = asyncio.run(post())
    assert answer.status_code == 503
    assert "did not arrive" in answer.json()["error"]


def test_a_connection_lost_halfway_stores_nothing(bench: Bench, monkeypatch):
    """A sender that dies in the middle of a body is an ordinary event, not an error of the server's."""

    async def lost(request, limit):
        raise ClientDisconnect

    monkeypatch.setattr(intake_module, "_read", lost)
    assert bench.post(wire.USAGE_PATH, b"{}").status_code == 400
    assert not bench.store.stored


def test_only_posts_are_taken(bench: Bench):
    """Reading is not what intake is for."""

    async def get() -> int:
        async with bench.client() as client:
            return (await client.get(wire.USAGE_PATH)).status_code

    assert asyncio.run(get()) == 405


def test_counts_add_up_over_threads():
    """Posts and other intakes count at the same time."""
    counts = IntakeCounts()

    def count() -> None:
        for _ in range(2000):
            counts.add("usage", "accepted")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    view = counts.view()
    counts.add("usage", "accepted")
    assert view.records == {("usage", "accepted"): 8000}


@settings(max_examples=60, deadline=None)
@given(
    body=st.binary(max_size=300),
    path=st.sampled_from([wire.USAGE_PATH, wire.WINDOWS_PATH]),
    encoding=st.sampled_from(["", "gzip", "identity", "deflate"]),
    wrapped=st.booleans(),
)
def test_arbitrary_bodies_never_break_the_intake(body, path, encoding, wrapped):
    """Any bytes, compressed or claiming to be: 200, 400 or 413, and nothing is stored."""
    bench = Bench()
    answer = bench.post(path, gzip.compress(body) if wrapped else body, content_encoding=encoding)
    assert answer.status_code in {200, 400, 413}
    assert not bench.store.stored


@settings(max_examples=60, deadline=None)
@given(some=st.lists(pairs(), max_size=5), data=st.data())
def test_damaged_batches_never_break_the_intake(some: list[Pair], data):
    """Valid records with bytes changed anywhere: every line is answered for, as stored, duplicate or refused."""
    bench = Bench()
    body = bytearray(gzip.decompress(wire.encode(pair.wire for pair in some)))
    start = data.draw(st.integers(0, len(body)))
    body[start : start + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    answer = bench.post_gzip(wire.WINDOWS_PATH, gzip.compress(bytes(body)))
    lines = sum(1 for line in bytes(body).split(b"\n") if line.strip())
    said = answer.json()
    assert answer.status_code == 200
    assert said["accepted"] + said["duplicate"] + len(said["refused"]) == lines
    assert len(bench.store.sequences()) == said["accepted"]
