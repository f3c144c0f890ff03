"""What belongs to engines, by a key of its own and by engine: a fleet is never searched for what is one engine's."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, MutableMapping, ValuesView
from typing import Protocol, TypeVar

__all__ = ["ByEngine"]


class _OfEngine(Protocol):
    @property
    def engine(self) -> str: ...


T = TypeVar("T", bound=_OfEngine)


class ByEngine(MutableMapping[str, T]):
    """A dictionary by boot whose values know their engine; that of a boot never changes.

    Both orders are those in which boots came, as a dictionary keeps them.
    """

    def __init__(self, items: Mapping[str, T] | None = None) -> None:
        self._items: dict[str, T] = {}
        self._engines: dict[str, dict[str, T]] = {}
        for boot, item in (items or {}).items():
            self[boot] = item

    def __getitem__(self, boot: str) -> T:
        return self._items[boot]

    def __setitem__(self, boot: str, item: T) -> None:
        known = self._items.get(boot)
        if known is not None and known.engine != item.engine:
            del self[boot]
        self._items[boot] = item
        self._engines.setdefault(item.engine, {})[boot] = item

    def __delitem__(self, boot: str) -> None:
        engine = self._items.pop(boot).engine
        del self._engines[engine][boot]
        if not self._engines[engine]:
            del self._engines[engine]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, boot: object) -> bool:
        return boot in self._items

    # those of the dictionary itself: a fleet is looked through often

    def values(self) -> ValuesView[T]:
        """What each boot has."""
        return self._items.values()

    def items(self) -> ItemsView[str, T]:
        """Each boot and what it has."""
        return self._items.items()

    def of(self, engine: str) -> list[T]:
        """What an engine has, each once."""
        return list(dict.fromkeys(self._engines.get(engine, {}).values()))

    def boots_of(self, item: T) -> list[str]:
        """The boots that have this very item."""
        return [boot for boot, other in self._engines.get(item.engine, {}).items() if other is item]
