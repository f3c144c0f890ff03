"""The checks of a boot's books, with what intake refused of it."""

from __future__ import annotations

from dataclasses import replace

from farthing.costing.checks import Evidence, reconcile
from farthing.domain import conventions as c
from farthing.domain.model import Check

__all__ = ["checks_of"]


def checks_of(evidence: Evidence, refused: int) -> tuple[Check, ...]:
    """Every check that the evidence allows; a refused record is red like a lost one, since it may have been work."""
    checks = reconcile(evidence)
    if not refused:
        return checks
    told = f"; {refused} were refused by intake, whose log names the field"
    return tuple(
        replace(check, ok=False, detail=check.detail + told) if check.name == c.CHECK_ARRIVED else check
        for check in checks
    )
