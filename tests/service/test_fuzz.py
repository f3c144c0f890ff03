"""Ten thousand requests that nobody would send: none ends in a fault, reveals another tenant or loses a record."""

import gzip
import http.client
import json
import os
import random
import string
import urllib.parse
from collections import Counter
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from starlette.routing import Route
from tests.service.books import journal_sums
from tests.service.running import served, wait_until

from farthing.domain.access import Scope
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.replay.wire_records import wire_records
from farthing.service.access import Access
from farthing.service.access_sessions import Sessions
from farthing.service.access_tokens import TokenFile, add_token
from farthing.service.server import Service
from farthing.settings import Settings
from farthing_probe import wire

pytestmark = pytest.mark.timeout(900)

REQUESTS = int(os.environ.get("FARTHING_FUZZ_REQUESTS", "10000"))
"""Of all endpoints together; they take turns."""
SEED = 20_261_127
HELD = ("acme", "globex")
"""Tenants whose rows the tenant's token opens; the recordings' other tenants must not show."""
SECRETS = ("initech", "umbrella")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW")
PARAMETERS = ("since", "until", "by", "tenant", "output", "period", "engine", "model", "tier", "project", "x", "")
VALUES = (
    "", "0", "-1", "24h", "1d", "all", "now", "today", "1e309", "nan", "inf", "9" * 400, "2026-11-27", "2026-02-30",
    "acme", "initech", "*", "%", "tenant", "phase", "csv", "json", "table", "../../etc/passwd", "' or 1=1 --", "\x00",
    "\ud7ff", "💥", "1764000000000", "-9223372036854775809", "1d1d", "P1D", "2026-11", "9999-12-31T23:59:59Z",
    "0001-01-01", "+00:00",
)  # fmt: skip
TYPES = ("application/json", "application/x-ndjson", "application/x-www-form-urlencoded", "text/html", "", "💥")


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    """What came of all requests, and of what was delivered between them."""
    folder = tmp_path_factory.mktemp("fuzz")
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
    made = datetime(2026, 11, 27, tzinfo=UTC)
    file = folder / "tokens.yaml"
    bearers = {
        "tenant": add_token(file, "tenant", [Scope.READ_TENANT], HELD, made),
        "all": add_token(file, "all", [Scope.READ_ALL], [], made),
        "admin": add_token(file, "admin", [Scope.ADMIN], [], made),
        "ingest": add_token(file, "ingest", [Scope.INGEST], [], made),
        "garbage": "farthing_none",
        "nobody": "",
    }
    access = Access(TokenFile(file), None, Sessions(lambda: b"key", 12.0, made.timestamp))
    settings = Settings.model_validate({"serve": {"intake_bodies_per_second": 1e6}})
    service = Service(settings, ledger, access)
    with served(service.app) as url:
        fuzz = Fuzz(url, service, bearers)
        fuzz.deliver_recording()
        wait_until(lambda: recorded_sums(ledger), 20, "the recording's cost")
        wait_until(lambda: fuzz.state("llama") == "down", 20, "the recording's end")
        fuzz.before = recorded_sums(ledger)
        fuzz.run()
        fuzz.after = recorded_sums(ledger)
        fuzz.ready = fuzz.ask("GET", "/readyz", {}, b"")[0]
        inbox = t.records.c
        rows = ledger.select(sa.select(inbox.sequence).where(inbox.boot == "kept", inbox.kind == "lifecycle"))
        fuzz.kept = {row.sequence for row in rows}
    ledger.close()
    return fuzz


def recorded_sums(ledger):
    """Nano-dollars of the recorded engine by account, phase and tenant."""
    sums = journal_sums(ledger, "boot", "debit", "phase", "tenant")
    return {key[1:]: nano for key, nano in sums.items() if key[0] == "recorded"}


class Fuzz:
    """A service under requests drawn from one seed."""

    def __init__(self, url, service, bearers):
        self._random = random.Random(SEED)  # noqa: S311 - drawn again by the same seed
        self._address = urllib.parse.urlsplit(url).netloc
        self._bearers = bearers
        self._paths = [route.path for route in service.app.routes if isinstance(route, Route)]
        self._connection = http.client.HTTPConnection(self._address, timeout=20)
        timed = wire_records(load_recording("h100-llama8b-vllm0.26"), boot="recorded", engine="llama")
        self.records = [item.record for item in timed]
        self.statuses: Counter[int] = Counter()
        self.asked: Counter[str] = Counter()
        self.faults: list[str] = []
        self.leaks: list[str] = []
        self.wordless: list[str] = []
        self.before: object = None
        self.after: object = None
        self.ready = 0
        self.sent: set[int] = set()
        self.kept: set[int] = set()

    def ask(self, method, path, headers, body):
        """Status, headers and body of an answer; the connection is made anew when the service has closed it."""
        try:
            self._connection.request(method, path, body=body, headers=headers)
            answer = self._connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except (http.client.HTTPException, OSError):
            self._connection.close()
            raise

    def state(self, engine):
        """What the service says an engine is in."""
        _, _, body = self.ask("GET", "/api/v1/snapshot", self._bearer("admin"), b"")
        return next((one["state"] for one in json.loads(body)["engines"] if one["name"] == engine), None)

    def deliver_recording(self):
        """One whole engine with four tenants."""
        for path, usage in (("/v1/windows", False), ("/v1/usage", True)):
            lines = [record for record in self.records if (record["kind"] == "usage") == usage]
            body = gzip.compress(b"\n".join(json.dumps(line).encode() for line in lines))
            status, _, said = self.ask("POST", path, self._bearer("ingest") | {"Content-Encoding": "gzip"}, body)
            assert status == 200, said

    def run(self):
        """Every request, and every hundredth time a record that must not be lost."""
        for number in range(REQUESTS):
            if number % 100 == 0:
                self._deliver(number)
            path = self._paths[number % len(self._paths)]
            who = self._one_of(tuple(self._bearers))
            method, target, headers, body = self._drawn(path, who)
            shown = f"{method} {target} as {who} with {headers} and {body[:80]!r}"
            self.asked[path] += 1
            try:
                status, answered, said = self.ask(method, target, headers, body)
            except (http.client.HTTPException, OSError) as error:
                self.faults.append(f"{shown}: {error!r}")
                continue
            self._judge(shown, who, (status, answered, said), method)

    def _judge(self, shown, who, answer, method):
        status, headers, said = answer
        self.statuses[status] += 1
        if status >= 500:
            self.faults.append(f"{shown}: {status} {said[:200]!r}")
        # a refusal may quote what the caller asked for
        hidden = [name for name in SECRETS if name not in shown]
        if who not in {"all", "admin"} and any(name.encode() in said for name in hidden):
            self.leaks.append(f"{shown}: {said[:200]!r}")
        if status >= 400 and method != "HEAD" and headers.get_content_type() == "application/json":
            problem = json.loads(said).get("error")
            if not problem or "\n" in problem or "Traceback" in problem:
                self.wordless.append(f"{shown}: {said[:200]!r}")

    def _deliver(self, number):
        record = wire.lifecycle("kept", 0, number, at_ns=number + 1, event="ready")
        status, _, said = self.ask("POST", "/v1/windows", self._bearer("ingest"), json.dumps(record).encode())
        assert status == 200, said
        assert json.loads(said)["accepted"] == 1, said
        self.sent.add(number)

    def _bearer(self, who):
        return {"Authorization": f"Bearer {self._bearers[who]}"} if self._bearers[who] else {}

    def _drawn(self, path, who):
        target = path
        while "{" in target:
            name = target[target.index("{") : target.index("}") + 1]
            target = target.replace(name, urllib.parse.quote(self._text(), safe="/" if "path" in name else ""))
        query = [(self._one_of(PARAMETERS), self._text()) for _ in range(self._random.randrange(4))]
        if query:
            target += "?" + urllib.parse.urlencode(query, errors="surrogatepass")
        if self._random.random() < 0.05:
            target += self._one_of(("/", "//", "%00", "%ff", ";x", "?", "#x", "/../..", "." * 300))
        headers = self._bearer(who)
        if self._random.random() < 0.3:
            headers["Content-Type"] = self._one_of(TYPES).encode()
        if self._random.random() < 0.2:
            headers["Accept"] = self._one_of(
                ("*/*", "application/openmetrics-text;q=x", "text/plain;version=9", "", ",")
            )
        if self._random.random() < 0.1:
            headers["Cookie"] = f"farthing-session-{self._address.rpartition(':')[2]}={self._header_text()}"
        if self._random.random() < 0.1:
            headers["Range"] = self._one_of(("bytes=0-", "bytes=5-1", "bytes=-1", "lines=1", "bytes=0-1,2-3,9-"))
        body = self._body()
        if self._random.random() < 0.3:
            headers["Content-Encoding"] = self._one_of(("gzip", "x-gzip", "br", "", "GZIP", "gzip, gzip"))
            body = self._compressed(body)
        method = self._one_of(METHODS) if self._random.random() < 0.3 else ("POST" if body else "GET")
        return method, target, headers, body

    def _body(self):
        kind = self._random.randrange(6)
        if kind == 0:
            return b""
        if kind == 1:
            return self._random.randbytes(self._random.randrange(400))
        if kind == 2:
            return self._one_of(
                (b"[]", b"{}", b"null", b"[" * 2_000, b'{"token": 1}', b'{"token": "x"}', b"token=x", b"\n" * 99)
            )
        lines = [
            json.dumps(self._twisted()).encode(errors="surrogatepass") for _ in range(self._random.randrange(1, 6))
        ]
        body = b"\n".join(lines)
        return body[: self._random.randrange(len(body))] if kind == 3 else body

    def _twisted(self):
        """A record as a probe sends it, of a boot of its own, with fields that have become something else."""
        record = {**self._one_of(self.records), "boot": f"fuzz-{self._random.randrange(20)}", "engine": "fuzz"}
        record.pop("engine") if self._random.random() < 0.5 else None
        for _ in range(self._random.randrange(4)):
            name = self._one_of(tuple(record))
            if name == "boot":
                continue
            choice = self._random.randrange(5)
            if choice == 0:
                record.pop(name)
            else:
                record[name] = (self._text(), self._number(), [self._number()] * 3, {"x": self._text()})[choice - 1]
        return record

    def _compressed(self, body):
        packed = gzip.compress(body, 1)
        return self._one_of((packed, packed[:-4], packed + b"x", packed * 2, body))

    def _number(self):
        return self._one_of((0, -1, 1, 2**31, 2**63, -(2**63), 2**200, 0.5, 1e308, True, None))

    def _text(self):
        if self._random.random() < 0.7:
            return self._one_of(VALUES)
        return "".join(chr(self._random.randrange(1, 0xD800)) for _ in range(self._random.randrange(12)))

    def _header_text(self):
        return "".join(self._random.choice(string.printable[:94]) for _ in range(self._random.randrange(40)))

    def _one_of(self, values):
        return values[self._random.randrange(len(values))]


def test_no_request_is_answered_with_a_fault_of_the_service(fuzzed):
    """Whatever is sent, the sender is told what is wrong with it; and all kinds of answers were seen."""
    assert fuzzed.faults == []
    assert fuzzed.statuses.total() == REQUESTS
    assert {200, 400, 401, 403, 404, 405} <= set(fuzzed.statuses)
    assert fuzzed.ready == 200


def test_every_endpoint_was_asked_as_often(fuzzed):
    """A new route is asked without being entered here."""
    assert {"/metrics", "/login", "/v1/usage", "/api/v1/report"} <= set(fuzzed.asked)
    turns = len(fuzzed.asked) + 1  # one path has two routes, by method
    assert min(fuzzed.asked.values()) >= REQUESTS // turns


def test_no_answer_names_a_tenant_that_its_caller_may_not_see(fuzzed):
    """Not even an error."""
    assert fuzzed.leaks == []


def test_every_refusal_says_why_in_one_line(fuzzed):
    """And shows no traceback."""
    assert fuzzed.wordless == []


def test_nothing_that_was_delivered_meanwhile_is_lost_and_the_books_stand(fuzzed):
    """Records between the requests are in the ledger, each once; what was settled before is settled still."""
    assert fuzzed.sent
    assert fuzzed.kept == fuzzed.sent
    assert fuzzed.before
    assert fuzzed.after == fuzzed.before
