"""What requests cost, added up over the windows that settle them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy.engine import Connection

from farthing.domain.conventions import PHASES
from farthing.domain.records import RecordKey
from farthing.ledger.database import is_postgresql
from farthing.ledger.partitions import DAY

__all__ = ["RequestCosts"]

_AMOUNTS = (*(f"{phase}_nano" for phase in PHASES), "energy_mj", "saved_nano")
_SQLITE = (
    f"UPDATE requests SET {', '.join(f'{name} = {name} + ?' for name in _AMOUNTS)} "  # noqa: S608 - names of ours  # nosec B608
    "WHERE boot = ? AND process = ? AND sequence = ?"
)
_POSTGRESQL = (
    f"UPDATE requests SET {', '.join(f'{name} = requests.{name} + share.{name}' for name in _AMOUNTS)} "  # noqa: S608  # nosec B608
    f"FROM unnest(%s::integer[], {', '.join(['%s::bigint[]'] * (len(_AMOUNTS) + 1))}) "
    f"AS share (process, sequence, {', '.join(_AMOUNTS)}) WHERE requests.boot = %s "
    "AND requests.process = share.process AND requests.sequence = share.sequence AND ended_wall_ns >= %s "
    "RETURNING requests.process, requests.sequence"
)
_EVER = -(2**63)


class RequestCosts:
    """Collects the shares of one boot's requests and adds them to their rows, each row once."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._shares: dict[tuple[int, int], list[int]] = {}
        self._since_ns = 2**63 - 1

    def add(self, wall_start_ns: int, shares: Iterable[tuple[RecordKey, Mapping[str, int], int, int]]) -> None:
        """Take shares of a window that begins at a UTC time: nano-dollars by phase, millijoules, nano-dollars saved."""
        for key, cost_nano, energy_mj, saved_nano in shares:
            amounts = (*(cost_nano.get(phase, 0) for phase in PHASES), energy_mj, saved_nano)
            known = self._shares.setdefault((key.process, key.sequence), [0] * len(amounts))
            for place, amount in enumerate(amounts):
                known[place] += amount
            self._since_ns = min(self._since_ns, wall_start_ns)

    def write(self, connection: Connection) -> None:
        """Add them to the rows of ``requests``; those of requests without a row are passed over."""
        if not self._shares:
            return
        if not is_postgresql(connection):
            rows = [(*amounts, self._boot, *key) for key, amounts in self._shares.items()]
            connection.exec_driver_sql(_SQLITE, rows)
            return
        # work for a request is done before it ends, or in the steps right after a client hung up: a day is ample, and
        # spares PostgreSQL the partitions of all earlier days; whatever it does not find so, it looks for everywhere
        left = _update(connection, self._boot, self._shares, self._since_ns - DAY)
        if left:
            _update(connection, self._boot, left, _EVER)


def _update(
    connection: Connection, boot: str, shares: Mapping[tuple[int, int], list[int]], since_ns: int
) -> dict[tuple[int, int], list[int]]:
    """Those that have no row which ended since."""
    processes, sequences = zip(*shares, strict=True)
    amounts = zip(*shares.values(), strict=True)
    columns = (list(column) for column in (processes, sequences, *amounts))
    found = {tuple(row) for row in connection.exec_driver_sql(_POSTGRESQL, (*columns, boot, since_ns))}
    return {key: share for key, share in shares.items() if key not in found}
