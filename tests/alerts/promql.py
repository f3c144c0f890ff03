"""Which series a PromQL expression names, and which labels of each: a reading that shares no code with promtool.

It is a tokenizer and a walk over brackets, not a parser: promtool judges syntax, this judges names.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

__all__ = ["Reading", "Use", "annotation_queries", "read", "result_labels"]

TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
      | (?P<range>\[[^\]]*\])
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?:ms|[smhdwy])?)
      | (?P<name>\$?[A-Za-z_:][A-Za-z0-9_:]*)
      | (?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},@])
    )""",
    re.VERBOSE,
)
ACTION = r"\{\{((?:\"(?:\\.|[^\"\\])*\"|[^\"])*?)\}\}"
"""A template action; braces inside its string literals do not end it."""
AGGREGATIONS = frozenset(
    ("sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "bottomk", "topk", "quantile")
)
GROUPINGS = frozenset(("by", "without", "on", "ignoring", "group_left", "group_right"))
KEYWORDS = frozenset(("and", "or", "unless", "bool", "offset", "inf", "nan", "start", "end", "atan2")) | GROUPINGS
RELABELLING = frozenset(("label_replace", "label_join"))


@dataclass
class Use:
    """One selector of a series: its metric, and every label that the expression expects it to have."""

    metric: str
    labels: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    """Labels that label_replace gives it on the way, which it need not have itself."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


@dataclass(frozen=True)
class Reading:
    """What an expression names."""

    uses: tuple[Use, ...]
    either: tuple[tuple[str, tuple[str, ...]], ...]
    """(label, metrics): at least one of the metrics must have the label."""


@cache
def read(expr: str) -> Reading:
    """Every selector in ``expr``, in order; ValueError where the text is not PromQL at all."""
    tokens = _tokens(expr)
    closing = _closing(tokens, expr)
    found = _selectors(tokens, closing)
    _expect_relabelled(tokens, closing, found)
    either = _expect_grouped(tokens, closing, found)
    return Reading(tuple(found.values()), tuple(either))


def annotation_queries(text: str) -> list[str]:
    """The PromQL that a Prometheus template runs through ``query``, with ``%q`` filled in."""
    queries = []
    for action in re.findall(ACTION, text, re.DOTALL):
        if re.search(r"\bquery\b", action):
            literals = re.findall(r'"((?:\\.|[^"\\])*)"', action)
            queries += [literal.replace("%q", '"x"').replace('\\"', '"') for literal in literals]
    return queries


def result_labels(expr: str, of_metric: dict[str, set[str]]) -> set[str]:
    """The labels of a recording rule's result; ``of_metric`` knows those of what it reads.

    ValueError for a form that the vocabulary does not use.
    """
    tokens = _tokens(expr)
    first = tokens[0].text
    if first in AGGREGATIONS and tokens[1].text == "by":
        end = _closing(tokens, expr)[2]
        return {token.text for token in tokens[3:end] if token.kind == "name"}
    if first == "label_replace":
        depth, end = 0, 1
        for end, token in enumerate(tokens[2:], 2):  # noqa: B007 - where the first argument ends
            if token.text == "," and depth == 0:
                break
            depth += (token.text in "({") - (token.text in ")}") if token.kind == "sign" else 0
        operand = " ".join(token.text for token in tokens[2:end])
        return result_labels(operand, of_metric) | {tokens[end + 1].text[1:-1]}
    if first == "histogram_quantile":
        (buckets,) = read(expr).uses
        return of_metric[buckets.metric] - {"le"}
    if first == "vector":
        return set()
    uses = read(expr).uses
    if uses and uses[0].metric.startswith("slo:"):  # arithmetic of recorded series: many on the left, one on the right
        return of_metric[uses[0].metric]
    raise ValueError(f"cannot tell the labels of {expr!r}")


def _tokens(expr: str) -> list[_Token]:
    tokens, at = [], 0
    text = re.sub(r"#[^\n]*", "", expr).strip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"cannot read {text[at : at + 20]!r} in {expr!r}")
        assert match.lastgroup is not None
        tokens.append(_Token(match.lastgroup, match.group(match.lastgroup)))
        at = match.end()
    return tokens


def _closing(tokens: list[_Token], expr: str) -> dict[int, int]:
    """Index of each opening bracket -> index of the one that closes it."""
    pairs, opened = {}, []
    for index, token in enumerate(tokens):
        if token.kind == "sign" and token.text in "({":
            opened.append(index)
        elif token.kind == "sign" and token.text in ")}":
            if not opened:
                raise ValueError(f"unbalanced brackets in {expr!r}")
            pairs[opened.pop()] = index
    if opened:
        raise ValueError(f"unbalanced brackets in {expr!r}")
    return pairs


def _selectors(tokens: list[_Token], closing: dict[int, int]) -> dict[int, Use]:
    """Position -> selector, each with the labels of its own matchers."""
    found: dict[int, Use] = {}
    index = 0
    while index < len(tokens):
        token = tokens[index]
        following = tokens[index + 1].text if index + 1 < len(tokens) else ""
        if token.kind == "sign" and token.text == "{":
            raise ValueError("a selector without a metric name hides what it reads")
        if token.kind != "name":
            index += 1
        elif token.text == "offset":
            index += 2  # a duration, or Grafana's name of one
        elif token.text in GROUPINGS and following == "(":
            index = closing[index + 1] + 1
        elif token.text.lower() in KEYWORDS or following == "(" or token.text in AGGREGATIONS:
            index += 1
        else:
            use = found[index] = Use(token.text)
            index += 1
            if following == "{":
                end = closing[index]
                inside = tokens[index + 1 : end]
                use.labels |= {
                    part.text
                    for part, sign in itertools.pairwise(inside)
                    if part.kind == "name" and sign.text in {"=", "!=", "=~", "!~"}
                }
                index = end + 1
    return found


def _expect_relabelled(tokens: list[_Token], closing: dict[int, int], found: dict[int, Use]) -> None:
    """label_replace(v, dst, replacement, src, regex) and label_join(v, dst, separator, src...) read src, make dst."""
    compared = list(_compared(tokens, closing))
    for index, token in enumerate(tokens):
        if token.text not in RELABELLING:
            continue
        end = closing[index + 1]
        depth, arguments = 0, []
        for part in tokens[index + 2 : end]:
            depth += (part.text in "({") - (part.text in ")}") if part.kind == "sign" else 0
            if depth == 0 and part.kind == "string":
                arguments.append(part.text[1:-1])
        made, sources = arguments[0], arguments[2:3] if token.text == "label_replace" else arguments[2:]
        for position, use in found.items():
            if index < position < end and not _only_compared(position, index, compared):
                use.labels |= set(sources) - use.made - {""}  # of no label: every series
                use.made.add(made)


def _expect_grouped(
    tokens: list[_Token], closing: dict[int, int], found: dict[int, Use]
) -> list[tuple[str, tuple[str, ...]]]:
    """A label that an aggregation keeps must be on what it aggregates, and one that a join uses on both sides.

    Inside an aggregation over a join one side suffices: those (label, metrics) are returned.
    """
    opening = {end: start for start, end in closing.items()}
    compared = list(_compared(tokens, closing))
    either = []
    for index, token in enumerate(tokens):
        if token.kind != "name" or token.text not in GROUPINGS - {"group_left", "group_right"}:
            continue
        end = closing[index + 1]
        grouped = {part.text for part in tokens[index + 2 : end] if part.kind == "name"}
        if token.text in {"on", "ignoring"}:
            start, stop = _enclosing(closing, index, len(tokens))
        elif tokens[index - 1].text in AGGREGATIONS:  # sum by (x) (operand)
            start, stop = end + 1, closing[end + 1]
        else:  # sum(operand) by (x)
            start, stop = opening[index - 1], index - 1
        operand = [
            use
            for position, use in sorted(found.items())
            if start <= position <= stop and not _only_compared(position, index, compared)
        ]
        joined = any(part.text in {"on", "ignoring"} for part in tokens[start:stop])
        if joined and token.text in {"by", "without"}:
            missing = sorted(label for label in grouped if not any(label in use.made for use in operand))
            either += [(label, tuple(use.metric for use in operand)) for label in missing]
        else:
            for use in operand:
                use.labels |= grouped - use.made
    return either


def _compared(tokens: list[_Token], closing: dict[int, int]) -> Iterator[tuple[int, int, int]]:
    """(operator, start, end) of what stands on the right of and, unless: no label of it is in the result."""
    for index, token in enumerate(tokens):
        if token.kind != "name" or token.text.lower() not in {"and", "unless"}:
            continue
        start = index + 1
        if tokens[start].text in {"on", "ignoring"}:
            start = closing[start + 1] + 1
        end = start
        if tokens[start].kind == "name":  # a selector, or a call
            end = start + 1 if start + 1 < len(tokens) and tokens[start + 1].text in {"{", "("} else start
        yield index, start, closing.get(end, end)


def _only_compared(position: int, index: int, compared: list[tuple[int, int, int]]) -> bool:
    """Whether the selector is compared by a set operation that the grouping at ``index`` knows the result of only."""
    return any(start <= position <= end and not operator <= index <= end for operator, start, end in compared)


def _enclosing(closing: dict[int, int], index: int, length: int) -> tuple[int, int]:
    """The innermost brackets around ``index``, or all of the expression."""
    around = [(start, end) for start, end in closing.items() if start < index < end]
    return max(around, default=(0, length))
