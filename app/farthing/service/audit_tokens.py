"""What changes of tokens an audit trail has to tell: of every state of their file that let anybody in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from farthing.domain.errors import ConfigError
from farthing.service.access_tokens import Token, Tokens, read_tokens
from farthing.service.audit_index import TOKEN_ADDED, TOKEN_CHANGED, TOKEN_REMOVED, Seen
from farthing.service.audit_source import Done

__all__ = ["TokenStates"]

KEPT = 1_000
"""States that wait while the trail cannot be written; the oldest go first."""


class TokenStates:
    """States of a file of tokens that are not told yet. ``note`` may be called by any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._noted: deque[Tokens] = deque(maxlen=KEPT)
        self._was_there = False
        self._hashes: dict[str, str] = {}
        """Of the tokens in the state before, by what the trail calls them; they get into no record."""

    def note(self, tokens: Tokens) -> None:
        """Callers are let in by these from now on."""
        self._noted.append(tokens)

    def untold(self) -> Iterator[Tokens]:
        """States in their order, the file's as it is now last; one is told when the next is asked for."""
        while self._noted:
            tokens = self._noted[0]
            yield tokens
            self._told(tokens)
            if self._noted and self._noted[0] is tokens:
                self._noted.popleft()
        try:
            now = read_tokens(self._path)
        except ConfigError:
            # the service complains of it, and lets in whom the file named before
            return
        if now is not None or not self._was_there:
            yield now or Tokens({}, {})
            self._told(now)

    def changes(self, tokens: Tokens, seen: Seen) -> list[Done]:
        """What tells a state of the file from what was told; never a token, nor its hash."""
        there = _by_key(tokens)
        found = [
            Done(TOKEN_REMOVED, key, {"of": TOKEN_ADDED, "name": key.split(" ")[0]})
            for key in sorted(key for kind, key in seen if kind == TOKEN_ADDED and key not in there)
        ]
        for key, one in there.items():
            may = (tuple(str(scope) for scope in one.scopes), one.tenants)
            told = seen.get((TOKEN_ADDED, key))
            is_same = told is not None and [set(part) for part in told] == [set(part) for part in may]
            if not is_same or self._hashes.get(key, one.sha256) != one.sha256:
                kind = TOKEN_ADDED if told is None else TOKEN_CHANGED
                found.append(Done(kind, key, {"name": one.name, "scopes": list(may[0]), "tenants": list(may[1])}))
        return found

    def _told(self, tokens: Tokens | None) -> None:
        self._was_there = tokens is not None
        self._hashes = {key: one.sha256 for key, one in _by_key(tokens or Tokens({}, {})).items()}


def _by_key(tokens: Tokens) -> dict[str, Token]:
    return {f"{one.name} {one.created.isoformat()}": one for one in tokens}
