"""Loads at the edges: sensible books, no exception, labels that do not promise too much."""

from collections import Counter

from farthing.costing.stream import CostStream
from farthing.costing.waste import wasted
from farthing.domain.clock import SECOND, Anchor
from farthing.domain.conventions import ASSUMED, CHARGED, ESTIMATED, IDLE, METERED, MODELLED, UNATTRIBUTED
from farthing.domain.records import EngineSequence, Lifecycle, RecordKey, Started, StepBatch, StepMarks, Usage

MS = 1_000_000
HOUR = 3_600 * SECOND


class Engine:
    """Writes a boot's records by hand."""

    def __init__(self):
        self.records = [Started(self._key(0), 0, Anchor(0, 0), "e", "vllm", "", "m", "X", 1)]
        self.add(Lifecycle, at_ns=0, event="ready")

    def _key(self, number=None):
        return RecordKey("b", 0, len(self.records) if number is None else number)

    def add(self, kind, **fields):
        """The next record of the process."""
        self.records.append(kind(key=self._key(), **fields))

    def steps(self, until_ns, marks=(), *, drafted=0):
        """A batch; each mark is (at, running, prefill requests, prefill tokens, decode requests)."""
        at, running, prefills, tokens, decodes = zip(*marks, strict=True) if marks else ((),) * 5
        nothing = (0,) * len(at)
        columns = StepMarks(
            at_ns=at,
            running=running,
            waiting=nothing,
            prefill_requests=prefills,
            prefill_tokens=tokens,
            decode_requests=decodes,
            decode_tokens=tuple(d * (1 + drafted) for d in decodes),
            encoder_inputs=nothing,
            encoder_tokens=nothing,
            generated=tuple(p + d for p, d in zip(prefills, decodes, strict=True)),
            prompt_computed=tokens,
            prompt_cached=nothing,
            preempted=nothing,
        )
        self.add(StepBatch, engine_index=0, until_ns=until_ns, open_ns=until_ns, marks=columns)

    def request(self, scheduled, first, last, *, prompt, output, cached=0, tenant="acme", model="m"):
        """A finished request of one sequence."""
        sequence = EngineSequence(scheduled, first, last, prompt, cached, output)
        self.add(
            Usage,
            request_id="r",
            engine_index=0,
            model=model,
            outcome="finished",
            status=200,
            arrived_ns=scheduled,
            ended_ns=last,
            first_ns=first,
            last_ns=last,
            tenant=tenant,
            sequences=(sequence,),
        )

    def books(self, end_ns):
        """Windows, and nano-dollars by account and tenant, at one nano-dollar a nanosecond."""
        self.add(Lifecycle, at_ns=end_ns, event="stop")
        stream = CostStream(self.records[0], lambda start, end: end - start)
        windows = [window for record in self.records[1:] for window in stream.feed(record)]
        lines: Counter[tuple[str, str]] = Counter()
        for window in windows:
            assert sum(posting.nano for posting in window.postings) == window.bill_nano
            for posting in window.postings:
                assert posting.nano >= 0
                lines[posting.account, posting.tenant] += posting.nano
        assert sum(lines.values()) == end_ns
        return windows, lines


def _methods(windows, account):
    return {p.method for w in windows for p in w.postings if p.account == account and p.nano}


def test_hours_without_a_request_are_idle_and_metered():
    """Nothing is modelled where nothing ran."""
    engine = Engine()
    for minute in range(1, 181):
        engine.steps(minute * 60 * SECOND)
    windows, lines = engine.books(3 * HOUR)
    assert lines == {(IDLE, ""): 3 * HOUR}
    assert _methods(windows, IDLE) == {METERED}


def test_a_single_step_with_a_single_request_is_paid_by_it():
    """One prefill of one token: its step is its tenant's, the rest is idle, and the split is only assumed."""
    engine = Engine()
    engine.request(scheduled=SECOND, first=SECOND + 20 * MS, last=SECOND + 20 * MS, prompt=1, output=1)
    engine.steps(5 * SECOND, [(SECOND + 20 * MS, 0, 1, 1, 0)])
    windows, lines = engine.books(5 * SECOND)
    assert lines == {(CHARGED, "acme"): 20 * MS, (IDLE, ""): 5 * SECOND - 20 * MS}
    assert _methods(windows, CHARGED) == {ASSUMED}


def test_a_step_that_nobody_claims_is_unattributed_and_not_shared_out():
    """Without a single record the busy time has a reason, not a payer."""
    engine = Engine()
    engine.steps(5 * SECOND, [(SECOND, 1, 1, 100, 0), (2 * SECOND, 0, 0, 0, 1)])
    _, lines = engine.books(5 * SECOND)
    assert lines[UNATTRIBUTED, ""] == SECOND
    assert set(lines) == {(UNATTRIBUTED, ""), (IDLE, "")}


def test_busy_time_without_any_token_is_unmetered():
    """An engine that says it runs and does nothing: its time has the reason, no phase."""
    engine = Engine()
    engine.steps(10 * SECOND, [(SECOND, 1, 0, 0, 0), (9 * SECOND, 0, 0, 0, 0)])
    windows, lines = engine.books(10 * SECOND)
    assert lines[UNATTRIBUTED, ""] == 8 * SECOND
    assert {p.reason for w in windows for p in w.postings if p.account == UNATTRIBUTED} == {"unmetered"}


def test_one_request_an_hour_for_a_day_is_never_called_modelled_before_it_is():
    """Each pays its own second; a fit of few windows is assumed, then tested against what comes next."""
    engine = Engine()
    for hour in range(24):
        begin = hour * HOUR + 60 * SECOND
        ends = begin + SECOND
        marks = [(begin + 50 * MS, 1, 1, 200, 0)]
        marks += [(begin + 50 * MS + i * 10 * MS, 1 if i < 95 else 0, 0, 0, 1) for i in range(1, 96)]
        engine.request(begin, begin + 50 * MS, ends, prompt=200, output=96, tenant=f"t{hour % 3}")
        engine.steps(begin + 5 * SECOND, marks)
        engine.steps((hour + 1) * HOUR)
    windows, lines = engine.books(24 * HOUR)
    assert sum(nano for (account, _), nano in lines.items() if account == CHARGED) == 24 * SECOND
    assert len({nano for (account, _), nano in lines.items() if account == CHARGED}) == 1
    assert lines[IDLE, ""] == 24 * HOUR - 24 * SECOND
    first = next(w for w in windows if w.busy_ns)
    assert first.fit is not None
    assert first.fit.method == ASSUMED
    assert _methods(windows, CHARGED) <= {ASSUMED, ESTIMATED, MODELLED}


def test_512_requests_at_once_of_one_kind_pay_alike():
    """Equal work, equal money, to a part in a thousand."""
    engine = Engine()
    steps, gap, batch = 400, 25 * MS, 512
    at = [SECOND + gap * (i + 1) for i in range(steps)]
    marks = [(at[0], batch, batch, batch * 100, 0)]
    marks += [(moment, batch if moment != at[-1] else 0, 0, 0, batch) for moment in at[1:]]
    for number in range(batch):
        engine.request(SECOND, at[0], at[-1], prompt=100, output=steps, tenant=f"t{number}")
    engine.steps(15 * SECOND, marks)
    _, lines = engine.books(15 * SECOND)
    costs = [nano for (account, _), nano in lines.items() if account == CHARGED]
    assert len(costs) == batch
    assert sum(costs) == steps * gap
    assert max(costs) - min(costs) < sum(costs) / batch / 1_000


def test_a_million_tokens_of_context_pay_for_what_they_attend():
    """Beside a short request in the same steps, the long one bears nearly all of the decoding."""
    engine = Engine()
    at = [SECOND * (i + 1) for i in range(120)]
    chunk = 1_000_000 // 100
    marks = [(moment, 2, 1, chunk, 1) for moment in at[:100]]
    marks += [(moment, 2 if moment != at[-1] else 0, 0, 0, 2) for moment in at[100:]]
    engine.request(10 * MS, at[0], at[-1], prompt=1, output=120, tenant="short")
    engine.request(10 * MS, at[99], at[-1], prompt=1_000_000, output=21, tenant="long")
    engine.steps(125 * SECOND, marks)
    windows, lines = engine.books(125 * SECOND)
    assert lines[CHARGED, "long"] > 5 * lines[CHARGED, "short"] > 0
    assert lines[CHARGED, "long"] + lines[CHARGED, "short"] + lines[UNATTRIBUTED, ""] + lines[IDLE, ""] == 125 * SECOND
    assert all(0 <= value < float("inf") for w in windows for value in w.features.values())


def test_a_request_split_over_a_prefill_and_a_decode_engine_costs_the_sum_of_both():
    """Each engine books its own part under the same request id; the second computes no prompt again."""
    prefill, decode = Engine(), Engine()
    prefill.request(SECOND, SECOND + 80 * MS, SECOND + 80 * MS, prompt=4_000, output=1)
    prefill.steps(5 * SECOND, [(SECOND + 80 * MS, 0, 1, 4_000, 0)])
    first, last = 2 * SECOND, 2 * SECOND + 500 * MS
    # the last token of a prompt is always computed, to have something to sample from
    decode.request(first, first + 10 * MS, last, prompt=4_000, cached=3_999, output=50)
    marks = [(first + 10 * MS, 1, 1, 1, 0)]
    marks += [(first + 10 * MS * i, 1 if i < 50 else 0, 0, 0, 1) for i in range(2, 51)]
    decode.steps(5 * SECOND, marks)
    (_, one), (_, two) = prefill.books(5 * SECOND), decode.books(5 * SECOND)
    assert one[CHARGED, "acme"] == 80 * MS
    assert two[CHARGED, "acme"] == 500 * MS


def test_an_adapter_is_a_model_of_its_own():
    """A request served through a LoRA adapter is charged under the adapter's name."""
    engine = Engine()
    engine.request(SECOND, SECOND + 20 * MS, SECOND + 20 * MS, prompt=10, output=1, model="lora-a")
    engine.steps(5 * SECOND, [(SECOND + 20 * MS, 0, 1, 10, 0)])
    windows, _ = engine.books(5 * SECOND)
    assert {p.model for w in windows for p in w.postings if p.account == CHARGED} == {"lora-a"}


def test_what_a_cache_saved_is_priced_and_changes_no_bill():
    """Half of the prompt came from a cache: about what the other half cost was saved, beside the books."""
    engine = Engine()
    engine.request(SECOND, SECOND + 100 * MS, SECOND + 100 * MS, prompt=8_000, cached=4_000, output=1)
    engine.steps(5 * SECOND, [(SECOND + 100 * MS, 0, 1, 4_000, 0)])
    windows, lines = engine.books(5 * SECOND)
    (saved,) = {r.saved_nano for w in windows for r in w.requests if r.saved_nano}
    assert lines[CHARGED, "acme"] == 100 * MS
    assert 0.5 * 100 * MS < saved < 100 * MS


def test_waste_has_causes():
    """Idle time and rejected drafts are named; drafts stay in their tenant's decode."""
    engine = Engine()
    at = [SECOND + 10 * MS * i for i in range(1, 101)]
    marks = [(at[0], 1, 1, 100, 0), *((moment, 1 if moment != at[-1] else 0, 0, 0, 1) for moment in at[1:])]
    engine.request(SECOND, at[0], at[-1], prompt=100, output=100)
    engine.steps(5 * SECOND, marks, drafted=3)
    windows, lines = engine.books(5 * SECOND)
    found = wasted(windows)
    assert found[IDLE] == lines[IDLE, ""]
    assert 0 < found["rejected_speculation"] < lines[CHARGED, "acme"]
    assert found["aborted"] == found["preemption"] == found["engine_failure"] == 0
