"""What fails, as the log tells it: when it begins, when it is another failure, and when it is over."""

from __future__ import annotations

import logging

__all__ = ["Failing"]


class Failing:
    """What is wrong with each subject now; ``log`` is that of whoever tries."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._errors: dict[str, str] = {}

    def report(self, subject: str, error: str) -> None:
        """Log a change, not every failure; an empty ``error`` is none."""
        if error != self._errors.get(subject, ""):
            if error:
                self._log.warning("%s: %s", subject, error)
            else:
                self._log.info("%s answers again", subject)
        self._errors[subject] = error

    def forget(self, subject: str) -> None:
        """Nobody tries any more: what fails next is told, whatever it was before."""
        self._errors.pop(subject, None)
