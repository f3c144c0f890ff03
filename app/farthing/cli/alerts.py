"""``farthing alerts``: which alerts there are, and whether they reach anybody."""

from __future__ import annotations

import difflib
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import httpx
import typer

from farthing.alerts.alertmanager import RECEIVER_NONE
from farthing.alerts.render import alert_rules
from farthing.alerts.rules import AlertRule
from farthing.alerts.sample import sample_alert, threshold
from farthing.cli.alertmanager_api import Alertmanager, Held, Tally
from farthing.domain.errors import FarthingError
from farthing.exporters.report import Column, Output, ReportTable, render
from farthing.settings import Settings
from farthing.stack.lifecycle import stack_status

__all__ = ["alerts_table", "print_alerts", "run_alert_test"]

TIMEOUT_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.5
FORGOTTEN: Final = timedelta(minutes=5)
"""When a test ends by itself, if nobody is left to resolve it."""

SENT: Final = "sent"
FAILED: Final = "failed"
PARTLY: Final = "some of them failed"
PENDING: Final = "not seen to go out"
NOBODY: Final = "shown in Alertmanager only"


def alerts_table(settings: Settings) -> ReportTable:
    """Every alert of these settings."""
    rows = tuple(
        (rule.name, rule.severity, rule.team, threshold(rule), rule.for_seconds, rule.runbook_url)
        for rule in alert_rules(settings)
    )
    columns = (
        Column("alert", "Alert"),
        Column("severity", "Severity"),
        Column("owner", "Owner"),
        Column("threshold", "Threshold"),
        Column("for", "For, s", "integer"),
        Column("runbook", "Runbook"),
    )
    notes = ("A threshold is the first comparison of the alert's expression; further conditions may stand beside it.",)
    return ReportTable(columns, rows, title="Alerts", notes=notes)


def print_alerts(settings: Settings, output: Output) -> None:
    """Print every alert."""
    typer.echo(render(alerts_table(settings), output, color=sys.stdout.isatty()).rstrip("\n"))


def run_alert_test(
    settings: Settings, name: str, labels: Sequence[str], *, url: str | None, wait_seconds: float, output: Output
) -> int:
    """Fire the alert, print where it went, resolve it; returns 0, or 1 when somebody who should know does not.

    Raises FarthingError for an unknown alert or a malformed label, StackError when Alertmanager is away.
    """
    rule = _rule(settings, name)
    test = uuid.uuid4().hex[:8]
    alert = sample_alert(rule, test, _labels(labels))
    with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        manager = Alertmanager(client, url or _running(settings))
        kinds = manager.integrations()
        before = manager.tallies()
        manager.fire(alert, datetime.now(UTC) + FORGOTTEN)
        try:
            held = manager.held(test)
            ways = [(receiver, kind) for receiver in held.receivers for kind in kinds.get(receiver, ())]
            muted = held.silenced or held.inhibited
            counts = Counter(kind for _, kind in ways)
            after = before if muted else _awaited(manager, before, counts, wait_seconds)
        finally:
            manager.fire(alert, datetime.now(UTC))
    results = [(receiver, kind, _muted(held) or _result(before, after, kind, counts[kind])) for receiver, kind in ways]
    nobody = [(receiver, "", NOBODY) for receiver in held.receivers if not kinds.get(receiver)]
    typer.echo(render(_outcome(rule, test, [*results, *nobody]), output, color=sys.stdout.isatty()).rstrip("\n"))
    return 0 if all(result == SENT for _, _, result in results) else 1


def _running(settings: Settings) -> str:
    """Where the stack's Alertmanager is: as it was started, else as the settings would start it."""
    pages = {part.name: part.page for part in stack_status(settings).parts}
    return pages.get("alertmanager") or f"http://127.0.0.1:{settings.stack.alertmanager_port}"


def _rule(settings: Settings, name: str) -> AlertRule:
    rules = {rule.name: rule for rule in alert_rules(settings)}
    if name in rules:
        return rules[name]
    by_small = {known.lower(): known for known in rules}
    near = [by_small[match] for match in difflib.get_close_matches(name.lower(), by_small, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else "see farthing alerts list"
    raise FarthingError(f"there is no alert {name!r}; {hint}")


def _labels(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise FarthingError(f"--label {text!r}: enter NAME=VALUE, for example tier=interactive")
        found[name] = value
    return found


def _awaited(
    manager: Alertmanager, before: Mapping[str, Tally], kinds: Mapping[str, int], wait_seconds: float
) -> Mapping[str, Tally]:
    """Alertmanager's counters, once as many messages of each kind went out or failed, or the time is over."""
    deadline = time.monotonic() + wait_seconds
    while True:
        now = manager.tallies()
        if all(_result(before, now, kind, count) != PENDING for kind, count in kinds.items()):
            return now
        if time.monotonic() >= deadline:
            return now
        time.sleep(POLL_SECONDS)


def _result(before: Mapping[str, Tally], after: Mapping[str, Tally], kind: str, count: int) -> str:
    """What became of ``count`` messages of one kind; Alertmanager does not count them by receiver."""
    then, now = before.get(kind, Tally()), after.get(kind, Tally())
    failed = now.failed - then.failed
    sent = now.attempted - then.attempted - failed
    if sent >= count:
        return SENT
    if failed:
        return PARTLY if sent else FAILED
    return PENDING


def _muted(held: Held) -> str:
    if held.silenced:
        return "held back by a silence"
    return "held back by another alert" if held.inhibited else ""


def _outcome(rule: AlertRule, test: str, rows: Sequence[tuple[str, str, str]]) -> ReportTable:
    columns = (Column("receiver", "Receiver"), Column("kind", "By"), Column("result", "Result"))
    notes = [
        f"Test {test}: {rule.name}, {rule.severity}, owner {rule.team}. It is resolved; who was told of it is told "
        "that too, with the next message of its group.",
        "Sent and failed are Alertmanager's own counts since the alert was given to it, of all alerts of that kind of "
        "message. It cannot tell whether anybody reads it.",
    ]
    if any(receiver == RECEIVER_NONE for receiver, _, _ in rows):
        notes.append("No receiver is configured for it: see notify in farthing.yaml.")
    if any(result in {FAILED, PARTLY} for _, _, result in rows):
        notes.append("Alertmanager's log has the reason of a failure.")
    return ReportTable(columns, tuple(rows), title=f"Test of {rule.name}", notes=tuple(notes))
