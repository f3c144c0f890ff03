"""What GPUs that no engine has cost now: each is billed once, and those of somebody not at all."""

from fractions import Fraction

from tests.service.books import accountant, raw_records
from tests.service.devices import NAME, UUID, device, without_samples

from farthing.books.idle_devices import Life, Slots
from farthing.domain.clock import HOUR, SECOND
from farthing.domain.gpu import CPU, GPU
from farthing.ledger.devices import Presence
from farthing.ledger.repository import Ledger
from farthing.replay.recording import load_recording
from farthing.service.idle_now import unallocated_now
from farthing.service.pricing import price_book
from farthing.settings import Settings

NOW = 1_795_445_124_000_000_000
SETTINGS = Settings.model_validate(
    {"prices": [{"gpu": "H100-SXM", "usd_per_hour": 2.49, "from": "2026-01-01", "source": "contract"}]}
)
PRICES = price_book(SETTINGS)


def now(*uuids, lives=(), slots=(), name=NAME, kind=GPU):
    """Device -> nano-dollars per hour, of devices that are there now."""
    there = [Presence(uuid, NOW - HOUR, NOW, "node-1", name, kind) for uuid in uuids]
    return {one.uuid: one.nano_per_hour for one in unallocated_now(there, lives, slots, PRICES, NOW)}


def alive(*uuids, count=1, fraction=Fraction(1)):
    """A boot that is there now."""
    return Life("a", NOW, NOW + 1, uuids, "H100-SXM", count, fraction)


def test_a_gpu_that_no_engine_has_costs_its_price():
    """Rented and serving nothing."""
    assert now("GPU-1", "GPU-2", lives=[alive("GPU-1")]) == {"GPU-2": 2_490_000_000}


def test_an_engine_that_does_not_tell_its_devices_has_as_many_as_it_is_billed_for():
    """Nothing is billed twice."""
    assert list(now("GPU-1", "GPU-2", "GPU-3", lives=[alive(count=2)]).values()) == [2_490_000_000]


def test_half_a_gpu_is_left_of_one_of_which_an_engine_has_half():
    """By the fraction that it is billed for."""
    assert now("GPU-1", lives=[alive("GPU-1", fraction=Fraction(1, 2))]) == {"GPU-1": 1_245_000_000}


def test_a_gpu_of_a_capacity_is_billed_there():
    """Its unused slots are in the capacity's own account."""
    slots = (Slots("H100-SXM", 2, NOW - HOUR, None),)
    assert now("GPU-1", "GPU-2", slots=slots) == {}
    assert len(now("GPU-1", "GPU-2", "GPU-3", slots=slots)) == 1


def test_a_gpu_without_a_price_is_unknown_and_a_processor_is_no_gpu():
    """They are left out; statements name what has no price."""
    assert now("GPU-1", name="Some New GPU") == {}
    assert now("CPU-1", kind=CPU) == {}


def test_the_gpu_of_an_engine_that_stopped_is_idle_and_one_that_is_gone_is_not():
    """As the accountant knows them: by boots that are open, and by samples of the last minute, on whatever host."""
    ledger = Ledger.open("sqlite://")
    raw = without_samples(raw_records(load_recording("h100-llama8b-vllm0.26")))
    # what the accountant of these tests takes for now
    moment = 1_795_500_000 * SECOND
    ledger.add([device([moment - 5 * SECOND]), device([moment - 61 * SECOND], uuid="GPU-gone"), *raw[:300]])
    books = accountant(ledger)
    books.advance()
    assert books.idle() == ()
    ledger.add(raw[300:])
    books.advance()
    assert [(one.uuid, one.host, one.nano_per_hour) for one in books.idle()] == [(UUID, "node-1", 3_348_000_000)]
    ledger.close()
