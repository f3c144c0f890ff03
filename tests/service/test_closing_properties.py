"""Whatever runs, comes late, is restarted and shared out: every closed month foots, and stays as it was."""

import random
from collections import Counter
from itertools import pairwise

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.books.policies import CARD, POOLS, policy
from tests.service.books import accountant, journal_sums
from tests.service.closings import SETTINGS, close, documents, identity, moved
from tests.service.devices import device, without_samples

from farthing.books.periods import bounds
from farthing.books.policy import Policy
from farthing.domain.clock import SECOND
from farthing.domain.records import RawRecord
from farthing.ledger import tables as t
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.closing import Closed
from farthing.settings import CapacitySettings, EngineSettings

MONTHS = ("2026-10", "2026-11", "2026-12")
POLICIES = (
    Policy.default(),
    policy("mode: chargeback\npricing: period_average\n" + POOLS),
    policy("mode: chargeback\n" + CARD + POOLS),
    policy(
        "shared_costs:\n  - {name: gateway, kind: network, usd_per_month: 310.5, from: 2026-10-05}\n"
        "  - {name: disks, kind: storage, usd_per_hour: 0.000123, from: 2026-01-01, to: 2026-11-20}\n"
        "pools:\n  gateway: {driver: requests}\n  idle: {driver: tokens}\n"
    ),
)
NODE = {
    "name": "node",
    "gpu": "H100-SXM",
    "gpus": 3,
    "kind": "committed",
    "usd_upfront": "12345.678901234",
    "usd_per_hour": "0.7",
    "host_share": "0.07",
    "from": "2026-10-07",
    "to": "2027-02-01",
}
CAPACITY = SETTINGS.model_copy(
    update={
        "engines": (EngineSettings(name="h100", url="http://127.0.0.1:8000", probe=True, capacity="node"),),
        "capacity": (CapacitySettings.model_validate(NODE),),
    }
)


@pytest.fixture(scope="module")
def recording():
    """Four minutes of an 8B model on one H100."""
    return load_recording("h100-llama8b-vllm0.26")


MONTH = st.tuples(st.floats(1, 60), st.integers(60, 400), st.floats(0.5, 1), st.booleans())
"""Seconds of a boot before its month ends, its records, the part of them that is on time, and a restart."""
UUIDS = ("GPU-0", "GPU-1", "GPU-2")
STAYS = st.lists(
    st.tuples(
        st.sampled_from(MONTHS),
        st.sampled_from(UUIDS),
        st.floats(-400, 900),
        st.floats(1, 900),
        st.integers(0, 2),
    ),
    max_size=12,
)
"""A month, a device, when it appears (seconds before the month ends) and for how long, and months until it is told."""


@given(
    settings_=st.sampled_from([SETTINGS, CAPACITY]),
    chosen=st.sampled_from(POLICIES),
    months=st.tuples(MONTH, MONTH, MONTH),
    seed=st.integers(0, 2**32),
    stays=STAYS,
    telling=st.lists(st.sampled_from([(), UUIDS[:1], UUIDS[1:]]), min_size=3, max_size=3),
)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_period_tenant_and_account_adds_up_and_nothing_closed_ever_changes(  # noqa: PLR0917 - what happens
    recording, settings_, chosen, months, seed, stays, telling
):
    """Opening work in progress + bill - closing work in progress = charged + named pools.

    Devices come and go, boots say that they run on them or do not, and what is known of both comes late.
    """
    rng = random.Random(seed)  # noqa: S311 - seeded trials
    ledger = Ledger.open("sqlite://")
    books = accountant(ledger, settings_)
    late: list[RawRecord] = []
    closings: list[Closed] = []
    frozen: dict[str, bytes] = {}
    for number, (name, (before_end, length, part, restart)) in enumerate(zip(MONTHS, months, strict=True)):
        arriving = moved(recording, name, before_end, boot=f"boot-{number}")[:length]
        if telling[number]:
            arriving = without_samples(arriving, telling[number])
        ledger.add(_told(stays, number))
        held = {one.key for one in arriving if one.kind == "usage" and rng.random() < 0.2}
        on_time = [one for one in arriving if one.key not in held]
        cut = max(40, round(len(on_time) * part))
        # the last boot's late records come as well, steps of its engine among them
        ledger.add(_dealt(rng, late, on_time[:cut]))
        if restart:
            books = accountant(ledger, settings_)
        books.advance()
        late = [*on_time[cut:], *(one for one in arriving if one.key in held)]
        closed = close(ledger, name, settings_, chosen)
        closings.append(closed)
        identity(closed)
        assert documents(ledger).items() >= frozen.items()
        frozen = documents(ledger)
        _accounts(ledger, closed)
    ledger.add([*late, *_told(stays, None)])
    books.advance()
    assert documents(ledger) == frozen
    for earlier, later in pairwise(closings):
        assert later.document.facts.opening_wip_nano == earlier.document.facts.closing_wip_nano
    ledger.close()


def _told(stays, number):
    """Samples of the stays that are told of when a month is over; None: of those that nobody closed a month with."""
    found = []
    for place, (month, uuid, before_end, seconds, later) in enumerate(stays):
        told = MONTHS.index(month) + later
        if told == number or (number is None and told >= len(MONTHS)):
            start = bounds(month)[1] - round(before_end * SECOND)
            stop = start + round(seconds * SECOND)
            found.append(device([*range(start, stop, 30 * SECOND), stop], uuid=uuid, sequence=place + 1))
    return found


def _dealt(rng, late, on_time):
    """Late records somewhere among the others, each sender's in their order."""
    records = list(on_time)
    for place, record in zip(sorted(rng.randrange(len(records) + 1) for _ in late), late, strict=True):
        records.insert(place, record)
    return records


def _accounts(ledger: Ledger, closed: Closed):
    """Every account of the period's journal is what the facts say, by account, tenant and service."""
    facts = closed.document.facts
    posted = journal_sums(ledger, "period", "debit", "tenant")
    known: Counter[tuple[str, str, str]] = Counter()
    for cost in facts.costs:
        known[facts.period, cost.account, cost.tenant] += cost.nano
    assert {key: nano for key, nano in posted.items() if key[0] == facts.period and nano} == {
        key: nano for key, nano in known.items() if nano
    }
    own: Counter[tuple[str, str, str]] = Counter()
    for cost in facts.costs:
        if cost.service_period == facts.period:
            own[cost.account, cost.tenant, cost.phase] += cost.nano
    assert all(nano >= 0 for nano in own.values())
    b = t.boot_lines.c
    boots = dict(ledger.select(sa.select(b.boot, sa.func.sum(b.nano)).where(b.period == facts.period).group_by(b.boot)))
    for boot in closed.document.boots:
        assert boots.get(boot.name, 0) == boot.opening_wip_nano + boot.bill_nano - boot.closing_wip_nano
        assert boot.closing_wip_nano >= 0
