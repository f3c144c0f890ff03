"""Devices read beside their engines: energy joins the books, and no amount of money depends on it."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
import sqlalchemy as sa
from tests.service.books import accountant, content, raw_records
from tests.service.devices import NAME, UUID, as_devices, device, without_samples

from farthing.domain import conventions as c
from farthing.domain.clock import SECOND
from farthing.domain.gpu import ENERGY_SHARE, INTEGRATED, MIG
from farthing.domain.records import RawRecord
from farthing.ledger import tables as t
from farthing.ledger.devices import energy_before, presences
from farthing.ledger.repository import Ledger
from farthing.ledger.verify import verify
from farthing.replay.recording import load_recording
from farthing.service.boot_account import BootAccount
from farthing.settings import CostingSettings, EngineSettings, Settings

TEXT, VISION = "h100-llama8b-vllm0.26", "h100-qwen2vl7b-vllm0.26"
JOULES = {TEXT: 139_680, VISION: 93_673}
"""By the device's counter, from the first sample to the last."""


@pytest.fixture(scope="module", params=[TEXT, VISION])
def raw(request):
    """A recording's records, the device's samples among them."""
    return raw_records(load_recording(request.param))


@pytest.fixture(scope="module")
def text():
    """The same of the language model alone."""
    return raw_records(load_recording(TEXT))


@pytest.fixture
def ledger(ledger_url):
    """An empty ledger, in each database."""
    ledger = Ledger.open(ledger_url)
    yield ledger
    ledger.close()


def _booked(records, settings=None, *, chunk=None):
    """A ledger with the books of some records, that were read all at once or a few at a time."""
    ledger = Ledger.open("sqlite://")
    books = accountant(ledger, settings)
    for start in range(0, len(records), chunk or len(records)):
        ledger.add(records[start : start + (chunk or len(records))])
        books.advance()
    return ledger


def _account(books):
    account = books.account("b")
    assert isinstance(account, BootAccount)
    return account


def _money(ledger):
    """All of the books but energy: each row, without what it says of joules, and lines that hold none of the money."""
    found = content(ledger)
    energy = {"energy_first_mj", "energy_last_mj", "energy_mj", "millijoules", "gpu_uuids"}
    kept = {}
    for table in (t.boots, t.windows, t.journal, t.requests):
        names = [column.name for column in table.columns if column.name not in {"id", "read_id"}]
        rows = [dict(zip(names, row, strict=True)) for row in found[table.name]]
        rows = [row for row in rows if row.get("nano", 1)]
        kept[table.name] = sorted(repr({k: v for k, v in row.items() if k not in energy}) for row in rows)
    return kept


def _millijoules(ledger, *columns):
    j = t.journal.c
    keys = [j[name] for name in columns]
    rows = ledger.select(sa.select(*keys, sa.func.sum(j.millijoules)).group_by(*keys))
    return Counter({tuple(row[:-1]): int(row[-1]) for row in rows if row[-1]})


def test_recorded_devices_come_to_their_counters_joules_in_phases_accounts_and_tenants(raw):
    """139,680 J and 93,673 J, within 0.1 %; every sum of integer millijoules is the whole."""
    ledger = _booked([*without_samples(raw), *as_devices(raw)])
    ((total, windows),) = ledger.select(sa.select(sa.func.sum(t.windows.c.energy_mj), sa.func.count(t.windows.c.boot)))
    assert total / 1_000 in [pytest.approx(joules, rel=1e-3) for joules in JOULES.values()]
    assert windows > 30
    assert sum(_millijoules(ledger, "debit", "phase").values()) == total
    by_tenant = _millijoules(ledger, "tenant")
    assert sum(by_tenant.values()) == total
    asked = {row[0] for row in ledger.select(sa.select(t.requests.c.tenant).distinct())}
    assert len(asked) >= 3
    assert all(by_tenant[tenant,] > 0 for tenant in asked)
    owned = sum(nano for (account, tenant), nano in _millijoules(ledger, "debit", "tenant").items() if tenant)
    assert ledger.select(sa.select(sa.func.sum(t.requests.c.energy_mj))) == [(owned,)]
    assert ledger.select(sa.select(t.boots.c.energy_last_mj - t.boots.c.energy_first_mj)) == [(total,)]
    assert [check for check in verify(ledger.engine) if not check.ok] == []


def test_books_with_a_device_beside_the_engine_are_those_of_samples_among_its_records(raw):
    """Whoever sends them: the same joules on the same lines."""
    beside = content(_booked([*without_samples(raw), *as_devices(raw)]))
    among = _booked(raw)
    assert sum(_millijoules(among, "debit").values()) > 0
    columns = ("debit", "phase", "tenant", "method", "start_ns", "nano")
    assert _millijoules(_booked([*without_samples(raw), *as_devices(raw)]), *columns) == _millijoules(among, *columns)
    assert len(beside["journal"]) == len(content(among)["journal"])


@pytest.mark.parametrize("method", ["counter", INTEGRATED])
@pytest.mark.parametrize("order", ["first", "last", "dealt", "as it came"])
def test_no_amount_of_money_depends_on_telemetry(raw, method, order):
    """With it and without, and in whatever order it comes: each row of the books is the same but for its energy."""
    plain, samples = without_samples(raw), as_devices(raw, method=method)
    if order == "first":
        records, chunk = [*samples, *plain], None
    elif order == "last":
        records, chunk = [*plain, *samples], 40
    elif order == "dealt":
        records = list(plain)
        rng = random.Random(7)  # noqa: S311 - seeded trials
        for one in samples:
            records.insert(rng.randrange(len(records)), one)
        chunk = 25
    else:
        start = next(record for record in plain if record.kind == "started")
        lag = samples[0].event_ns - 5 * SECOND - start.event_ns
        records = sorted([*plain, *samples], key=lambda one: one.event_ns - (lag if one.kind == "device" else 0))
        chunk = 20
    assert _money(_booked(records, chunk=chunk)) == _money(_booked(plain))


def test_power_over_time_agrees_with_the_counter_and_says_that_it_is_an_estimate(raw):
    """Within 0.05 % on both recordings, where 2 % is asked for; its energy is on lines of its own method."""
    counted = _booked([*without_samples(raw), *as_devices(raw)])
    estimated = _booked([*without_samples(raw), *as_devices(raw, method=INTEGRATED)])
    whole = sum(_millijoules(counted, "debit").values())
    assert sum(_millijoules(estimated, "debit").values()) == pytest.approx(whole, rel=5e-4)
    assert set(_millijoules(estimated, "method")) == {(c.ESTIMATED,)}
    assert (c.ESTIMATED,) not in _millijoules(counted, "method")
    assert [check for check in verify(estimated.engine) if not check.ok] == []


def test_samples_in_any_order_and_twice_give_equal_energy(text):
    """Their order is their time; a spool that is sent again changes nothing."""
    plain, samples = without_samples(text), as_devices(text)
    expected = _millijoules(_booked([*plain, *samples]), "debit", "phase", "tenant", "start_ns")
    again = [replace_key(one, number) for number, one in enumerate(samples)]
    for records in ([*samples[::-1], *plain], [*samples, *again, *plain], [*samples[::2], *plain, *samples[1::2]]):
        assert _millijoules(_booked(records), "debit", "phase", "tenant", "start_ns") == expected


def replace_key(raw, number):
    """The same samples under another sequence."""
    line = raw.line.replace(b'"seq":' + str(raw.key.sequence).encode(), b'"seq":' + str(9_000 + number).encode())
    key = type(raw.key)(raw.key.boot, 0, 9_000 + number)
    return type(raw)(key, raw.kind, raw.event_ns, line)


def test_a_restart_at_any_moment_ends_in_the_same_books(text):
    """Killed after any read: what is read again comes to what it came to before, energy included."""
    plain, samples = without_samples(text), as_devices(text)
    start = samples[0].event_ns
    mono = next(record.event_ns for record in plain if record.kind == "started")
    records = sorted([*plain, *samples], key=lambda one: one.event_ns - (start - mono if one.kind == "device" else 0))
    undisturbed = _booked(records, chunk=60)
    ledger = Ledger.open("sqlite://")
    for begin in range(0, len(records), 60):
        ledger.add(records[begin : begin + 60])
        # each process reads once and is gone, with what it only held in memory
        accountant(ledger).advance()
    accountant(ledger).advance()
    assert content(ledger) == content(undisturbed)
    ((joules,),) = ledger.select(sa.select(sa.func.sum(t.windows.c.energy_mj)))
    assert joules == 139_680_093


def test_a_boot_that_has_run_for_long_is_read_again_as_far_back_as_its_fit_looks(text, monkeypatch):
    """Its earlier samples may be gone; what its windows used before counts on."""
    plain, samples = without_samples(text), as_devices(text)
    start, mono = samples[0].event_ns, next(record.event_ns for record in plain if record.kind == "started")
    records = sorted([*plain, *samples], key=lambda one: one.event_ns - (start - mono if one.kind == "device" else 0))
    ledger = Ledger.open("sqlite://")
    cut = len(records) * 2 // 3
    ledger.add(records[:cut])
    accountant(ledger).advance()
    with ledger.engine.begin() as connection:
        r = t.records.c
        old = sa.delete(t.records).where(r.kind == "device", r.event_ns < start + 30 * SECOND)
        assert connection.execute(old).rowcount > 3
    reach = 40 * SECOND
    monkeypatch.setattr("farthing.service.devices.energy_before", lambda led, boot, _: energy_before(led, boot, reach))
    books = accountant(ledger)
    books.advance()
    assert [check for check in verify(ledger.engine) if not check.ok] == []
    ledger.add(records[cut:])
    books.advance()
    assert [check for check in verify(ledger.engine) if not check.ok] == []
    assert _money(ledger) == _money(_booked(plain))
    ((joules,),) = ledger.select(sa.select(sa.func.sum(t.windows.c.energy_mj)))
    assert joules == 139_680_093
    assert [boot.energy_mj for boot in ledger.boots()] == [joules]


def test_a_start_reads_only_the_samples_that_open_boots_need(text, monkeypatch):
    """Months of samples lie in the inbox; their presence is known already."""
    ledger = _booked([*without_samples(text), *as_devices(text)])
    ledger.add([device([10**18 + n * SECOND for n in range(3)], uuid="GPU-old")])
    accountant(ledger).advance()

    def unexpected(line):
        raise AssertionError(f"a start read {line!r}")

    monkeypatch.setattr("farthing.service.devices.decode_device", unexpected)
    accountant(ledger).advance()
    assert len({one.uuid for one in _stays(ledger)}) == 2


def _stays(ledger):
    with ledger.engine.connect() as connection:
        return presences(connection)


def test_a_collector_that_died_does_not_hold_the_books(text):
    """Windows after its last sample settle without energy, a grace period later at most; it is unknown, not 0."""
    samples = as_devices(text)[:20]
    settings = Settings(costing=CostingSettings(grace_seconds=20))
    ledger = Ledger.open("sqlite://")
    ledger.add([*samples, *without_samples(text)])
    books = accountant(ledger, settings)
    books.advance()
    w = t.windows.c
    energies = [row[0] for row in ledger.select(sa.select(w.energy_mj))]
    assert len(energies) == 51
    assert 0 < sum(energy is not None for energy in energies) < 51
    assert _account(books).closed
    assert _money(ledger) == _money(_booked(without_samples(text), settings))


def test_an_engine_that_stopped_waits_for_its_last_samples_and_not_for_ever(text):
    """The collector died with the engine: its silence goes into the inbox, so a restart finds the same."""
    plain, samples = without_samples(text), as_devices(text)
    # three seconds and a half before the end
    ledger = Ledger.open("sqlite://")
    ledger.add([*samples[:-1], *plain])
    clock = [0]
    books = accountant(ledger)
    books._silence._clock_ns = lambda: clock[0]
    books.advance()
    account = _account(books)
    assert (account.ended, account.closed) == (True, False)
    assert ledger.select(sa.select(t.boots.c.closed_ns)) == [(None,)]
    assert account.wip() != {}
    assert sum(view.residual_nano for view in books.snapshot().engines) == 0
    assert books.note_silence() == 0
    clock[0] = 121 * SECOND
    assert books.note_silence() == 1
    books.advance()
    assert account.closed
    assert _money(ledger) == _money(_booked(plain))


def test_samples_that_cannot_be_read_hold_nobody_up(text, caplog):
    """As of a version that said more: they are told of, and the others' books go on."""
    plain, samples = without_samples(text), as_devices(text)
    broken = type(samples[3])(samples[3].key, "device", samples[3].event_ns, b'{"kind":"device","v":1}')
    ledger = _booked([*samples[:3], broken, *samples[4:], *plain])
    assert "cannot be read and are left out" in caplog.text
    assert sum(_millijoules(ledger, "debit").values()) == 139_680_093
    assert _money(ledger) == _money(_booked(plain))


def test_energies_that_no_device_uses_stop_nobodys_books(text):
    """Also where an inbox has taken them already: of a device beside the engine, and among its own records."""
    plain, jumps = without_samples(text), []
    for record in [*as_devices(text), *text]:
        line = json.loads(record.line)
        if "energy_mj" in line:
            line["energy_mj"] = [number % 2 * 2**62 for number in range(len(line["energy_mj"]))]
        jumps.append(RawRecord(record.key, record.kind, record.event_ns, json.dumps(line).encode()))
    devices = [record for record in jumps if record.kind == "device"]
    assert _money(_booked([*devices, *plain])) == _money(_booked(plain))
    assert _money(_booked(jumps[len(devices) :])) == _money(_booked(text))


def test_a_slices_samples_are_not_its_gpus_after_a_restart(text):
    """Its UUID begins as the GPU's does."""
    plain = without_samples(text)
    ledger = Ledger.open("sqlite://")
    ledger.add(plain[:1])
    accountant(ledger).advance()
    ledger.add([*as_devices(text), *as_devices(text, uuid=f"{UUID}/1")])
    accountant(ledger).advance()
    books = accountant(ledger)
    ledger.add(plain[1:])
    books.advance()
    assert sum(_millijoules(ledger, "debit").values()) == 139_680_093


def test_a_device_that_tells_no_energy_is_not_waited_for(text):
    """It is there, and that is all: windows settle as without it, and the boot closes with its last record."""
    plain = without_samples(text)
    silent = [device([one.event_ns], sequence=number + 1) for number, one in enumerate(as_devices(text))]
    for records in ([*silent, *plain], [*silent[:-5], *plain]):
        ledger = Ledger.open("sqlite://")
        ledger.add(records)
        books = accountant(ledger)
        books.advance()
        assert _account(books).closed
        assert ledger.select(sa.select(sa.func.count(t.windows.c.energy_mj))) == [(0,)]
        assert _money(ledger) == _money(_booked(plain))


def test_the_last_samples_close_a_boot_that_waits_for_them(text):
    """They come some seconds after its last record."""
    plain, samples = without_samples(text), as_devices(text)
    ledger = Ledger.open("sqlite://")
    ledger.add([*samples[:-1], *plain])
    books = accountant(ledger)
    books.advance()
    assert not _account(books).closed
    ledger.add(samples[-1:])
    books.advance()
    assert _account(books).closed
    assert content(ledger) == content(_booked([*samples, *plain]))


def test_settings_and_pods_say_which_devices_an_engine_has_where_its_probe_does_not(text):
    """In that order: what the probe says, then farthing.yaml, then Kubernetes."""
    silent = without_samples(text, uuids=())
    in_pod = as_devices(text)
    in_pod = [with_pod(one) for one in in_pod]
    engine = {"name": "h100", "url": "http://127.0.0.1:8000", "probe": True}
    for records, extra, found in (
        ([*in_pod, *silent], {"gpu_uuids": (UUID,)}, True),
        ([*in_pod, *silent], {"pod": "ml/chat-*"}, True),
        ([*silent, *in_pod], {"pod": "ml/chat-*"}, True),
        ([*in_pod, *silent], {"pod": "ml/other-*"}, False),
        ([*in_pod, *silent], {"gpu_uuids": ("GPU-another",)}, False),
        ([*in_pod, *without_samples(text)], {"gpu_uuids": ("GPU-another",)}, True),
    ):
        settings = Settings(engines=(EngineSettings.model_validate(engine | extra),))
        ledger = _booked(records, settings)
        ((joules,),) = ledger.select(sa.select(sa.func.coalesce(sa.func.sum(t.windows.c.energy_mj), 0)))
        assert (joules > 0) == found, extra
        ((told,),) = ledger.select(sa.select(t.boots.c.gpu_uuids))
        assert (UUID in told) == found


def with_pod(raw):
    """The same samples of a device that Kubernetes gave to a pod."""
    line = raw.line[:-1] + b',"pod":"ml/chat-0"}'
    return type(raw)(raw.key, raw.kind, raw.event_ns, line)


def test_two_devices_of_an_engine_are_one_energy_and_a_slices_part_is_an_estimate(text):
    """Tensor parallel: windows wait for both; a MIG slice's energy is told as its part of its GPU's."""
    plain = without_samples(text, uuids=("GPU-a", "GPU-b"))
    both = [*as_devices(text, uuid="GPU-a"), *as_devices(text, uuid="GPU-b")]
    ledger = _booked([*both, *plain])
    assert sum(_millijoules(ledger, "debit").values()) == 2 * 139_680_093
    sliced = [share_of(one) for one in as_devices(text, uuid="MIG-1")]
    ledger = _booked([*sliced, *without_samples(text, uuids=("MIG-1",))])
    assert set(_millijoules(ledger, "method")) == {(c.ESTIMATED,)}
    assert sum(_millijoules(ledger, "debit").values()) == 139_680_093


def share_of(raw):
    """Samples of a MIG slice."""
    line = raw.line.replace(b'"method":"counter"', f'"method":"{ENERGY_SHARE}"'.encode())
    line = line[:-1] + f',"parent":"GPU-p","device_kind":"{MIG}"}}'.encode()
    return type(raw)(raw.key, raw.kind, raw.event_ns, line)


def test_presence_begins_anew_after_a_minute_and_is_the_same_in_any_order(ledger):
    """One row a stay, whatever arrives when, however often, and across restarts."""
    start = 1_790_000_000 * SECOND
    rows = [[start + 10 * n * SECOND for n in range(3)], [start + (80 + n) * SECOND for n in range(5)],
            [start + (145 + n) * SECOND for n in range(2)]]  # fmt: skip
    records = [device(at, sequence=number + 1) for number, at in enumerate(rows)]
    for order in (2, 0, 1):
        ledger.add(records[order : order + 1])
        accountant(ledger).advance()
    stays = [(one.first_ns - start, one.last_ns - start, one.name, one.host) for one in _stays(ledger)]
    # 20 s to 80 s is a minute and no more; 84 s to 145 s is more
    assert stays == [(0, 84 * SECOND, NAME, "node-1"), (145 * SECOND, 146 * SECOND, NAME, "node-1")]
    assert accountant(ledger).advance() == 0
