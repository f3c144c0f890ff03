"""The load and the evaluation of benchmarks/gpu, without a server."""

import gzip
import json
from itertools import islice, pairwise
from pathlib import Path

import pytest
from benchmarks.gpu.make_model import VOCABULARY, WORDS, byte_alphabet, made_words, tokenizer
from benchmarks.gpu.overhead import STUDENT, evaluate, interval, table
from benchmarks.gpu.plan import PHASES, plan
from scipy import stats

CLIENTS = Path(__file__).parents[1] / "fixtures/recordings/h100-llama8b-probe/clients.jsonl.gz"


def half(label, rate, **changes):
    """A load's summary."""
    return {"label": label, "phase": "c128", "n": 9, "ok": 9, "errs": [], "req_s": rate, "gap_p99": 0.1, **changes}


def rounds(*pairs):
    """Summaries of rounds 1, 2, ... with these rates without and with the probe."""
    return [
        half(f"{side}.{number}", rate)
        for number, pair in enumerate(pairs, start=1)
        for side, rate in zip("AB", pair, strict=True)
    ]


def test_the_interval_is_that_of_students_t():
    """Three ratios with mean 1 and standard deviation 0.01 are known to 4.303 x 0.01 / sqrt(3)."""
    ratio = evaluate(rounds((10, 9.9), (20, 20), (10, 10.1)))["req_s"]
    assert ratio.rounds == pytest.approx((0.99, 1.0, 1.01))
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((1.0, 0.97515661, 1.02484339))


@pytest.mark.parametrize("number", [2, 6, 31])
def test_the_interval_agrees_with_scipy(number):
    """Also where the table of Student's t begins and ends."""
    values = [1 + (i * 7 % 5) / 100 for i in range(number)]
    expected = stats.t.interval(0.95, number - 1, loc=sum(values) / number, scale=stats.sem(values))
    assert interval(values)[1:] == pytest.approx(expected, rel=1e-5)


def test_the_table_of_students_t_is_right():
    """Every entry, against scipy."""
    assert pytest.approx([stats.t.ppf(0.975, degrees) for degrees in range(1, 31)], abs=6e-4) == STUDENT


def test_a_single_round_has_no_bounds():
    """One value says nothing of its spread."""
    assert interval([1.0]) == (1.0, float("-inf"), float("inf"))


def test_what_does_not_count_is_left_out():
    """The warm-up of servers, the warm-up of rounds, and a round that was cut off."""
    lines = rounds((10, 10), (10, 10))
    extra = [half("A.0", 1), half("B.0", 9), half("A.1", 5, phase="warmup"), half("B.3", 5)]
    assert evaluate([*extra, *lines]) == evaluate(lines)


def test_only_quantities_that_both_halves_measured_are_compared():
    """A server whose CPU time was not read has no ratio of it."""
    lines = [{**line, "server_cpu_s": None, "ttft_mean": 0.5} for line in rounds((10, 10), (10, 10))]
    del lines[0]["ttft_mean"]
    assert list(evaluate(lines)) == ["req_s", "gap_p99"]


def test_a_failed_request_is_never_passed_over():
    """A server that refuses is quick."""
    lines = [*rounds((10, 10)), half("A.2", 10), half("B.2", 30, ok=3, errs=["500"])]
    with pytest.raises(ValueError, match=r"B\.2: 6 of 9 requests failed"):
        evaluate(lines)


def test_no_whole_round_is_an_error():
    """Instead of an empty table."""
    with pytest.raises(ValueError, match="no round has both halves"):
        evaluate([half("A.1", 10), half("B.2", 10)])


def test_the_table_shows_rounds_and_interval():
    """What docs/overhead.md quotes."""
    printed = table(evaluate(rounds((10, 9.9), (20, 20), (10, 10.1))))
    assert "       1     10.0000      9.9000    0.9900" in printed
    assert "1.0000   95 % interval 0.9752 to 1.0248" in printed


@pytest.mark.parametrize("phase", [name for name in PHASES if name != "idle"])
def test_the_same_seed_asks_for_the_same(phase):
    """Whatever was asked before; another seed asks for something else."""
    words = made_words(50)
    once = list(islice(plan(phase, 1, words), 5))
    list(islice(plan("c1", 2, words), 3))
    assert list(islice(plan(phase, 1, words), 5)) == once
    assert list(islice(plan(phase, 2, words), 5)) != once


@pytest.mark.parametrize("phase", ["warmup", "c1", "abort"])
def test_the_plan_is_that_of_the_recording(phase):
    """Tenants, sizes and shared prefixes of the recorded load, request by request."""
    with gzip.open(CLIENTS, "rt", encoding="utf-8") as file:
        rows = sorted((row for row in map(json.loads, file) if row["phase"] == phase), key=lambda row: row["id"])
    planned = list(islice(plan(phase, 1, made_words(WORDS)), len(rows)))
    assert len(rows) >= 50
    assert [(request.tenant, len(request.words), request.output, request.shared) for request in planned] == [
        (row["tenant"], row["tokens"], row["out"], row["shared"]) for row in rows
    ]
    hung_up = sum(row["err"] == "aborted" for row in rows)
    assert sum(request.patience is not None for request in planned) == hung_up


def test_requests_of_a_tenant_share_their_prefix():
    """And those of another tenant do not."""
    shared = [request for request in islice(plan("shared", 1, made_words(50), 0.1), 40) if request.shared]
    heads = {(request.tenant, request.words[:100]) for request in shared}
    assert len(heads) == len({tenant for tenant, _ in heads}) == 4


def test_a_scale_shortens_prompts_and_outputs():
    """To a tenth, here."""
    words = made_words(50)
    for long, short in islice(zip(plan("c8", 1, words), plan("c8", 1, words, 0.1), strict=True), 1):
        assert len(short.words) == pytest.approx(len(long.words) / 10, abs=1)
        assert short.output == long.output // 10


def test_every_word_is_one_token_and_every_id_a_token():
    """So that a prompt's length is known, and noise can be decoded."""
    words = made_words(WORDS)
    model = tokenizer(words)["model"]
    vocabulary = model["vocab"]
    assert sorted(vocabulary.values()) == list(range(VOCABULARY))
    assert len(set(byte_alphabet())) == 256
    ranks = {tuple(pair.split(" ")): rank for rank, pair in enumerate(model["merges"])}
    for word in words:
        parts = ["\u0120", *word]
        while len(parts) > 1:
            found = [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]
            _, at = min(found)
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        assert parts[0] in vocabulary
