"""The policy: who bears what. A file of its own with a version, so that a statement can be recomputed from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from farthing.books.periods import bounds
from farthing.books.policy_rules import ANY, Member, PolicyRules, PoolRule, Rate, SharedCost, contradictions
from farthing.books.statement import Party, StatementLine
from farthing.domain import conventions as c
from farthing.domain.clock import utc
from farthing.domain.errors import PolicyError
from farthing.domain.yaml_places import line_of

__all__ = ["Policy", "last_day", "load_policy", "parse_policy"]

_DIGEST_LENGTH = 12
_KEPT = PoolRule()
_PYTHON = re.compile(r" or (?:instance of|an object to extract).*$")
"""What pydantic would also take, and no file can hold."""
_STRING = "tag:yaml.org,2002:str"


class _Dated(Protocol):
    @property
    def start(self) -> date | None: ...


_Entry = TypeVar("_Entry", bound=_Dated)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules as they are cited: ``version`` names ``content``, from which ``parse_policy`` makes the same policy."""

    rules: PolicyRules
    content: str
    """Canonical JSON of all rules, defaults included."""
    version: str
    """The file's ``version``, ``+``, and the first 12 hex digits of the content's SHA-256."""

    @classmethod
    def of(cls, rules: PolicyRules) -> Policy:
        """The policy of some rules; PolicyError when they contradict each other."""
        for location, problem in contradictions(rules):
            raise PolicyError(f"{_key(location)}: {problem}")
        return _policy(rules)

    @classmethod
    def default(cls) -> Policy:
        """Without a file: showback at actual cost, and what no tenant caused stays with the platform."""
        return _policy(PolicyRules.model_validate({"version": "default", "from": date(1970, 1, 1)}))

    @property
    def mode(self) -> str:
        """``showback`` or ``chargeback``."""
        return self.rules.mode

    @property
    def pricing(self) -> str:
        """``actual``, ``period_average`` or ``rate_card``."""
        return self.rules.pricing

    @property
    def shared_costs(self) -> tuple[SharedCost, ...]:
        """What is bought besides GPU capacity; see ``shared_costs.shared_cost_nano``."""
        return self.rules.shared_costs

    def require(self, period: str) -> None:
        """PolicyError when the policy begins after a period does."""
        if self.rules.start > utc(bounds(period)[0]).date():
            raise PolicyError(
                f"policy {self.rules.version!r} applies from {self.rules.start}, and period {period} begins before; "
                "give the policy that applied then, or an earlier from:"
            )

    def bears(self, account: str, tenant: str) -> bool:
        """Whether a tenant bears work of an account itself; what it does not is the platform's or a pool's."""
        if not tenant:
            return False
        return account == c.CHARGED or (account == c.ABORTED and self.rules.responsibility.aborted == "tenant")

    def pool(self, account: str, reason: str) -> PoolRule:
        """How a pool is shared; work of failed requests never is."""
        if account == c.SHARED:
            return self.rules.pools.get(reason) or self.rules.pools.get(c.SHARED, _KEPT)
        return _KEPT if reason == c.REASON_FAILED else self.rules.pools.get(account, _KEPT)

    def rate(self, model: str, tier: str, service_period: str) -> Rate | None:
        """The published rate on the last day of a period, the most specific first; None: unpriced."""
        for wanted in ((model, tier), (model, ANY), (ANY, tier), (ANY, ANY)):
            entries = (one for one in self.rules.rate_card if (one.model, one.tier) == wanted)
            found = _latest(entries, last_day(service_period))
            if found is not None:
                return found
        return None

    def member(self, tenant: str, project: str, service_period: str) -> Member | None:
        """The organisation's entry on the last day of a period: the project's own, else the tenant's."""
        for wanted in dict.fromkeys((project, "")):
            entries = (one for one in self.rules.organisation if (one.tenant, one.project) == (tenant, wanted))
            found = _latest(entries, last_day(service_period))
            if found is not None:
                return found
        return None

    def cost_centre(self, tenant: str, project: str, service_period: str) -> str:
        """That of the organisation's entry; the platform's is the issuer's."""
        if not tenant:
            return self.rules.issuer.cost_centre
        member = self.member(tenant, project, service_period)
        return "" if member is None else member.cost_centre

    def gl_account(self, line: StatementLine) -> str:
        """The ledger account of finance, the most specific first: account.phase, account.reason, account, section."""
        parts = [f"{line.account}.{part}" for part in (line.phase, line.reason) if part]
        return next((self.rules.gl[key] for key in (*parts, line.account, line.section) if key in self.rules.gl), "")

    def issuer(self) -> Party:
        """Who issues statements, and receives the platform's."""
        issuer = self.rules.issuer
        return Party(issuer.name, "", issuer.address, issuer.contact, issuer.cost_centre)

    def recipient(self, tenant: str, period: str) -> Party:
        """Whom a tenant's statement is addressed to."""
        if not tenant:
            return self.issuer()
        member = self.member(tenant, "", period)
        if member is None:
            return Party(tenant, tenant)
        return Party(member.name or tenant, tenant, member.address, member.contact, member.cost_centre)


@lru_cache(maxsize=256)
def last_day(period: str) -> date:
    """The last day of a period, on which dated entries are looked up."""
    return utc(bounds(period)[1]).date() - timedelta(days=1)


def load_policy(path: Path | None) -> Policy:
    """The policy of a file; None: the default. PolicyError names file, line and key of the first problem."""
    if path is None:
        return Policy.default()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read ({error}); give a readable YAML file as books.policy") from error
    return parse_policy(text, str(path))


def parse_policy(text: str, name: str = "policy") -> Policy:
    """The policy of YAML text, or of a policy's ``content``; ``name`` is what errors call it."""
    root, data = _read(text, name)
    if not isinstance(data, dict):
        raise PolicyError(f"{name}:1: the top level must be a mapping with version: and from:")
    try:
        rules = PolicyRules.model_validate(data)
    except ValidationError as error:
        problems = error.errors()
        # a key with a typing error is also a key that is missing
        first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
        location = tuple(part for part in first["loc"] if part != "[key]")
        message = _PYTHON.sub("", str(first["msg"]).removeprefix("Value error, ")).replace("dictionary", "mapping")
        if first["type"] == "extra_forbidden":
            message = f"unknown key; known here: {', '.join(_known_keys(location[:-1]))}"
        raise PolicyError(f"{name}:{line_of(root, location)}: {_key(location)}: {message}") from error
    for location, problem in contradictions(rules):
        raise PolicyError(f"{name}:{line_of(root, location)}: {_key(location)}: {problem}")
    return _policy(rules)


def _policy(rules: PolicyRules) -> Policy:
    tree = rules.model_dump(mode="json", by_alias=True)
    content = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return Policy(rules, content, f"{rules.version}+{sha256(content.encode()).hexdigest()[:_DIGEST_LENGTH]}")


def _latest(entries: Iterable[_Entry], day: date) -> _Entry | None:
    known = [one for one in entries if one.start is None or one.start <= day]
    return max(known, key=lambda one: one.start or date.min, default=None)


def _read(text: str, name: str) -> tuple[Any, Any]:
    """The YAML nodes, for their lines, and the data; JSON is read as JSON, which YAML 1.1 does not wholly contain."""
    if text.startswith("{"):
        try:
            return None, json.loads(text)
        except json.JSONDecodeError:
            pass  # a YAML flow mapping, perhaps
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        for line, key in _repeated(root):
            raise PolicyError(f"{name}:{line}: {key}: entered twice; keep one")
        return root, yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise PolicyError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise PolicyError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error


def _repeated(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[int, str]]:
    """(line, key) of keys that a mapping has twice: YAML would silently take the last."""
    if any(node is one for one in above):
        raise ValueError(f"the alias in line {node.start_mark.line + 1} contains itself")
    inside = (*above, node)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.tag == _STRING and key.value in seen:
                yield key.start_mark.line + 1, key.value
            seen.add(str(key.value))
            yield from _repeated(value, inside)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated(value, inside)


def _key(location: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in location) or "(top level)"


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    """The keys of the section at a location."""
    model: type[BaseModel] = PolicyRules
    for part in location:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part in fields:
            model = _model_in(fields[str(part)].annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone, in a list or in a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
