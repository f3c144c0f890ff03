"""A sampler whose clock a test turns, and readings for it."""

from tests.collectors.gpu.gpu_readings import AT, UUID, reading

from farthing.collectors.gpu.sampler import Sampler
from farthing.domain.clock import SECOND
from farthing.domain.gpu import DeviceSamples

__all__ = ["Bench", "by_second", "counted"]


class Bench:
    """A sampler whose clock the test turns; ``records`` is what the sink got."""

    def __init__(self, *sources, **options):
        self.seconds = 0.0
        self.records: list[DeviceSamples] = []
        self.sampler = Sampler(
            sources,
            self.records.extend,
            clock=lambda: self.seconds,
            wall_ns=lambda: AT + round(self.seconds * SECOND),
            host="here",
            **options,
        )

    def read(self, number=0, times=1, seconds=1):
        for _ in range(times):
            self.sampler.read(number)
            self.seconds += seconds
        return self

    def told(self, **fields):
        """(seconds, millijoules) of the records with such fields."""
        return [
            ((at - AT) / SECOND, energy)
            for record in self.records
            if all(getattr(record, key) == value for key, value in fields.items())
            for at, energy in zip(record.at_ns, record.energy_mj, strict=True)
        ]

    def shown(self):
        return [view.reading.uuid for view in self.sampler.view().devices]

    def device(self, uuid=UUID):
        (view,) = (view for view in self.sampler.view().devices if view.reading.uuid == uuid)
        return view


def by_second(seconds, uuid=UUID, **fields):
    return [reading(uuid, after=second, **fields) for second in range(seconds)]


def counted(seconds, watts=400, first=0, uuid=UUID, **fields):
    """One reading a second of a device with a counter."""
    return [
        reading(uuid, after=second, energy_mj=10**9 + second * watts * 1_000, **fields)
        for second in range(first, first + seconds)
    ]
