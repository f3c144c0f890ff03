"""A tariff: what an allocation of GPUs costs over time, as bills that telescope and content that can be read back.

A bill is a difference of one cumulative integer function, bill(a, b) = F(b) - F(a), cut at price changes; so bills
of adjoining intervals add up exactly, however they are cut or merged. A stretch without a price is an error, never 0.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from typing import Any, Final

from farthing.books.cost_functions import Between, CostFunction, Part, Rates, Share, Slots, Splice, Stretch
from farthing.books.moments import moment_text, period_text
from farthing.domain.errors import PriceError

__all__ = ["WHOLE", "Tariff", "parse_tariff", "splice"]

WHOLE: Final = Decimal(1)
VERSION_LENGTH: Final = 64
_DIGEST_LENGTH: Final = 12
_ADD_PRICE: Final = "add an entry for that time under prices: in farthing.yaml"


class Tariff:
    """The cost of ``count`` GPUs of one kind over time, or of a ``fraction`` of each (a MIG slice, a time share).

    ``content`` is canonical JSON of all that F depends on, and ``version`` names it: the GPU and the first 12 hex
    digits of the content's SHA-256, at most 64 characters. Tariffs of equal content are equal.

    ``subject`` and ``fix`` are for errors only: what is priced, and how to fill a gap.
    """

    def __init__(
        self,
        gpu: str,
        count: int,
        function: CostFunction,
        fraction: Decimal = WHOLE,
        *,
        subject: str = "",
        fix: str = _ADD_PRICE,
    ) -> None:
        self.gpu = gpu
        self.count = count
        self.fraction = fraction
        self.function = function
        self.content: str = json.dumps(
            {"gpu": gpu, "count": count, "fraction": _plain(fraction), "cost": function.tree()},
            separators=(",", ":"),
            sort_keys=True,
        )
        digest = sha256(self.content.encode()).hexdigest()[:_DIGEST_LENGTH]
        self.version: str = f"{gpu[: VERSION_LENGTH - _DIGEST_LENGTH - 1]}:{digest}"
        self._subject = subject or f"GPU {gpu!r}"
        self._fix = fix
        self._starts = [start for start, _ in function.spans]
        self._ends = [end for _, end in function.spans]

    def __eq__(self, other: object) -> bool:
        return self.content == other.content if isinstance(other, Tariff) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.content)

    def __repr__(self) -> str:
        return f"<Tariff {self.version}>"

    def nano_per_hour(self, wall_ns: int) -> int:
        """Nano-dollars per hour of the whole allocation at a UTC moment, rounded half to even.

        Raises PriceError when none is known then, naming the gap.
        """
        self._refuse_gap(wall_ns, wall_ns + 1)
        return round(self.function.rate(wall_ns))

    def priced(self, wall_ns: int) -> bool:
        """Whether a price is known at a UTC moment."""
        i = bisect_right(self._starts, wall_ns) - 1
        if i < 0:
            return False
        end = self._ends[i]
        return end is None or wall_ns < end

    def covers(self, start_ns: int, end_ns: int) -> bool:
        """Whether all of [start_ns, end_ns), UTC, has a price."""
        i = bisect_right(self._starts, start_ns) - 1
        return i >= 0 and ((end := self._ends[i]) is None or end_ns <= end)

    def cumulative(self, wall_ns: int) -> int:
        """F: nano-dollars up to a UTC moment; never decreases. Raises PriceError inside a stretch without a price."""
        self._refuse_gap(wall_ns, wall_ns)
        return self.function.value(wall_ns)

    def bill(self, start_ns: int, end_ns: int) -> int:
        """Nano-dollars of [start_ns, end_ns), UTC; adds up exactly over adjoining intervals.

        Raises PriceError when any of it has no price, naming the gap.
        """
        self._refuse_gap(min(start_ns, end_ns), max(start_ns, end_ns))
        return self.function.value(end_ns) - self.function.value(start_ns)

    def _refuse_gap(self, start: int, end: int) -> None:
        i = bisect_right(self._starts, start) - 1
        known_until = self._ends[i] if i >= 0 else start
        if i >= 0 and (known_until is None or end <= known_until):
            return
        if not self._starts:
            raise PriceError(f"{self._subject} has no price at any time; {self._fix}")
        if i < 0 or known_until is None:
            asked, begins = moment_text(start), moment_text(self._starts[0])
            raise PriceError(
                f"{self._subject} has no price at {asked}: its first begins {begins}; "
                f"add an earlier one, or {self._fix}"
            )
        until = self._starts[i + 1] if i + 1 < len(self._starts) else None
        raise PriceError(
            f"{self._subject} has no price {period_text(known_until, until)}, "
            f"so it is unpriced at {moment_text(max(start, known_until))}; {self._fix}"
        )


def splice(old: Tariff, until_ns: int, new: Tariff) -> Tariff:
    """A tariff that is ``old`` up to a UTC moment and ``new`` from then on, F continuous.

    A price that is entered late so never rewrites what is booked already: every bill that ends by ``until_ns`` is
    the old tariff's to the nano-dollar, every one that begins there the new one's. Where both agree up to then
    nothing is spliced, and ``new`` itself comes back. What the old one says of later times is dropped. GPU, count
    and fraction are the new one's.
    """
    booked = _tree_until(old.function.tree(), until_ns)
    if booked == _tree_until(new.function.tree(), until_ns):
        return new
    joined: list[tuple[CostFunction, int | None]] = []
    for function, end in (*_pieces(_function(booked), None, until_ns), *_pieces(new.function, until_ns, None)):
        if joined and joined[-1][0].tree() == _tree_until(function.tree(), joined[-1][1] or until_ns):
            joined.pop()
        joined.append((function, end))
    function = joined[0][0] if len(joined) == 1 else Splice(joined)
    return Tariff(new.gpu, new.count, function, new.fraction, subject=new._subject, fix=new._fix)


def _pieces(function: CostFunction, start: int | None, end: int | None) -> list[tuple[CostFunction, int | None]]:
    """What a function consists of in [start, end): itself, or the pieces of a splice."""
    if not isinstance(function, Splice):
        return [(function, end)]
    pieces: list[tuple[CostFunction, int | None]] = []
    for piece, until in function.pieces:
        if start is not None and until is not None and until <= start:
            continue
        last = until is None or (end is not None and until >= end)
        pieces.append((piece, end if last else until))
        if last:
            break
    return pieces


def _tree_until(tree: dict[str, Any], until: int) -> dict[str, Any]:
    """The tree of a function of which nothing matters that comes after a moment."""
    if "rates" in tree:
        known = [[start, end, rate] for start, end, rate in tree["rates"] if start < until]
        if known and (known[-1][1] is None or known[-1][1] > until):
            known[-1][1] = until
        return {"rates": known}
    if "splice" in tree:
        pieces: list[list[Any]] = []
        for piece, end in tree["splice"]:
            last = end is None or end >= until
            pieces.append([_tree_until(piece, until if end is None else min(end, until)), None if last else end])
            if last:
                break
        return pieces[0][0] if len(pieces) == 1 else {"splice": pieces}
    return {**tree, "of": _tree_until(tree["of"], until)}


def parse_tariff(content: str) -> Tariff:
    """The tariff whose ``content`` this is: bills can be computed again from the content alone.

    Raises PriceError when it is not the content of a tariff.
    """
    try:
        data = json.loads(content)
        tariff = Tariff(str(data["gpu"]), int(data["count"]), _function(data["cost"]), Decimal(data["fraction"]))
        if tariff.content != content:
            raise ValueError("it is not in canonical form")
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise PriceError(
            f"tariff content {content[:80]!r} cannot be read ({error}); restore it from a backup"
        ) from error
    return tariff


def _function(tree: dict[str, Any]) -> CostFunction:
    """A function from its tree."""
    if "rates" in tree:
        return Rates(Stretch(start, end, Fraction(rate)) for start, end, rate in tree["rates"])
    if "share" in tree:
        return Part(_share(tree["share"]), _function(tree["of"]))
    if "slots" in tree:
        taken = [(index, tuple(_share(share) for share in chain)) for index, chain in tree["slots"]]
        return Slots(taken, tree["count"], _function(tree["of"]))
    if "between" in tree:
        start, end = tree["between"]
        return Between(start, end, _function(tree["of"]))
    if "splice" in tree:
        return Splice([(_function(piece), until) for piece, until in tree["splice"]])
    raise ValueError(f"no kind of cost has the keys {sorted(tree)}")


def _share(tree: list[str]) -> Share:
    kind, fraction = tree
    if kind not in ("part", "rest"):
        raise ValueError(f"share {kind!r} is neither part nor rest")
    return Share(Fraction(fraction), kind == "rest")


def _plain(fraction: Decimal) -> str:
    """All digits, no exponent, no trailing zeros: equal decimals have equal texts."""
    text = f"{fraction:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
