"""What belongs to engines is found by boot and by engine, without looking through a fleet."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from farthing.service.by_engine import ByEngine


@dataclass(frozen=True)
class Thing:
    """Something of an engine."""

    engine: str
    number: int = 0


BOOTS = st.sampled_from(["b1", "b2", "b3", "b4"])
CHANGES = st.lists(st.tuples(BOOTS, st.one_of(st.none(), st.builds(Thing, st.sampled_from("xyz"), st.integers(0, 3)))))


@given(CHANGES)
def test_it_is_a_dictionary_that_can_be_asked_by_engine(changes):
    """Whatever is put in and taken out, and wherever an engine's boots move."""
    mine: ByEngine[Thing] = ByEngine()
    plain: dict[str, Thing] = {}
    for boot, thing in changes:
        if thing is None:
            assert mine.pop(boot, None) == plain.pop(boot, None)
            continue
        if plain.get(boot, thing).engine != thing.engine:
            # what has another engine now is a new entry
            del plain[boot]
        mine[boot] = plain[boot] = thing
    assert list(mine.items()) == list(plain.items())
    assert len(mine) == len(plain)
    for engine in "xyz":
        assert mine.of(engine) == list(dict.fromkeys(t for t in plain.values() if t.engine == engine))


def test_boots_that_share_an_account_are_told_apart_from_its_equals():
    """All of an engine's scrapes have one account."""
    shared, other = Thing("x"), Thing("x")
    mine = ByEngine({"b1": shared, "b2": other, "b3": shared})
    assert mine.boots_of(shared) == ["b1", "b3"]
    assert mine.boots_of(other) == ["b2"]
    mine.clear()
    assert mine.boots_of(shared) == []
    assert mine.of("x") == []


def test_what_it_has_is_seen_as_it_is_now():
    """Both views follow what is added and taken away, as those of any dictionary do."""
    held = ByEngine({"a": Thing("x"), "b": Thing("y")})
    values, items = held.values(), held.items()
    held["c"] = Thing("x", 2)
    del held["a"]
    assert list(values) == [Thing("y"), Thing("x", 2)]
    assert list(items) == [("b", Thing("y")), ("c", Thing("x", 2))]
