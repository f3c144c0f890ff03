"""The recording rules of our alerts' room, evaluated over the past of a Prometheus by promtool."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import yaml
from tests.alerts.live_prometheus import Prometheus
from tests.dashboards.blocks import run_promtool

from farthing.alerts.rules import RecordingRule, RuleGroup

__all__ = ["levels", "record", "wanted_records"]

EVALUATION_SECONDS = 60
_NAME = re.compile(r"[a-zA-Z_:][\w:]*")


def wanted_records(groups: Iterable[RuleGroup], expressions: Iterable[str]) -> list[RecordingRule]:
    """The rules that record what the expressions name, and what those need in turn."""
    rules = [rule for group in groups for rule in group.recordings]
    named = {name for expr in expressions for name in _NAME.findall(expr)}
    while True:
        chosen = [rule for rule in rules if rule.record in named]
        more = {name for rule in chosen for name in _NAME.findall(rule.expr)}
        if more <= named:
            return chosen
        named |= more


def levels(rules: Sequence[RecordingRule]) -> list[list[RecordingRule]]:
    """The rules, each level reading what the levels before it recorded."""
    left = list(rules)
    found = []
    while left:
        waiting = {rule.record for rule in left}
        found.append([rule for rule in left if not waiting & set(_NAME.findall(rule.expr))])
        assert found[-1], waiting
        left = [rule for rule in left if rule not in found[-1]]
    return found


def record(
    rules: Sequence[RecordingRule],
    folder: Path,
    data: Path,
    server: Callable[[], AbstractContextManager[Prometheus]],
    span: tuple[int, int],
) -> None:
    """Make blocks of what the rules record in the span (seconds since the epoch)."""
    start, end = span
    for number, level in enumerate(levels(rules)):
        files = []
        for share in range(os.cpu_count() or 1):
            file = folder / f"level-{number}-{share}.yml"
            rules_of_share = [rule.document() for rule in level[share :: os.cpu_count()]]
            # without an interval of its own a group is evaluated as promtool is told
            file.write_text(yaml.safe_dump({"groups": [{"name": file.stem, "rules": rules_of_share}]}, width=10_000))
            files += [str(file)] if rules_of_share else []
        with server() as running, ThreadPoolExecutor(len(files)) as pool:
            options = (
                "tsdb",
                "create-blocks-from",
                "rules",
                f"--url={running.url}",
                f"--start={start}",
                f"--end={end}",
            )
            more = (f"--output-dir={data}", f"--eval-interval={EVALUATION_SECONDS}s")
            list(pool.map(lambda name, given=(*options, *more): run_promtool(*given, name), files))
