"""Compares three accounts of one load: what clients saw, what the probe recorded, and what the engine counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from tests.integration.probe.asks import Ask
from tests.integration.probe.counters import EngineCounts
from tests.integration.probe.load import Seen

__all__ = [
    "Difference",
    "Tokens",
    "against_clients",
    "against_engine",
    "as_lines",
    "doubled",
    "outcomes_by_tenant",
    "overtaken",
    "tokens_of",
    "uncertain",
]

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which a record is not what its client saw."""

    tag: str
    recipe: str
    field: str
    expected: Any
    found: Any

    def __str__(self) -> str:
        return f"{self.tag} {self.recipe}: {self.field} is {self.found!r}, not {self.expected!r}"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Sums over records, in the engine's own terms: a prompt counts once for each sequence made from it."""

    prompt: int = 0
    computed: int = 0
    cached: int = 0
    output: int = 0
    first_tokens: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


def tokens_of(record: Record) -> Tokens:
    """What a record claims of the engine's work.

    Without sequences, as of a request that got no token, the engine has counted nothing.
    """
    total = Tokens()
    for sequence in record.get("sequences", ()):
        prompt, cached = sequence["prompt_tokens"], sequence["cached_tokens"]
        first = int(sequence.get("first_ns") is not None)
        total += Tokens(prompt, prompt - cached, cached, sequence["output_tokens"], first)
    return total


def against_clients(seen: Sequence[Seen], records: Sequence[Record]) -> list[Difference]:
    """Everything in which the records of a load are not what its clients saw; requests without one record first."""
    by_tag: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_tag[record.get("workload") or record["request_id"]].append(record)
    known = {s.ask.tag for s in seen}
    found = [Difference(tag, "", "requests", 1, 0) for tag in sorted(set(by_tag) - known)]
    for item in seen:
        mine = by_tag[item.ask.tag]
        if len(mine) != 1:
            found.append(Difference(item.ask.tag, item.ask.recipe, "records", 1, len(mine)))
    for item in seen:
        for record in by_tag[item.ask.tag][:1]:
            found += _differences(item, record)
    return found


def as_lines(differences: Sequence[Difference]) -> str:
    """How many there are, and the first of them, one a line."""
    return "\n".join([f"{len(differences)} differences", *map(str, differences[:40])])


def against_engine(records: Iterable[Record], counted: EngineCounts) -> dict[str, tuple[int, int]]:
    """Kind of token -> (the engine's, the records'), where they differ."""
    mine = sum((tokens_of(record) for record in records), Tokens())
    both = {f.name: (getattr(counted, f.name), getattr(mine, f.name)) for f in fields(Tokens)}
    return {kind: pair for kind, pair in both.items() if pair[0] != pair[1]}


def overtaken(seen: Iterable[Seen], records: Iterable[Record]) -> set[str]:
    """Tags of requests that the engine had finished, to the last token, before it noticed that their clients had left.

    Nobody can call these aborted: a front end that is busy looks at its sockets later, seconds later on a crowded
    machine.
    """
    asks = {item.ask.tag: item.ask for item in seen if item.ask.outcome == "aborted"}
    by_tag = {record.get("workload", ""): record for record in records}
    return {tag for tag, ask in asks.items() if tag in by_tag and _whole(ask, by_tag[tag])}


def _whole(ask: Ask, record: Record) -> bool:
    length = ask.body.get("max_tokens")
    outputs = [sequence["output_tokens"] for sequence in record.get("sequences", ())]
    return record["outcome"] == "finished" and outputs == [length] * ask.sequences


def uncertain(records: Iterable[Record]) -> dict[tuple[str, str], str]:
    """(workload, request id) -> why what a record says of tokens is not the engine's own count of them."""
    reasons = {}
    for record in records:
        key = (record.get("workload", ""), record["request_id"])
        if record["outcome"] == "aborted" and not record.get("sequences") and record.get("prompt_tokens"):
            reasons[key] = "aborted before its first token: the engine counts a prompt when its prefill ends"
        elif record["outcome"] == "finished" and record["seen_by"] != "both":
            reasons[key] = f"seen by the {record['seen_by']} only"
    return reasons


def doubled(records: Iterable[Record]) -> list[str]:
    """Tags of which there is more than one usage record."""
    counts = Counter(record.get("workload") or record["request_id"] for record in records)
    return sorted(tag for tag, count in counts.items() if count > 1)


def _differences(seen: Seen, record: Record) -> list[Difference]:
    ask = seen.ask
    overtaken_by_engine = ask.outcome == "aborted" and _whole(ask, record)
    expected: dict[str, Any] = {
        "tenant": ask.tenant,
        "outcome": "finished" if overtaken_by_engine else ask.outcome,
        "status": 200 if overtaken_by_engine else ask.status,
        "model": ask.model,
        "route": ask.path,
    }
    if ask.status != 401:  # of whom the engine does not know nothing is believed
        expected |= {"project": ask.project, "tier": ask.tier}
    if ask.request_id is not None:
        expected["request_id"] = ask.request_id[:512]
    found = {name: record.get(name, "unknown" if name == "tenant" else "") for name in expected}
    if seen.response_id and ask.request_id is None and not seen.response_id.startswith("resp_"):
        # the id that the probe gave is the one that the engine answers with
        expected["response id"] = seen.response_id.split("-", 1)[1]
        found["response id"] = record.get("request_id", "")
    if record.get("user") == ask.user:
        expected["user"], found["user"] = "a pseudonym", ask.user
    if seen.told is not None and seen.complete:
        told = {"prompt_tokens": seen.told.prompt, "output_tokens": seen.told.output}
        told |= {"cached_tokens": seen.told.cached} if seen.told.cached is not None else {}
        # of a picture clients are told the placeholder, and records hold what its encoder makes: test_pictures
        expected |= told
        found |= {name: record.get(name) for name in told}
    if ask.outcome == "finished":
        wanted, got = _engine_side(seen), tokens_of(record)
        expected["sequences"], found["sequences"] = ask.sequences, len(record.get("sequences", ()))
        for name, value in wanted.items():
            expected[f"engine's {name}"], found[f"engine's {name}"] = value, getattr(got, name)
    if ask.outcome == "aborted" and seen.delivered is not None:
        # what reached the client has been generated
        least, claimed = seen.delivered, tokens_of(record).output
        expected["output at least"], found["output at least"] = least, min(least, claimed)
    if ask.outcome == "rejected":
        expected["sequences"], found["sequences"] = 0, len(record.get("sequences", ()))
    return [Difference(ask.tag, ask.recipe, n, expected[n], found[n]) for n in expected if expected[n] != found[n]]


def _engine_side(seen: Seen) -> dict[str, int]:
    """What the engine must have counted for a finished request, from what its client knows."""
    ask = seen.ask
    wanted = {"first_tokens": ask.sequences}
    if seen.prompt_tokens:
        wanted["prompt"] = sum(seen.prompt_tokens) * (ask.sequences // len(ask.prompts))
    elif seen.told is not None:
        wanted["prompt"] = seen.told.prompt * (ask.sequences // len(ask.prompts))
    if ask.output_tokens is not None:
        wanted["output"] = ask.output_tokens
    return wanted


def outcomes_by_tenant(records: Iterable[Record]) -> Counter[tuple[str, str]]:
    """(tenant, outcome) -> requests."""
    return Counter((record.get("tenant", "unknown"), record["outcome"]) for record in records)
