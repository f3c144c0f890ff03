"""The RAG example on a real vLLM: one connected trace a question, from the application to the engine, with its cost.

The engine runs once. First everybody sends straight to the receiver; then a collector takes the receiver's port, and
hands on to another one.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine.real_engine import MODEL, engine_models, engine_python
from tests.integration.probe.asks import PLAIN_KEY
from tests.integration.probe.conftest import LAYERS
from tests.integration.probe.stand import Stand, probed_stand, unpacked_wheel
from tests.service.books import journal_sums
from tests.service.running import FARTHING, wait_until
from tests.tracing.example_environment import example_python
from tests.tracing.receiver import Receiver, Span, otlp_receiver
from tests.tracing.rotel import rotel_hop

from farthing.domain import conventions as c

__all__ = ["engine_models", "engine_python", "example_python"]

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
TENANT = "handbook"
STAGES = ("embeddings l2_supercat_256", "cache answers", "retrieval documents", "rerank rare-words")
EDGE, ENGINE, CLIENT = "farthing-edge", "vllm", "handbook"
"""``service.name`` of whoever made a span."""
WARM = (
    "Which port does the service listen on?",
    "How are idle GPUs charged?",
    "What does an aborted request cost, and who bears it?",
    "How is a user erased from the ledger?",
    "How is energy measured?",
    "How is a month closed?",
    "What does a cold start cost?",
    "Which alerts fire on real load?",
    "How are engines found by DNS?",
    "How are currencies converted?",
    "What is an error budget?",
    "How is a statement disputed?",
    "What is a rate card?",
    "What is work in progress?",
    "How does a replay work?",
    "What is a commitment?",
)
MORE = (
    "How do I upgrade the stack?",
    "How are images built?",
    "Which exporters of GPU metrics are known?",
    "What does the probe cost the engine?",
)
"""No two of all questions are so close that the cache takes one for the other."""
QUESTIONS = (
    "How do I switch the probe off?",
    "What happens when the price of a GPU is unknown?",
    "How do I back the ledger up?",
    "How is a forecast of the month made?",
)
AGAIN = "How can the probe be switched off?"
HOPPED = ("Who may see what a tenant spends?", "Which dashboards are there?")
SPANS_WITHIN_SECONDS = 30.0
"""vLLM sends its spans in batches, of five seconds."""
CLOCK_TOLERANCE_NS = 20_000_000
"""All processes read one host's clock; the edge's times are its monotonic clock, anchored to UTC when it began."""
SETTLED_WITHIN_SECONDS = 60.0
SOON = {"window_seconds": 1, "grace_seconds": 10}
"""Nothing settles before a dozen windows with work in them are known; a question takes about a second."""
ESTIMATE_TOLERANCE = 0.2
SINGLE_TOLERANCE = 0.4
"""Of one question: prices are means of the minutes before it, and other work of the machine slows an engine on CPU."""


@dataclass(frozen=True)
class Asked:
    """What the application said of its questions, and what came of them at the receiver and in the books."""

    told: list[dict[str, Any]]
    cached: dict[str, Any]
    """What it said of a question that its cache answered."""
    costs: dict[str, dict[str, Any]]
    """Request id -> what the service says of it, settled."""
    traces: dict[str, list[Span]]
    """Question -> its trace's spans."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Where engine, probe and application send their spans at first."""
    with otlp_receiver() as made:
        yield made


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe as its wheel installs it, in the engine and in the application."""
    return unpacked_wheel(tmp_path_factory.mktemp("probe-wheel"))


@pytest.fixture(scope="module")
def stand(
    engine_python: Path, engine_models: Path, probe: Path, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    """A vLLM that traces, with the probe in it, and its service."""
    environment = {
        "OTEL_SERVICE_NAME": ENGINE,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
    deeper = {"num_hidden_layers": LAYERS, "layer_types": ["full_attention"] * LAYERS}
    arguments = (
        *("--max-model-len", "4096", "--hf-overrides", json.dumps(deeper)),
        *("--otlp-traces-endpoint", receiver.url),
    )
    with probed_stand(
        tmp_path_factory.mktemp("rag"), engine_python, engine_models / "tinyqwen", probe,
        costing=SOON, arguments=arguments, environment=environment,
    ) as made:  # fmt: skip
        yield made


class Application:
    """The example, started anew for each list of questions."""

    def __init__(self, python: Path, stand: Stand, probe: Path) -> None:
        self._python, self._stand, self._probe = python, stand, probe

    @contextmanager
    def running(self, collector: str) -> Iterator[Callable[[str], dict[str, Any]]]:
        """Asks it a question and returns what it says of it, within the block; after it every span has been sent."""
        stand = self._stand
        process = subprocess.Popen(
            [
                *(str(self._python), str(ROOT / "examples/rag/ask.py"), "--json", "--collector", collector),
                *("--engine", f"{stand.engine.url}/v1", "--model", MODEL, "--max-tokens", "128", "--tenant", TENANT),
                *("--farthing", stand.serve.url, "--token-file", str(stand.folder / "token")),
            ],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self._probe), "OPENAI_API_KEY": PLAIN_KEY},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        sent, said = process.stdin, process.stdout

        def ask(question: str) -> dict[str, Any]:
            sent.write(f"{question}\n")
            sent.flush()
            answer = json.loads(said.readline())
            assert answer["question"] == question
            assert isinstance(answer, dict)
            return answer

        with process:
            try:
                yield ask
                sent.close()
                assert process.wait(30) == 0
            finally:
                process.kill()

    def asked(self, receiver: Receiver, collector: str, *questions: str, again: str = "") -> Asked:
        """Ask, and wait until costs are settled and spans have arrived; then ask once more in other words."""
        with self.running(collector) as ask:
            ask(MORE[-1])  # whose windows are those of the application's own start, on the engine's cores
            told = [ask(question) for question in questions]
            costs = {each["request_id"]: settled_cost(self._stand, each["request_id"]) for each in told}
            cached = ask(again) if again else {}
        wanted = {(each["trace_id"], maker) for each in told for maker in (EDGE, ENGINE, CLIENT)}
        wanted |= {(cached["trace_id"], CLIENT)} if cached else set()

        def arrived(spans: list[Span]) -> bool:
            return wanted <= {(span.trace_id, span.resource["service.name"]) for span in spans}

        receiver.wait_for(arrived, SPANS_WITHIN_SECONDS)
        traces = {each["question"]: receiver.trace(each["trace_id"]) for each in (*told, *([cached] if cached else []))}
        return Asked(told, cached, costs, traces)


def settled_cost(stand: Stand, request_id: str) -> dict[str, Any]:
    """What the service says of a request, once its cost is settled."""
    found: dict[str, Any] = {}

    def settled() -> bool:
        answer = stand.serve.get(f"/api/v1/trace/{request_id}", Authorization=f"Bearer {stand.secrets['token']}")
        if answer.status_code == 404:  # its record is on its way
            return False
        found.update(next(each for each in answer.json()["requests"] if each["request_id"] == request_id))
        return bool(found["state"] == "settled")

    wait_until(settled, SETTLED_WITHIN_SECONDS, f"the settlement of {request_id}")
    return found


@pytest.fixture(scope="module")
def application(example_python: Path, stand: Stand, probe: Path, receiver: Receiver) -> Application:
    """The application, of which some questions are answered and settled: the probe has been told unit prices."""
    made = Application(example_python, stand, probe)
    with made.running(receiver.endpoint) as ask:
        for told in [ask(question) for question in WARM]:
            settled_cost(stand, told["request_id"])
        for question in MORE:
            ask(question)
            stand.wait_delivered()
            if any(record.get("estimate_nano") for record in stand.usage_records()):
                break
        else:
            pytest.fail("no usage record has an estimate, though costs are settled")
    return made


@pytest.fixture(scope="module")
def direct(application: Application, receiver: Receiver) -> Asked:
    """Questions whose spans come straight from whoever made them; the last is another's in other words."""
    return application.asked(receiver, receiver.endpoint, *QUESTIONS, again=AGAIN)


@pytest.fixture(scope="module")
def hopped(
    application: Application, direct: Asked, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Asked:
    """Questions whose spans a collector has taken and handed on."""
    log = tmp_path_factory.mktemp("rotel") / "rotel.log"
    receiver.behave("refusing")
    with otlp_receiver() as behind, rotel_hop(behind.endpoint, log, port=receiver.port) as collector:
        return application.asked(behind, collector, *HOPPED)


@pytest.fixture(params=["direct", "hopped"])
def either(request: pytest.FixtureRequest) -> Asked:
    """The same is true with a collector between and without."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Asked)
    return found


def test_each_question_is_one_connected_trace_from_the_application_to_the_engine(either: Asked):
    """Its stages below the workflow; below the generating stage the edge, and below that the engine's own span."""
    for told in either.told:
        spans = {span.span_id: span for span in either.traces[told["question"]]}
        (root,) = (span for span in spans.values() if not span.parent_span_id)
        path = {span.name: _path(spans, span) for span in spans.values() if span.resource["service.name"] == CLIENT}
        assert path == {
            "invoke_workflow handbook": (),
            **dict.fromkeys((*STAGES, f"chat {MODEL}"), ("invoke_workflow handbook",)),
        }
        (engine,) = (span for span in spans.values() if span.name == "llm_request")
        edge = spans[engine.parent_span_id]
        assert (edge.name, edge.kind, edge.resource["service.name"]) == (f"chat {MODEL}", "SERVER", EDGE)
        assert spans[edge.parent_span_id].kind == "CLIENT"
        assert _path(spans, engine) == (f"chat {MODEL}", f"chat {MODEL}", root.name)
        assert len(spans) == len(path) + 2


def test_durations_nest(either: Asked):
    """Nothing begins before what it is part of, or ends after it, beyond what clocks of one host differ by."""
    for spans in either.traces.values():
        known = {span.span_id: span for span in spans}
        for span in spans:
            assert span.end_ns >= span.start_ns
            around = known.get(span.parent_span_id)
            if around is not None:
                assert span.start_ns >= around.start_ns - CLOCK_TOLERANCE_NS, (span.name, around.name)
                assert span.end_ns <= around.end_ns + CLOCK_TOLERANCE_NS, (span.name, around.name)


def test_the_edge_says_what_the_application_was_told(either: Asked):
    """Tokens of usage, whose request it was, how it ended, and what it is thought to cost."""
    for told in either.told:
        (edge,) = (s for s in either.traces[told["question"]] if s.resource["service.name"] == EDGE)
        assert edge.attributes[c.ATTRIBUTE_REQUEST_ID] == told["request_id"]
        assert edge.attributes[c.ATTRIBUTE_INPUT_TOKENS] == told["input_tokens"]
        assert edge.attributes[c.ATTRIBUTE_OUTPUT_TOKENS] == told["output_tokens"]
        assert edge.attributes[c.ATTRIBUTE_TENANT] == TENANT
        assert edge.attributes[c.ATTRIBUTE_OUTCOME] == "finished"
        assert edge.attributes[c.ATTRIBUTE_ESTIMATE] == either.costs[told["request_id"]]["estimate_nano"]
        assert "first_token" in [event.name for event in edge.events]


def test_estimates_are_within_a_fifth_of_what_the_requests_cost(either: Asked):
    """Together; each alone is at the prices of the minutes before it, and not far off either."""
    shown = [(cost["estimate_nano"], cost["cost_nano"]) for cost in either.costs.values()]
    assert all(settled > 0 for _, settled in shown)
    assert all(abs(estimate - settled) <= SINGLE_TOLERANCE * settled for estimate, settled in shown), shown
    estimated, cost = map(sum, zip(*shown, strict=True))
    assert abs(estimated - cost) <= ESTIMATE_TOLERANCE * cost, shown


def test_a_question_in_other_words_costs_nothing_and_says_what_was_saved(direct: Asked):
    """The cached answer's own cost, on the cache's span; nothing reaches the engine."""
    first, again = direct.told[0], direct.cached
    assert again["hit"]
    assert again["request_id"] == first["request_id"]
    assert again["saved_nano_usd"] == direct.costs[first["request_id"]]["cost_nano"]
    spans = {span.name: span for span in direct.traces[AGAIN]}
    assert set(spans) == {"invoke_workflow handbook", "embeddings l2_supercat_256", "cache answers"}
    assert spans["cache answers"].attributes["farthing.cache.saved_nano_usd"] == again["saved_nano_usd"]


def test_settled_costs_are_those_of_the_books(stand: Stand, direct: Asked, hopped: Asked):
    """The requests of the tenant come to what its journal lines are, phase by phase, to the nano-dollar."""
    ids = {record["request_id"] for record in stand.usage_records() if record["tenant"] == TENANT}
    shown = {request_id: settled_cost(stand, request_id) for request_id in ids}
    with stand.ledger() as ledger:
        journal = {
            phase: nano
            for (debit, tenant, phase), nano in journal_sums(ledger, "debit", "tenant", "phase").items()
            if debit == c.CHARGED and tenant == TENANT
        }
    phases: Counter[str] = Counter()
    for cost in shown.values():
        phases.update({phase["phase"]: phase["nano"] for phase in cost["phases"]})
        assert sum(phase["nano"] for phase in cost["phases"]) == cost["cost_nano"]
    assert set(direct.costs) | set(hopped.costs) < ids
    assert phases == journal


def test_farthing_trace_shows_the_question_with_its_settled_cost(stand: Stand, direct: Asked):
    """By the id of its request and by that of its trace."""
    told = direct.told[0]
    cost = direct.costs[told["request_id"]]
    for name in (told["request_id"], told["trace_id"]):
        command = [str(FARTHING), "trace", name, "--config", str(stand.folder / "farthing.yaml"), "--output", "json"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        (request,) = json.loads(shown.stdout)["requests"]
        assert request == cost


def test_no_question_and_no_page_is_in_what_was_sent(receiver: Receiver, direct: Asked):
    """Nothing that the spans were made of has a word of content, vLLM's own among them."""
    bodies = b"".join(request.body for request in receiver.requests)
    assert EDGE.encode() in bodies
    for question in (*QUESTIONS, AGAIN, *WARM):
        assert question.encode() not in bodies
    assert b"Answer from the passages" not in bodies
    assert b"kill switch" not in bodies


def _path(spans: dict[str, Span], span: Span) -> tuple[str, ...]:
    """The names above a span, the nearest first."""
    above = spans.get(span.parent_span_id)
    assert above is not None or not span.parent_span_id, f"the parent of {span.name} is not in the trace"
    return () if above is None else (above.name, *_path(spans, above))
