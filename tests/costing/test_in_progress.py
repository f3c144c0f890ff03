"""Work in progress is told by phase without asking who did it, and a horizon's windows are held in an array."""

from collections import Counter, deque

import numpy as np
import pytest
from tests.costing.simulated import cost
from tests.simulation import simulate
from tests.simulation.presets import KV_PRESSURE, VISION

from farthing.costing import joining
from farthing.costing.fit import FEATURES, FitHistory
from farthing.costing.settle import by_phase, settle
from farthing.costing.stream import CostStream
from farthing.domain.records import Started


@pytest.mark.parametrize("config", [KV_PRESSURE.scaled(0.3), VISION.scaled(0.2)], ids=["preemptions", "images"])
def test_amounts_by_phase_are_those_of_the_settled_lines(config, monkeypatch):
    """For every window of an engine that preempts, and of one that sees images."""
    decided = []
    remember = joining.EnergyJoin.decided

    def noted(self, number, one):
        decided.append(one)
        return remember(self, number, one)

    monkeypatch.setattr(joining.EnergyJoin, "decided", noted)
    cost(simulate(config))
    assert len(decided) > 5
    for (_, time, work), settlement, bill, fit in decided:
        lines: Counter[str] = Counter()
        for posting in settlement.postings:
            lines[posting.phase or posting.account] += posting.nano
        assert by_phase(bill, time, work, fit) == lines
        assert settle(bill, time, work, fit=fit, model="m").phase_ns == settlement.phase_ns


def test_settled_and_in_progress_are_the_bill_after_every_record():
    """However often it is asked, and whatever came since."""
    records = simulate(KV_PRESSURE.scaled(0.2)).records
    started = records[0]
    assert isinstance(started, Started)
    stream = CostStream(started, lambda start, end: (end - start) * 3)
    settled, asked = 0, 0
    for record in records[1:]:
        settled += sum(window.bill_nano for window in stream.feed(record))
        in_progress = stream.provisional()
        assert in_progress == stream.provisional()
        assert settled + sum(in_progress.values()) == stream.billed_nano
        asked += bool(in_progress)
    assert asked > 10


@pytest.mark.parametrize(("horizon", "block"), [(1, 1), (3, 1), (40, 1), (239, 1), (240, 2), (260, 2)])
def test_what_slides_out_of_a_horizon_is_what_was_put_in(horizon, block):
    """Bit by bit, as if the products of every block of windows had been kept as they were; never less than that."""
    draw = np.random.default_rng(1)
    history = FitHistory(horizon)
    k = len(FEATURES)
    gram, moment = np.zeros((k, k)), np.zeros(k)
    blocks: deque[tuple[np.ndarray, np.ndarray]] = deque()
    held = 0
    for window in range(300):
        rows = draw.uniform(0, 1e6, (10, k))
        targets = draw.uniform(0.1, 1.0, 10)
        history.add(rows, targets)
        products = rows.T.dot(rows), rows.T.dot(targets)
        if window % block == 0:
            blocks.append(products)
        else:
            blocks[-1] = blocks[-1][0] + products[0], blocks[-1][1] + products[1]
        gram += products[0]
        moment += products[1]
        held += 1
        if held == horizon + block:
            old = blocks.popleft()
            gram -= old[0]
            moment -= old[1]
            held -= block
        assert np.array_equal(history._gram, gram)
        assert np.array_equal(history._moment, moment)
        assert history._rows == 10 * held
    assert horizon <= held < horizon + block
