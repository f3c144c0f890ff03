"""Records of devices on their way to another host: once each, in order, through outages, within bounds."""

import gzip
import json
import logging
import threading
from collections.abc import Callable

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.collectors.gpu.gpu_readings import UUID

from farthing.collectors.gpu.delivery import Delivery
from farthing.collectors.intake import SHOWN_REFUSALS
from farthing.collectors.wire import decode_device, decode_raw
from farthing.domain.errors import ConfigError
from farthing.domain.gpu import COUNTER, DeviceSamples
from farthing.domain.records import RawRecord, RecordKey

URL = "http://farthing:9464"


def samples(sequence, **changes):
    """A record of two samples."""
    at = 1_000 + sequence * 10
    fields = {
        "key": RecordKey(f"device:{UUID}/1000", 0, sequence),
        "uuid": UUID,
        "name": "NVIDIA H100 80GB HBM3",
        "host": "node-1",
        "index": 0,
        "source": "nvml",
        "method": COUNTER,
        "at_ns": (at, at + 5),
        "energy_mj": (at, at + 5),
    }
    return DeviceSamples(**{**fields, **changes})


def ok(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"accepted": len(sequences_of(request)), "duplicate": 0, "refused": []})


def sequences_of(request: httpx.Request) -> list[int]:
    return [json.loads(line)["seq"] for line in gzip.decompress(request.content).splitlines()]


class Script:
    """An intake that follows a script of answers and then accepts; remembers what it accepted, in order."""

    def __init__(self, *answers: httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]) -> None:
        self.answers = list(answers)
        self.seen: list[httpx.Request] = []
        self.accepted: list[int] = []
        self.answered = threading.Event()
        self.wanted = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        answer = self.answers.pop(0) if self.answers else ok
        if isinstance(answer, Exception):
            raise answer
        response = answer if isinstance(answer, httpx.Response) else answer(request)
        if response.status_code == 200 and b"accepted" in response.content:
            self.accepted += sequences_of(request)
        if len(self.accepted) >= self.wanted:
            self.answered.set()
        return response

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self))


def delivering(client, token=None, **options):
    return Delivery(URL, token, client, **{"first_wait_seconds": 0.001, "max_wait_seconds": 0.002, **options})


def deliver(script: Script, sequences, **options):
    """A delivery that has done its work."""
    delivery = delivering(script.client(), **options)
    script.wanted = len(sequences)
    delivery.start()
    delivery.put([samples(sequence) for sequence in sequences])
    assert script.answered.wait(30)
    delivery.stop()
    return delivery


def test_a_record_goes_to_the_intake_compressed_and_with_the_token():
    """What intake demands, and what it reads is what was read."""
    script = Script()
    delivery = deliver(script, [0], token="secret")
    (request,) = script.seen
    assert str(request.url) == f"{URL}/v1/windows"
    assert request.headers["authorization"] == "Bearer secret"
    assert decode_device(gzip.decompress(request.content).strip()) == samples(0)
    assert (delivery.delivered, delivery.waiting, delivery.refused, delivery.dropped) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("half an answer"),
        httpx.Response(503, json={"error": "not stored"}),
        httpx.Response(429, json={"error": "too much"}, headers={"Retry-After": "0"}),
        httpx.Response(401, json={"error": "a valid bearer token is required"}),
        httpx.Response(200, text="<html>somebody else</html>"),
        httpx.Response(502, text="bad gateway"),
        lambda _: httpx.Response(502, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip")),
        httpx.Response(200, text='{"duplicate": 1e999, "\\u0061ccepted": 0, "refused": []}'),
        httpx.Response(200, text="[" * 100_000),
        httpx.Response(502, text="[" * 100_000),
        httpx.Response(413, text="<html>a proxy's own limit</html>"),
        httpx.Response(200, text='{"\\u0061ccepted": 0, "duplicate": 0, "refused": []}'),
        httpx.Response(200, text='{"\\u0061ccepted": 99, "duplicate": 0, "refused": []}'),
    ],
    ids=[
        "refused",
        "slow",
        "half",
        "503",
        "429",
        "401",
        "another program",
        "proxy",
        "no gzip",
        "infinity",
        "brackets",
        "brackets of a proxy",
        "413",
        "no account",
        "too much of it",
    ],
)
def test_whatever_is_in_the_way_nothing_is_lost_and_it_is_said_once(trouble, caplog):
    """An outage, and a mistake that somebody mends, look alike from here."""
    script = Script(*[trouble] * 5)
    with caplog.at_level(logging.INFO):
        delivery = deliver(script, range(3))
    # the first try may have left with the first record alone
    assert script.accepted[-3:] == [0, 1, 2]
    assert delivery.waiting == 0
    said = [entry.getMessage() for entry in caplog.records]
    assert len([text for text in said if "not delivered, trying again" in text]) == 1
    assert len([text for text in said if "takes records again" in text]) == 1


def test_what_nobody_foresaw_ends_no_delivery(caplog):
    """It is logged, and the records go later."""
    script = Script(RuntimeError("nobody foresaw it"))
    delivery = deliver(script, [0])
    assert (script.accepted, delivery.waiting) == ([0], 0)
    assert "nobody foresaw it" in caplog.text


def test_a_body_that_is_too_large_is_cut_in_halves():
    """Down to what the intake takes."""

    def narrow(request):
        return ok(request) if len(sequences_of(request)) <= 2 else httpx.Response(413, json={"error": "too large"})

    script = Script(*[narrow] * 20)
    delivery = deliver(script, range(9))
    assert script.accepted == list(range(9))
    assert delivery.refused == 0


def test_one_record_that_is_too_large_is_counted_and_the_next_ones_go():
    """A record of an hour at ten samples a second, say: it would stop everything behind it for ever."""
    large = samples(1, at_ns=tuple(range(36_000)), energy_mj=tuple(range(36_000)))

    def picky(request):
        return httpx.Response(413, json={"error": "too large"}) if 1 in sequences_of(request) else ok(request)

    script = Script(*[picky] * 20)
    delivery = delivering(script.client())
    delivery.put([samples(0), large, samples(2)])
    script.wanted = 2
    delivery.start()
    assert script.answered.wait(30)
    delivery.stop()
    assert script.accepted == [0, 2]
    assert (delivery.refused, delivery.waiting) == (1, 0)


def test_a_record_that_the_intake_finds_wrong_is_counted_and_said(caplog):
    """And not sent again."""
    wrong = {"accepted": 1, "duplicate": 0, "refused": [{"line": 2, "field": "at_ns", "problem": "goes backwards"}]}
    script = Script(httpx.Response(200, json=wrong))
    delivery = delivering(script.client())
    delivery.put([samples(0), samples(1)])
    delivery.start()
    assert script.answered.wait(30)
    delivery.stop()
    assert (delivery.delivered, delivery.refused, len(script.seen)) == (1, 1, 1)
    assert "goes backwards" in caplog.text


def test_of_many_wrong_records_the_intake_shows_the_first_and_all_are_counted():
    """Its answer has a bound."""
    wrong = [{"line": line, "field": "at_ns", "problem": "goes backwards"} for line in range(SHOWN_REFUSALS)]
    script = Script(httpx.Response(200, json={"accepted": 1, "duplicate": 0, "refused": wrong}))
    delivery = delivering(script.client())
    delivery.put([samples(sequence) for sequence in range(SHOWN_REFUSALS + 6)])
    delivery.start()
    assert script.answered.wait(30)
    delivery.stop()
    assert (delivery.delivered, delivery.refused, len(script.seen)) == (1, SHOWN_REFUSALS + 5, 1)


def test_a_record_that_no_wire_carries_is_not_sent(caplog):
    """A device without a name of its own, say."""
    script = Script()
    delivery = delivering(script.client())
    delivery.put([samples(0, uuid="GPU-\n")])
    assert (delivery.refused, delivery.waiting) == (1, 0)
    assert "cannot be sent" in caplog.text


def test_a_full_queue_lets_the_oldest_go_and_counts_them(caplog):
    """Memory has a bound; energies are cumulative, so that what follows still says how much was used."""
    delivery = delivering(Script().client(), queue_bytes=3_000)
    delivery.put([samples(sequence) for sequence in range(100)])
    assert delivery.waiting + delivery.dropped == 100
    assert 0 < delivery.waiting < 20
    assert caplog.text.count("the queue is full") == 1
    script = Script()
    again = delivering(script.client(), queue_bytes=3_000)
    again.put([samples(sequence) for sequence in range(100)])
    again.start()
    again.stop()
    assert script.accepted == list(range(100 - len(script.accepted), 100))


def test_at_the_end_what_waits_is_tried_once_more_and_then_said(caplog):
    """A stop does not wait for an intake that is away."""
    script = Script(*[httpx.ConnectError("refused")] * 1_000)
    delivery = delivering(script.client(), first_wait_seconds=60, max_wait_seconds=60)
    delivery.put([samples(0)])
    delivery.start()
    delivery.stop()
    assert delivery.waiting == 1
    assert "1 records were not delivered" in caplog.text


@pytest.mark.parametrize(
    ("url", "token", "message"),
    [
        ("farthing:9464", None, "is not an intake's URL"),
        ("http://", None, "is not an intake's URL"),
        ("http://farthing:nine", None, "is not a URL"),
        ("http://sender:hunter2@farthing:nine", None, "is not a URL"),
        ("http://sender:hunter2@farthing:9464", None, "give the token as FARTHING_INTAKE_TOKEN"),
        ("sender:hunter2@farthing:9464", None, "is not an intake's URL"),
        ("http://farthing:9464?token=hunter2", None, "give the token as FARTHING_INTAKE_TOKEN"),
        ("http://farthing:9464/#hunter2", None, "give the token as FARTHING_INTAKE_TOKEN"),
        (URL, "", "must be printable ASCII"),
        (URL, "two\nlines", "must be printable ASCII"),
    ],
)
def test_what_no_request_can_carry_is_said_at_once(url, token, message):
    """Before anything is read."""
    with pytest.raises(ConfigError, match=message) as told:
        Delivery(url, token, Script().client())
    assert "hunter2" not in str(told.value)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["lost", "unheard", "503", "ok"]), max_size=12), st.integers(1, 8))
def test_records_arrive_once_each_in_order_through_any_outage(troubles, number):
    """Also where the intake stored them and its answer got lost: twice is once."""
    stored: dict[RecordKey, RawRecord] = {}
    done = threading.Event()

    def intake(request):
        trouble = troubles.pop() if troubles else "ok"
        if trouble == "lost":
            raise httpx.ConnectError("refused")
        if trouble == "503":
            return httpx.Response(503, json={"error": "later"})
        records = [decode_raw(line) for line in gzip.decompress(request.content).splitlines()]
        before = len(stored)
        for record in records:
            stored.setdefault(record.key, record)
        if trouble == "unheard":
            raise httpx.ReadError("gone")
        if len(stored) == number:
            done.set()
        new = len(stored) - before
        return httpx.Response(200, json={"accepted": new, "duplicate": len(records) - new, "refused": []})

    delivery = delivering(httpx.Client(transport=httpx.MockTransport(intake)))
    delivery.start()
    for sequence in range(number):
        delivery.put([samples(sequence)])
    assert done.wait(30)
    delivery.stop()
    assert [key.sequence for key in stored] == list(range(number))
    assert {record.kind for record in stored.values()} == {"device"}
    assert delivery.waiting == delivery.refused == delivery.dropped == 0
