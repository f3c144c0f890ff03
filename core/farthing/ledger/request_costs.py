"""What requests cost, added up over the windows that settle them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from operator import add

from sqlalchemy.engine import Connection

from farthing.domain.conventions import PHASES
from farthing.domain.records import RecordKey
from farthing.ledger import tables as t
from farthing.ledger.database import is_postgresql
from farthing.ledger.many_rows import update_rows
from farthing.ledger.partitions import DAY

__all__ = ["RequestCosts"]

_AMOUNTS = (*(f"{phase}_nano" for phase in PHASES), "energy_mj", "saved_nano")
_ADDED = tuple(f"{name} = {name} + new.column{place}" for place, name in enumerate(_AMOUNTS, start=4))
_MEANT = "boot = new.column1 AND process = new.column2 AND sequence = new.column3"
_POSTGRESQL = (
    f"UPDATE requests SET {', '.join(f'{name} = requests.{name} + share.{name}' for name in _AMOUNTS)} "  # noqa: S608  # nosec B608
    f"FROM unnest(%s::integer[], {', '.join(['%s::bigint[]'] * (len(_AMOUNTS) + 1))}) "
    f"AS share (process, sequence, {', '.join(_AMOUNTS)}) WHERE requests.boot = %s "
    "AND requests.process = share.process AND requests.sequence = share.sequence AND ended_wall_ns >= %s "
    "RETURNING requests.process, requests.sequence"
)
_EVER, _NEVER = -(2**63), 2**63


class RequestCosts:
    """Collects the shares of requests and adds them to their rows, each row once."""

    def __init__(self) -> None:
        self._shares: dict[tuple[str, int, int], list[int]] = {}
        self._since_ns: dict[str, int] = {}
        """Boot -> UTC nanoseconds of its first window here."""

    def add(self, wall_start_ns: int, shares: Iterable[tuple[RecordKey, Mapping[str, int], int, int]]) -> None:
        """Take shares of a window that begins at a UTC time: nano-dollars by phase, millijoules, nano-dollars saved."""
        for key, cost_nano, energy_mj, saved_nano in shares:
            get = cost_nano.get
            amounts = [*[get(phase, 0) for phase in PHASES], energy_mj, saved_nano]
            name = key.boot, key.process, key.sequence
            known = self._shares.get(name)
            self._shares[name] = amounts if known is None else list(map(add, known, amounts))
            if wall_start_ns < self._since_ns.get(key.boot, _NEVER):
                self._since_ns[key.boot] = wall_start_ns

    def write(self, connection: Connection) -> None:
        """Add them to the rows of ``requests``; those of requests without a row are passed over."""
        if not is_postgresql(connection):
            rows = [(*key, *amounts) for key, amounts in self._shares.items()]
            update_rows(connection, t.requests, _ADDED, _MEANT, rows)
            return
        by_boot: defaultdict[str, dict[tuple[int, int], list[int]]] = defaultdict(dict)
        for (boot, process, sequence), amounts in self._shares.items():
            by_boot[boot][process, sequence] = amounts
        for boot, shares in by_boot.items():
            # work for a request is done before it ends, or in the steps right after a client hung up: a day is ample,
            # and spares PostgreSQL the partitions of all earlier days; what is not found so, is looked for everywhere
            left = _update(connection, boot, shares, self._since_ns[boot] - DAY)
            if left:
                _update(connection, boot, left, _EVER)


def _update(
    connection: Connection, boot: str, shares: Mapping[tuple[int, int], list[int]], since_ns: int
) -> dict[tuple[int, int], list[int]]:
    """Those that have no row which ended since."""
    processes, sequences = zip(*shares, strict=True)
    amounts = zip(*shares.values(), strict=True)
    columns = (list(column) for column in (processes, sequences, *amounts))
    found = {tuple(row) for row in connection.exec_driver_sql(_POSTGRESQL, (*columns, boot, since_ns))}
    return {key: share for key, share in shares.items() if key not in found}
