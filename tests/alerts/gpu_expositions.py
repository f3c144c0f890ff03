"""Expositions of GPU exporters as series of promtool, and what every one of them says in truth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from farthing.domain import conventions as names

__all__ = ["DEVICE", "FIXTURES", "KINDS", "TRUE", "UUID", "exposition_series"]

FIXTURES = Path(__file__).parents[1] / "fixtures" / "gpu"
KINDS = ("dcgm", "amd", "nvidia_smi", "xpum")
UUID = "1f2e3d4c-5b6a-7988-a7b6-c5d4e3f20100"
_NVIDIA = {"uuid": f"GPU-{UUID}", "hostname": "gpu-host-1", "device": "0", "gpu_model": "NVIDIA H100 80GB HBM3"}
DEVICE = {
    "dcgm": _NVIDIA,
    "nvidia_smi": _NVIDIA,
    "amd": {**_NVIDIA, "uuid": UUID, "gpu_model": "AMD Instinct MI300X OAM"},
    # its devices have no number
    "xpum": {"uuid": UUID, "hostname": "gpu-host-1", "gpu_model": "Intel(R) Data Center GPU Max 1550"},
}
"""Kind -> the labels of its first device."""
TRUE = {
    names.REC_GPU_UTILIZATION: 0.87,
    names.REC_GPU_MEMORY_UTILIZATION: 0.41,
    names.REC_GPU_MEMORY_USED: 76_800 * 2**20,
    names.REC_GPU_MEMORY_TOTAL: 81_559 * 2**20,
    names.REC_GPU_POWER: 612.5,
    names.REC_GPU_POWER_LIMIT: 700,
    names.REC_GPU_ENERGY: 139_680.123,
    names.REC_GPU_TEMPERATURE: 66,
    names.REC_GPU_MEMORY_TEMPERATURE: 71,
    names.REC_GPU_SM_CLOCK: 1_755_000_000,
    names.REC_GPU_MEMORY_CLOCK: 2_619_000_000,
    names.REC_GPU_ECC_UNCORRECTED: 1,
    names.REC_GPU_ECC_CORRECTED: 2,
    names.REC_GPU_LAST_XID: 31,
    names.REC_GPU_XID_ERRORS: 2,
}
"""Record -> what the first device of every fixture does, as far as its exporter tells it."""
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def exposition_series(
    name: str, instance: str = "gpu-host-1:9400", *, steps: int = 20, rising: float = 0, job: str = names.JOB_GPUS
) -> Iterator[dict[str, str]]:
    """A fixture as Prometheus keeps it when it is scraped: names as they are written, and the target's labels.

    ``rising``: by how much counters of bytes and nanoseconds grow with each step.
    """
    for line in (FIXTURES / f"{name}.txt").read_text().splitlines():
        if line.startswith("#") or line.endswith(" NaN"):  # promtool reads no NaN, and no comparison holds for it
            continue
        found = SAMPLE.match(line)
        assert found, line
        metric, labels, value = found.groups()
        # an empty label is none
        kept = [label for label in re.findall(r'\w+="[^"]*"', labels or "") if not label.endswith('=""')]
        known = ", ".join([*kept, f'job="{job}"', f'instance="{instance}"'])
        step = rising if re.search(r"bytes_total$|VIOLATION$|xgmi_link", metric) else 0
        yield {"series": f"{metric}{{{known}}}", "values": _values(float(value), step, steps)}


def _values(value: float, step: float, steps: int) -> str:
    """A sequence of promtool, which reads no exponents."""
    return f"{value:f}+{step:f}x{steps}" if step else f"{value:f}x{steps}"
