"""Bad delivery is what it is called, and reproducible."""

from collections import Counter

import pytest
from tests.simulation import perturb
from tests.simulation.cached import preset

from farthing.domain.clock import SECOND
from farthing.domain.records import Usage


@pytest.fixture(scope="module")
def records():
    """Records of two boots and two processes."""
    return preset("mixed").records


def keys(records):
    """How often each record arrives."""
    return Counter(record.key for record in records)


def test_delivery_without_trouble_changes_nothing(records):
    """Nothing asked for, nothing done."""
    assert set(perturb(records, 1).records) == set(records)
    assert keys(perturb(records, 1).records) == keys(records)


def test_reordering_keeps_every_record(records):
    """The same records, in another order."""
    delivery = perturb(records, 1, reorder_ns=20 * SECOND)
    assert keys(delivery.records) == keys(records)
    assert [record.key for record in delivery.records] != [record.key for record in records]
    assert not delivery.lost


def test_duplicates_are_copies_of_what_is_there(records):
    """Some arrive twice, none more often, and none is changed."""
    counts = keys(perturb(records, 2, duplicate=0.3, reorder_ns=SECOND).records)
    assert set(counts) == set(keys(records))
    assert set(counts.values()) == {1, 2}
    assert sum(counts.values()) == pytest.approx(1.3 * len(records), rel=0.1)
    by_key = {record.key: record for record in records}
    assert all(by_key[r.key] == r for r in perturb(records, 2, duplicate=0.3).records)


def test_what_is_lost_is_told_apart(records):
    """Lost and delivered are all there was; only what may be lost is."""
    delivery = perturb(records, 3, drop=0.1, droppable=lambda record: isinstance(record, Usage))
    assert delivery.lost
    assert all(isinstance(record, Usage) for record in delivery.lost)
    assert keys(delivery.records) + keys(delivery.lost) == keys(records)


def test_late_records_come_after_their_neighbours(records):
    """A late record is there, only later."""
    late = perturb(records, 4, late=0.05, late_ns=600 * SECOND)
    assert keys(late.records) == keys(records)
    assert [record.key for record in late.records] != [record.key for record in perturb(records, 4).records]


def test_equal_seeds_deliver_equally(records):
    """Delivery is a function of records and seed."""

    def troubled(seed):
        return perturb(records, seed, duplicate=0.1, reorder_ns=5 * SECOND, late=0.1, late_ns=60 * SECOND, drop=0.05)

    assert troubled(7) == troubled(7)
    assert troubled(7) != troubled(8)
