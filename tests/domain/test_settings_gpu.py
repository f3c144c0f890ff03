"""How GPUs are read: switches that YAML takes for booleans, and mistakes that name their key."""

from decimal import Decimal

import pytest

from farthing.domain.errors import ConfigError
from farthing.settings import parse_settings

BARE = "5c1f0c5e-8d4b-2b7a-91f0-6f3d1c9a7e21"
ENGINES = """engines:
- {name: a, url: "http://a:8000", gpu_uuids: [GPU-1, GPU-2]%s}
- {name: b, url: "http://b:8000", gpu_uuids: [GPU-2]%s}
"""


@pytest.mark.parametrize("text", ["on", '"on"', "true"])
def test_a_switch_is_on_however_yaml_reads_it(text):
    """YAML 1.1 takes a plain on for true."""
    assert parse_settings(f"gpus:\n  nvml: {text}\n", "f.yaml").gpus.nvml == "on"


def test_a_switch_may_be_off_or_auto():
    """The processors are off unless somebody asks for them."""
    gpus = parse_settings("gpus:\n  nvml: off\n  cpu: auto\n", "f.yaml").gpus
    assert (gpus.nvml, gpus.cpu) == ("off", "auto")
    defaults = parse_settings("", "f.yaml").gpus
    assert (defaults.nvml, defaults.cpu) == ("auto", "off")


def test_what_electricity_emits_and_costs_is_unknown_until_it_is_entered():
    """0 grams would be a claim."""
    defaults = parse_settings("", "f.yaml").gpus
    assert (defaults.carbon_g_per_kwh, defaults.energy_usd_per_kwh, defaults.pue) == (None, None, Decimal(1))
    entered = parse_settings("gpus:\n  carbon_g_per_kwh: 0\n  pue: 1.25\n  energy_usd_per_kwh: 0.09\n", "f.yaml").gpus
    assert (entered.carbon_g_per_kwh, entered.pue, entered.energy_usd_per_kwh) == (
        Decimal(0),
        Decimal("1.25"),
        Decimal("0.09"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus:\n  nvml: maybe\n", "f.yaml:2: gpus.nvml: "),
        ("gpus:\n  pue: 0.9\n", "f.yaml:2: gpus.pue: "),
        ("gpus:\n  sample_seconds: 5\n  batch_seconds: 2\n", "a record needs a sample"),
        ("gpus:\n  exporters:\n  - {url: http://x/metrics, kind: dgcm}\n", "f.yaml:3: gpus.exporters.0.kind: "),
        ("gpus:\n  agents:\n  - gpu-1\n", "'gpu-1' is no HOST:PORT; write 'gpu-1:9466', say"),
        ("gpus:\n  agents: ['http://gpu-1:9466']\n", "'http://gpu-1:9466' is no HOST:PORT"),
        ("gpus:\n  agents: ['gpu-1:70000']\n", "'gpu-1:70000' is no HOST:PORT"),
        ("gpus:\n  agents: ['gpu-1:9466', 'gpu-1:9466']\n", "gpu-1:9466 is scraped twice; keep one entry"),
        (
            "gpus:\n  exporters: [{url: 'http://gpu-1:9466/metrics'}]\n  agents: ['gpu-1:9466']\n",
            "gpu-1:9466 is among the exporters, which are scraped too; keep one entry",
        ),
        (
            "gpus:\n  exporters:\n  - {url: http://x/metrics, kind: dcgm}\n  - {url: http://x/metrics, kind: amd}\n",
            "http://x/metrics is read twice",
        ),
        ("gpus:\n  exporters:\n  - {url: 'http://me:hunter2@x/metrics'}\n", "leave it out"),
        ("gpus:\n  stuck_seconds: .inf\n", "f.yaml:2: gpus.stuck_seconds: "),
        ("engines:\n- {name: a, url: http://x, pod: llama}\n", "f.yaml:2: engines.0.pod: "),
        ("engines:\n- {name: a, url: http://x, gpu_uuids: ['']}\n", "engines.0.gpu_uuids.0: "),
        (
            "engines:\n- {name: a, url: http://x, gpu: H100-SXM, gpu_uuids: [GPU-1, GPU-2]}\n",
            "engine 'a' has 2 gpu_uuids and is billed for 1 (gpu_count); enter one for each",
        ),
        (
            f"engines:\n- {{name: a, url: http://x, gpu_uuids: [{BARE}]}}\n",
            f"f.yaml:2: engines.0.gpu_uuids.0: {BARE!r} lacks the prefix that drivers give it; write "
            f"'GPU-{BARE}', or 'MIG-{BARE}' for a slice",
        ),
        (
            f"engines:\n- {{name: a, url: http://x, gpu_uuids: [GPU-1, gpu-{BARE}]}}\n",
            f"f.yaml:2: engines.0.gpu_uuids.1: 'gpu-{BARE}' lacks the prefix that drivers give it; write 'GPU-{BARE}'",
        ),
        (ENGINES % ("", ""), "GPU GPU-2 is of 'a' and of 'b'"),
        (ENGINES % (", gpu_fraction: 0.5", ""), "GPU GPU-2 is of 'a' and of 'b'"),
        (ENGINES % ("", ", gpu_fraction: 0.5"), "GPU GPU-2 is of 'a' and of 'b'"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_key(text, message):
    """As everywhere in the settings."""
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, "f.yaml")
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_engines_that_share_a_device_each_have_a_fraction_of_it():
    """Two halves are one GPU."""
    both = parse_settings(ENGINES % (", gpu_fraction: 0.5", ", gpu_fraction: 0.5"), "f.yaml").engines
    assert [engine.gpu_uuids for engine in both] == [("GPU-1", "GPU-2"), ("GPU-2",)]


def test_devices_are_called_as_their_readers_call_them():
    """NVIDIA's UUIDs have a prefix; a slice without one is its GPU's and a number; AMD's and Intel's have none."""
    names = (f"GPU-{BARE}", f"MIG-{BARE}", f"GPU-{BARE}/3", "692251001124X", "72ff740f-0000-1000-804c-3b58bf67050e")
    text = f"engines:\n- {{name: a, url: http://x, gpu_uuids: [{', '.join(names)}]}}\n"
    assert parse_settings(text, "f.yaml").engines[0].gpu_uuids == names
