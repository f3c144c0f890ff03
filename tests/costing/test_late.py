"""Records that come after their windows settled take their money back out of unattributed, to the nano-dollar."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from tests.simulation import simulate
from tests.simulation.presets import TEXT

from farthing.costing.stream import CostStream, Options
from farthing.domain.clock import SECOND
from farthing.domain.conventions import UNATTRIBUTED
from farthing.domain.records import Usage

OPTIONS = Options(grace_ns=10 * SECOND)


def _run(records):
    """Every window and adjustment, at one nano-dollar a nanosecond."""
    stream = CostStream(records[0], lambda start, end: end - start, OPTIONS)
    windows, adjustments = [], []
    for record in records[1:]:
        windows += stream.feed(record)
        adjustments += stream.adjustments
        stream.adjustments.clear()
    return windows + stream.finish(), adjustments + stream.adjustments


def _lines(windows, adjustments=()):
    lines: Counter[tuple[str, str]] = Counter()
    for source in (*windows, *adjustments):
        for posting in source.postings:
            lines[posting.account, posting.tenant] += posting.nano
    return lines


@pytest.fixture(scope="module")
def records():
    """A simulated engine's records, in order."""
    return list(simulate(TEXT.seeded(3).scaled(0.3)).records)


def _delayed(records, seed, by):
    """The records with one usage record in twenty delivered ``by`` records later."""
    rng = random.Random(seed)  # noqa: S311 - seeded trials
    order = []
    for i, record in enumerate(records):
        late = isinstance(record, Usage) and rng.random() < 0.05
        order.append((i + (by if late else 0), record))
    moved = sum(a != i for i, (a, _) in enumerate(order))
    ordered = [record for _, record in sorted(order[:-1], key=lambda item: item[0])] + [order[-1][1]]
    return ordered, moved


@pytest.mark.parametrize("seed", range(5))
def test_a_late_record_gives_its_tenant_what_was_unattributed_and_changes_nobody_elses_line(records, seed):
    """Each adjustment adds up to nothing, takes only from unattributed, and never more than is there."""
    delayed, moved = _delayed(records, seed, by=150)
    windows, adjustments = _run(delayed)
    assert moved
    assert adjustments
    before, after = _lines(windows), _lines(windows, adjustments)
    assert sum(before.values()) == sum(after.values())
    assert min(after.values()) >= 0
    lost_before, lost_after = before[UNATTRIBUTED, ""], after[UNATTRIBUTED, ""]
    assert lost_after < lost_before * 0.35
    for adjustment in adjustments:
        assert sum(posting.nano for posting in adjustment.postings) == 0
        reversed_ = [posting for posting in adjustment.postings if posting.nano < 0]
        assert {posting.account for posting in reversed_} == {UNATTRIBUTED}
        assert sum(adjustment.cost_nano.values()) == -sum(posting.nano for posting in reversed_)
    by_tenant = {key for adjustment in adjustments for key in [(p.account, p.tenant) for p in adjustment.postings]}
    assert {key for key in after if after[key] != before[key]} <= by_tenant


def test_a_record_that_never_comes_leaves_its_money_unattributed(records):
    """Lost is lost: nothing is shared out among the others."""
    rng = random.Random(1)  # noqa: S311 - seeded trials
    kept = [record for record in records if not isinstance(record, Usage) or rng.random() > 0.05]
    less, whole = _lines(*_run(kept)), _lines(*_run(records))
    busy = sum(nano for (account, _), nano in whole.items() if account in ("charged", "aborted", UNATTRIBUTED))
    assert whole[UNATTRIBUTED, ""] < busy * 0.001
    assert less[UNATTRIBUTED, ""] > busy * 0.02
    assert all(less[key] < nano * 1.02 for key, nano in whole.items() if key[0] == "charged")


def test_a_request_longer_than_the_grace_period_is_still_paid_by_its_tenant(records):
    """Its first windows settle without it; its record moves their money when it comes."""
    usage = max(
        (r for r in records if isinstance(r, Usage) and r.sequences), key=lambda r: r.sequences[0].output_tokens
    )
    short = replace(OPTIONS, grace_ns=SECOND)
    stream = CostStream(records[0], lambda start, end: end - start, short)
    paid: Counter[str] = Counter()
    for record in records[1:]:
        for window in stream.feed(record):
            for request in window.requests:
                paid[str(request.key)] += sum(request.cost_nano.values())
        for adjustment in stream.adjustments:
            paid[str(adjustment.key)] += sum(adjustment.cost_nano.values())
        stream.adjustments.clear()
    windows, adjustments = _run(records)
    fair: Counter[str] = Counter()
    for window in windows:
        for request in window.requests:
            fair[str(request.key)] += sum(request.cost_nano.values())
    for adjustment in adjustments:
        fair[str(adjustment.key)] += sum(adjustment.cost_nano.values())
    assert paid[str(usage.key)] == pytest.approx(fair[str(usage.key)], rel=0.1)
