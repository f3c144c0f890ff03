"""The rule files of each Prometheus that is catered for."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from farthing.alerts.documents import to_yaml
from farthing.alerts.render import rule_groups
from farthing.alerts.rules import RuleGroup
from farthing.alerts.selectors import Target, for_target
from farthing.alerts.signals import record_details, record_vocabulary
from farthing.domain.conventions import GROUP_DETAILS, GROUP_VOCABULARY
from farthing.settings import Settings

__all__ = ["groups_for", "render_rules_for"]

_OF_BUCKETS: Final = {GROUP_VOCABULARY: record_vocabulary, GROUP_DETAILS: record_details}
"""Groups that are written for each target: their bounds are not compared, but made."""


def groups_for(settings: Settings, target: Target) -> tuple[RuleGroup, ...]:
    """Every rule group as the target's Prometheus must be asked: bounds of buckets are spelt as it keeps them.

    Prometheus 3.x also leaves the first instant out of a range. Nothing here depends on it: a range of a minute
    holds four scrapes of 15 s either way.
    """
    return tuple(
        replace(group, rules=_OF_BUCKETS[group.name](settings, target).rules)
        if group.name in _OF_BUCKETS
        else _spelt(group, target)
        for group in rule_groups(settings)
    )


def render_rules_for(settings: Settings, target: Target) -> dict[str, str]:
    """File name -> YAML text of one Prometheus rule file per group."""
    return {f"{group.name}.yml": to_yaml({"groups": [group.document()]}) for group in groups_for(settings, target)}


def _spelt(group: RuleGroup, target: Target) -> RuleGroup:
    return replace(group, rules=tuple(replace(rule, expr=for_target(rule.expr, target)) for rule in group.rules))
