"""One case out of a file of promtool's cases, for all of them take it seconds."""

__all__ = ["only"]

_START = "\n  - name: "


def only(words: str, cases: str) -> str:
    """The file with the one case that has the words in its name; ValueError where not exactly one has."""
    head, *each = cases.split(_START)
    (found,) = (case for case in each if words in case.partition("\n")[0])
    return f"{head}{_START}{found}"
