"""Simulations by what is hard about them. Each takes a second or two; ``scaled`` and ``seeded`` vary them."""

from __future__ import annotations

from dataclasses import replace

from tests.simulation.config import (
    Images,
    Lengths,
    Limits,
    Observation,
    Phase,
    Prefix,
    Restart,
    SimConfig,
    StepLaw,
    TenantLoad,
)

__all__ = [
    "ABORTS",
    "KV_PRESSURE",
    "MIXED",
    "PRESETS",
    "RESTART",
    "SPECULATION",
    "TEXT",
    "TWO_SERVERS",
    "VISION",
]

CHAT = TenantLoad("chat", 3.0, "interactive", Lengths(250, 0.9, 8, 4_000), Lengths(180, 0.6, 1, 800))
DOCUMENTS = TenantLoad(
    "documents",
    1.0,
    "documents",
    Lengths(3_000, 0.7, 200, 12_000),
    Lengths(120, 0.5, 1, 400),
    prefix=Prefix(0.6, groups=4, tokens=1_000),
)
BATCH = TenantLoad("batch", 1.0, "batch", Lengths(120, 0.5, 8, 1_000), Lengths(450, 0.4, 16, 1_200))
ONE_WORD = TenantLoad("labels", 1.0, "batch", Lengths(700, 0.5, 64, 3_000), Lengths(2, 0.5, 1, 8))

_DAY = (
    Phase("closed", 20, 1),
    Phase("closed", 30, 8),
    Phase("idle", 8),
    Phase("poisson", 30, 3),
    Phase("closed", 30, 32),
    Phase("closed", 15, 12, ("documents",)),
    Phase("closed", 25, 96),
    Phase("asleep", 15),
    Phase("poisson", 20, 1),
)
"""Alone, a few, none, a trickle, many, prompts mostly, very many, asleep, and rarely."""

TEXT = SimConfig(tenants=(CHAT, DOCUMENTS, BATCH, ONE_WORD), phases=_DAY)

VISION = SimConfig(
    model="sim-vl-7b",
    law=StepLaw(step_ns=5.6e6, attended_token_ns=18.0),
    tenants=(
        TenantLoad("photos", 2.0, prompt=Lengths(60, 0.4), output=Lengths(60, 0.5), images=Images(1.0)),
        TenantLoad(
            "catalogue",
            prompt=Lengths(40, 0.3),
            output=Lengths(3, 0.4, 1, 10),
            images=Images(1.0, most=2, repeated=0.6, pool=8),
            prefix=Prefix(0.8, groups=2, tokens=600),
        ),
        replace(CHAT, weight=1.5),
    ),
    phases=(
        Phase("closed", 20, 1),
        Phase("closed", 30, 8),
        Phase("closed", 20, 12, ("catalogue",)),
        Phase("idle", 5),
        Phase("closed", 30, 32),
        Phase("poisson", 25, 4),
        Phase("closed", 15, 16, ("chat",)),
    ),
)

KV_PRESSURE = SimConfig(
    limits=Limits(kv_blocks=1_600, step_tokens=2_048),
    tenants=(
        replace(CHAT, output=Lengths(400, 0.5, 1, 1_000)),
        replace(DOCUMENTS, prompt=Lengths(1_500, 0.6, 200, 6_000)),
        replace(BATCH, several=0.1),
    ),
    phases=(Phase("closed", 30, 6), Phase("closed", 90, 40), Phase("poisson", 30, 3)),
)
"""About 25,000 tokens of KV cache: the latest are preempted and computed again."""

SPECULATION = replace(TEXT, limits=Limits(draft_tokens=4, acceptance=0.65), law=StepLaw(decode_token_ns=22_000.0))

ABORTS = replace(
    TEXT,
    tenants=tuple(
        replace(tenant, abort_early=0.08, abort_late=0.15, several=0.05) for tenant in (CHAT, DOCUMENTS, BATCH)
    ),
)

RESTART = replace(TEXT, starting_seconds=8.0, restarts=(Restart(110.0, 5.0), Restart(150.0, 3.0, "drain")))
"""A crash among many, and later a drained stop."""

TWO_SERVERS = replace(TEXT, servers=2)

MIXED = SimConfig(
    model="sim-vl-7b",
    law=StepLaw(drift=0.02, stall_probability=0.0005),
    limits=Limits(kv_blocks=4_000, draft_tokens=2, step_tokens=4_096),
    tenants=(
        replace(CHAT, several=0.1, abort_early=0.05, abort_late=0.05, adapters=("lora-a", "lora-b"), rejected=0.03),
        replace(DOCUMENTS, abort_late=0.05, unstreamed=0.3),
        replace(BATCH, several=0.2, unstreamed=0.5),
        TenantLoad(
            "photos", 1.5, prompt=Lengths(60, 0.4), output=Lengths(80, 0.5), images=Images(0.9), abort_early=0.05
        ),
        ONE_WORD,
    ),
    phases=_DAY,
    starting_seconds=8.0,
    restarts=(Restart(105.0, 6.0),),
    observation=Observation(told=0.7),
    servers=2,
)
"""Everything at once."""

PRESETS = {
    "text": TEXT,
    "vision": VISION,
    "kv_pressure": KV_PRESSURE,
    "speculation": SPECULATION,
    "aborts": ABORTS,
    "restart": RESTART,
    "two_servers": TWO_SERVERS,
    "mixed": MIXED,
}
