"""Writes what NVML answers on this host to everything that Farthing may ask it, which the fake NVML answers from.

    python tests/collectors/gpu/capture_nvml.py FILE.json

Needs nvidia-ml-py and a driver; ``core`` and ``collectors`` must be on PYTHONPATH. Each answer is the value or the
number of the error, and the microseconds that it took: by the wall's clock and of the processor.
"""

import ctypes
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pynvml

from farthing.collectors.gpu.nvml_queries import (
    ALL_LINKS,
    BLOCKING,
    ENERGY,
    EVERY_SECOND,
    NOW_AND_THEN,
    ONCE,
    Call,
    FieldId,
)

ROUNDS = 20
LINKS = {
    FieldId.NVLINK_COUNT_XMIT_BYTES,
    FieldId.NVLINK_COUNT_RCV_BYTES,
    FieldId.NVLINK_THROUGHPUT_DATA_TX,
    FieldId.NVLINK_THROUGHPUT_DATA_RX,
}
OTHERS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("nvmlDeviceGetMigMode", ()),
    ("nvmlDeviceGetMaxMigDeviceCount", ()),
    ("nvmlDeviceGetMigDeviceHandleByIndex", (0,)),
    ("nvmlDeviceGetSupportedEventTypes", ()),
)


class Noting:
    """The module, with a note of the call that was made last."""

    def __init__(self):
        self.last: tuple[str, list[Any]] = ("", [])

    def __getattr__(self, name):
        found = getattr(pynvml, name)
        if not name.startswith("nvmlDevice"):
            return found

        def call(handle, *args, **named):
            self.last = (name, list(args) + list(named.values()))
            return found(handle, *args, **named)

        return call


def plain(value):
    """A structure as an object of its fields."""
    if isinstance(value, ctypes.Structure):
        return {name: getattr(value, name) for name in (field[0] for field in value._fields_)}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if isinstance(value, (int, str, type(None))) else repr(value)


def timed(ask):
    """The outcome of a call, and what it took in the median."""
    walls, processors = [], []
    outcome = {}
    for _ in range(ROUNDS):
        wall, processor = time.perf_counter_ns(), time.thread_time_ns()
        try:
            outcome = {"value": plain(ask())}
        except pynvml.NVMLError as error:
            outcome = {"error": error.value}
        walls.append(time.perf_counter_ns() - wall)
        processors.append(time.thread_time_ns() - processor)
    if not isinstance(outcome.get("value"), (int, list)):
        outcome.pop("value", None)  # a handle
    outcome["wall_us"] = round(statistics.median(walls) / 1000, 1)
    outcome["cpu_us"] = round(statistics.median(processors) / 1000, 1)
    return outcome


def captured(index):
    """Everything of one device."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    noting, calls = Noting(), {}
    for table in (EVERY_SECOND, ENERGY, NOW_AND_THEN, ONCE, BLOCKING):
        for way in (way for ways in table.values() for way in ways if isinstance(way, Call)):
            outcome = timed(lambda way=way: way.ask(noting, handle))
            name, args = noting.last
            calls[f"{name}({', '.join(map(str, args))})"] = outcome
    for name, given in OTHERS:
        calls[f"{name}({', '.join(map(str, given))})"] = timed(
            lambda name=name, given=given: getattr(pynvml, name)(handle, *given)
        )
    fields = {}
    for field in FieldId:
        scope = ALL_LINKS if field in LINKS else 0
        took = timed(lambda asked=[(field, scope)]: pynvml.nvmlDeviceGetFieldValues(handle, asked))
        answer = pynvml.nvmlDeviceGetFieldValues(handle, [(field, scope)])[0]
        said = {"type": answer.valueType, "return": answer.nvmlReturn, "value": answer.value.ullVal}
        fields[field.name] = took | said
    return {
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "name": pynvml.nvmlDeviceGetName(handle),
        "open": timed(lambda: pynvml.nvmlDeviceGetHandleByIndex(index)),
        "calls": calls,
        "fields": fields,
    }


def main():
    """Captures every device of the host."""
    pynvml.nvmlInit()
    count = pynvml.nvmlDeviceGetCount()
    answers = {
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "count": timed(pynvml.nvmlDeviceGetCount),
        "devices": [captured(index) for index in range(count)],
    }
    pynvml.nvmlShutdown()
    Path(sys.argv[1]).write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
