"""The PromQL of engines from inside, over what the reader chose: batches, caches, speculation, lengths, state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from farthing.dashboards.queries import engine_gauge, known
from farthing.dashboards.scopes import ENGINES, INSTANCES, INTERVAL, MODELS, RANGE, TARGETS
from farthing.domain import conventions as names
from farthing.promql.scope import Scope, by
from farthing.promql.serving import cache_hit_ratio

__all__ = [
    "ADAPTER_KEYS",
    "BY_ENGINE",
    "KV_KEYS",
    "acceptance",
    "adapters",
    "ended",
    "engine_phase",
    "engine_price",
    "hit_ratio",
    "kv_cache",
    "lengths",
    "number",
    "restarted",
    "state",
    "tokens_per_draft",
    "tokens_per_step",
]

BY_ENGINE: Final = (names.LABEL_INSTANCE, names.LABEL_MODEL)
KV_KEYS: Final = (names.LABEL_INSTANCE, names.LABEL_KV_TOKENS, names.LABEL_BLOCK_SIZE, names.LABEL_DTYPE)
ADAPTER_KEYS: Final = (
    names.LABEL_INSTANCE,
    names.LABEL_RUNNING_ADAPTERS,
    names.LABEL_WAITING_ADAPTERS,
    names.LABEL_MAX_ADAPTERS,
)
_OTHER_MODEL: Final = f'{names.REC_ENGINE}{{{names.LABEL_MODEL}!~"$model"}}'
_FACTS: Final = Scope(TARGETS.matchers, f"unless on ({names.LABEL_INSTANCE}) {_OTHER_MODEL} {TARGETS.less}")
"""Series by instance alone: of an instance that is down nobody knows the model, and it stays."""
_MILLISECONDS: Final = 1000


def number(record: str, operation: str = "sum", group: Sequence[str] = BY_ENGINE) -> str:
    """A recorded series by instance and model of the chosen engines, aggregated by ``group``."""
    return f"{operation}{by(group)}({INSTANCES.now(record)})"


def tokens_per_step() -> str:
    """Mean number of tokens that a step of an engine finished or generated; none while it takes no step."""
    return known(f"{number(names.REC_STEP_TOKEN_RATE)} / {number(names.REC_STEP_RATE)}")


def hit_ratio(hits: str, queries: str) -> str:
    """Part (0-1) of what an engine's cache was asked for that it had; none while it was asked for nothing."""
    return known(cache_hit_ratio(INSTANCES, INTERVAL, hits, queries, BY_ENGINE))


def acceptance() -> str:
    """Part (0-1) of the drafted tokens that were accepted."""
    return hit_ratio(names.REC_ACCEPTED_RATE, names.REC_DRAFT_RATE)


def tokens_per_draft() -> str:
    """Tokens by decoding step of a sequence: its own one, and the accepted ones of the draft."""
    return known(
        f"1 + {cache_hit_ratio(INSTANCES, INTERVAL, names.REC_ACCEPTED_RATE, names.REC_DRAFTS_RATE, BY_ENGINE)}"
    )


def lengths(bucket: str) -> str:
    """Requests per second by the bound of a histogram of lengths, of the chosen models."""
    return f"sum by ({names.LABEL_LE}) ({MODELS.now(bucket)})"


def ended() -> str:
    """Requests per second that ended, by the engine's reason."""
    return number(names.REC_ENDED_RATE, group=(names.LABEL_REASON,))


def state() -> str:
    """The state of each engine, as a number of ``STATE_...``."""
    return f"max by ({names.LABEL_INSTANCE}) ({_FACTS.now(names.REC_STATE)})"


def restarted() -> str:
    """Number of engines that began anew within the time range."""
    return f"count(({INSTANCES.over('max_over_time', RANGE, names.REC_RESETS)}) > 0)"


def kv_cache(now: bool) -> str:
    """How full each engine's KV cache is now, or was at most within the time range, by its facts."""
    full = INSTANCES.now(names.REC_KV) if now else INSTANCES.over("max_over_time", RANGE, names.REC_KV)
    facts = _FACTS.now(names.REC_KV_INFO)
    by_instance = f"max by ({names.LABEL_INSTANCE}) ({full})"
    return f"max{by(KV_KEYS)}(({facts}) * on ({names.LABEL_INSTANCE}) group_left () {by_instance})"


def adapters() -> str:
    """When each engine last ran and held up these adapters, in Unix milliseconds."""
    return f"max{by(ADAPTER_KEYS)}({_FACTS.now(names.REC_ADAPTERS)}) * {_MILLISECONDS}"


def engine_price() -> str:
    """Dollars per hour of each engine's GPUs."""
    return engine_gauge(names.METRIC_SPEND_RATE, "sum", (names.LABEL_ENGINE,))


def engine_phase(metric: str, phase: str) -> str:
    """A gauge of Farthing's by engine and phase, of one phase."""
    of_phase = f'{names.LABEL_PHASE}="{phase}"'
    return f"max by ({names.LABEL_ENGINE}) ({ENGINES.now(metric, of_phase)})"
