"""What GPUs that no engine has cost now: each is billed once, and those of somebody not at all."""

from decimal import Decimal

from farthing.books.idle_devices import Slots
from farthing.domain.clock import HOUR
from farthing.domain.devices import DevicesView, DeviceView
from farthing.domain.gpu import MIG, GpuReading
from farthing.domain.model import Engine
from farthing.service.idle_now import unallocated_now
from farthing.service.pricing import price_book
from farthing.settings import EngineSettings, Settings

NOW = 1_795_445_124_000_000_000
H100 = "NVIDIA H100 80GB HBM3"
SETTINGS = Settings.model_validate(
    {"prices": [{"gpu": "H100-SXM", "usd_per_hour": 2.49, "from": "2026-01-01", "source": "contract"}]}
)
PRICES = price_book(SETTINGS)


def gpus(*uuids, name=H100, engines=None):
    """Whole GPUs that are there now."""
    devices = tuple(DeviceView(GpuReading(uuid=uuid, at_ns=NOW, source="nvml", name=name)) for uuid in uuids)
    return DevicesView(NOW, devices, {}, engines or {})


def engine(name, count=1, gpu="H100-SXM"):
    return Engine(name, "vllm", "m", gpu, count)


def test_a_gpu_that_no_engine_has_costs_its_price():
    """Rented and serving nothing."""
    view = gpus("GPU-1", "GPU-2", engines={"GPU-1": ("a",)})
    assert unallocated_now(view, [engine("a")], (), PRICES) == {"GPU-2": 2_490_000_000}


def test_an_engine_that_does_not_tell_its_devices_has_as_many_as_it_is_billed_for():
    """Nothing is billed twice."""
    found = unallocated_now(gpus("GPU-1", "GPU-2", "GPU-3"), [engine("a", count=2)], (), PRICES)
    assert list(found.values()) == [2_490_000_000]


def test_half_a_gpu_is_left_of_one_of_which_an_engine_has_half():
    """By its fraction in the settings."""
    settings = (EngineSettings(name="a", url="http://x", gpu_fraction=Decimal("0.5")),)
    view = gpus("GPU-1", engines={"GPU-1": ("a",)})
    assert unallocated_now(view, [engine("a")], settings, PRICES) == {"GPU-1": 1_245_000_000}


def test_a_gpu_of_a_slice_that_an_engine_has_is_that_engines():
    """By the slice's GPU."""
    part = DeviceView(GpuReading(uuid="MIG-1", at_ns=NOW, source="nvml", kind=MIG, parent="GPU-1", profile="1g.10gb"))
    view = gpus("GPU-1", engines={"MIG-1": ("a",)})
    view = DevicesView(NOW, (*view.devices, part), {}, view.engines)
    assert unallocated_now(view, [engine("a")], (), PRICES) == {}


def test_a_gpu_of_a_capacity_is_billed_there():
    """Its unused slots are in the capacity's own account."""
    slots = (Slots("H100-SXM", 2, NOW - HOUR, None),)
    assert unallocated_now(gpus("GPU-1", "GPU-2"), [], (), PRICES, slots) == {}
    assert len(unallocated_now(gpus("GPU-1", "GPU-2", "GPU-3"), [], (), PRICES, slots)) == 1


def test_a_gpu_without_a_price_is_unknown_and_not_free():
    """It is left out; check and reports name it."""
    assert unallocated_now(gpus("GPU-1", name="Some New GPU"), [], (), PRICES) == {}


def test_processors_are_no_gpus():
    """They come with the host."""
    cpu = DeviceView(GpuReading(uuid="CPU-1", at_ns=NOW, source="rapl", kind="cpu", name="Xeon"))
    assert unallocated_now(DevicesView(NOW, (cpu,)), [], (), PRICES) == {}
