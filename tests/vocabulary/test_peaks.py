"""Peak rates: found by the names that drivers and price tables use, dense, and never guessed."""

import gzip
import json
from pathlib import Path

import pytest

from farthing.books.prices import DEFAULT_PRICES
from farthing.domain.errors import ConfigError
from farthing.vocabulary.peaks import load_peaks, parse_peaks, peaks_of

RECORDINGS = Path(__file__).parents[2] / "app/farthing/replay/recordings"
ENTRY = """
{key}:
  bf16: {bf16}
  fp8: {fp8}
  memory_bytes_per_second: 1.0e+12
  watts: 300
  printed_sparse: false
  source: a datasheet
  url: https://example.com/sheet.pdf
  names: [{names}]
"""


def entry(key="X1", bf16="100e12", fp8="200e12", names="NVIDIA X1"):
    """A device as the file writes it."""
    return ENTRY.format(key=key, bf16=bf16, fp8=fp8, names=names)


def test_the_recorded_h100_has_its_datasheets_rates():
    """By the name that its driver gave: 989.5 dense TFLOP/s (1,979 with sparsity), 3.35 TB/s, 700 W."""
    with gzip.open(RECORDINGS / "h100-llama8b-vllm0.26/nvml.jsonl.gz", "rt") as lines:
        device = json.loads(next(lines))
    peaks = peaks_of(device["name"])
    assert peaks is not None
    assert (peaks.bf16, peaks.fp8, peaks.memory_bytes_per_second) == (989.5e12, 1979e12, 3.35e12)
    assert peaks.watts * 1_000 == device["power_limit_mw"]


@pytest.mark.parametrize("price", DEFAULT_PRICES, ids=lambda price: price.gpu)
def test_every_gpu_with_a_public_price_has_peak_rates(price):
    """A price table's name is enough."""
    assert peaks_of(price.gpu) is not None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB-SXM"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB-SXM"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB-PCIe"),
        ("nvidia l40s", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA B200", "B200"),
        ("AMD Instinct MI300X OAM", "MI300X"),
        ("h100_sxm", "H100-SXM"),
    ],
)
def test_a_driver_and_a_price_table_name_the_same_device(name, key):
    """Case, spaces, hyphens and underscores do not matter."""
    assert peaks_of(name) is load_peaks()[key]


@pytest.mark.parametrize(
    "name",
    ["NVIDIA GH200 480GB", "NVIDIA GB200", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H20", "NVIDIA L40", "cpu", ""],
)
def test_a_device_that_is_not_listed_has_no_peak_rates(name):
    """Also where its name contains another's: a ratio to the wrong peak would look like a measurement."""
    assert peaks_of(name) is None


def test_every_figure_is_dense_and_has_its_source():
    """No device is faster than what its power allows: at most 2.5 dense TFLOP/s in bf16 a watt, as of 2026."""
    for key, peaks in load_peaks().items():
        assert 0.5e12 < peaks.bf16 / peaks.watts < 2.5e12, key
        assert 1e9 < peaks.memory_bytes_per_second / peaks.watts < 12e9, key
        assert peaks.source.split()[0] in {"NVIDIA", "AMD"}, key


def test_a_figure_with_sparsity_beside_a_dense_one_is_refused():
    """bf16 with sparsity equals fp8 without: the usual slip when a datasheet is copied."""
    with pytest.raises(ConfigError, match=r"p: X1: fp8 2e.14 is not about twice bf16 2e.14; is one of them with"):
        parse_peaks(entry(bf16="200e12"), "p")


def test_a_name_of_two_devices_is_refused():
    """It would be found as either."""
    with pytest.raises(ConfigError, match="p: 'nvidia-x1' is a name of both X1 and X2"):
        parse_peaks(entry() + entry(key="X2", names="nvidia-x1"), "p")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "p: not valid YAML"),
        ("3", "p: the top level must be a mapping, not int"),
        (entry(bf16="-1"), "p: X1.bf16: Input should be greater than 0"),
        (entry() + "  watt: 3\n", "p: X1.watt: Extra inputs are not permitted"),
    ],
)
def test_a_malformed_file_is_told_in_one_line(text, said):
    """With the device and the field."""
    with pytest.raises(ConfigError) as told:
        parse_peaks(text, "p")
    assert str(told.value).startswith(said)
    assert "\n" not in str(told.value)
