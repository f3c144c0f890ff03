"""What a simulated engine is: its speed, its limits, its load, its failures and how it is observed.

Durations that end in ``_ns`` are nanoseconds, those that end in ``seconds`` are seconds. Defaults are those of
vLLM 0.26 with an 8B model in bf16 on one H100 (recording ``h100-llama8b-vllm0.26``), rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from farthing.domain.clock import MILLISECOND, SECOND

__all__ = [
    "Images",
    "Lengths",
    "Limits",
    "Observation",
    "Phase",
    "Prefix",
    "Restart",
    "SimConfig",
    "StepLaw",
    "TenantLoad",
]


@dataclass(frozen=True, slots=True)
class StepLaw:
    """How long a step takes, in nanoseconds per unit of each kind of work.

    t = step + prefill_token * p + prefill_context * sum over p of (tokens that it attends) + decode_token * d
        + attended_token * c + encoder_token * e + encoder_step * [e > 0], times noise

    with p prefilled and d decoded tokens (drafts included), c the KV-cache tokens that decoding sequences read
    (once per sequence and step) and e the encoder's output tokens.
    """

    step_ns: float = 6.2e6
    prefill_token_ns: float = 15_000.0
    prefill_context_ns: float = 1.1
    decode_token_ns: float = 30_000.0
    attended_token_ns: float = 41.0
    encoder_token_ns: float = 18_000.0
    encoder_step_ns: float = 4.0e6
    noise: float = 0.03
    """Standard deviation of the logarithm of each step's own factor; the factor's mean is 1."""
    drift: float = 0.0
    """The same of a slow factor that all steps share, correlated over about 1,000 steps."""
    stall_probability: float = 0.0
    """Of a step that the host holds up."""
    stall_ns: float = 50e6
    """Mean length of a stall (exponential)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The scheduler's limits; names in vLLM: max_num_batched_tokens, max_num_seqs, num_gpu_blocks, block_size."""

    step_tokens: int = 8192
    sequences: int = 256
    kv_blocks: int = 27_000
    block_tokens: int = 16
    encoder_tokens: int = 8192
    """Encoder output tokens computed in one step."""
    encoder_cache_tokens: int = 16_384
    draft_tokens: int = 0
    """Speculative tokens that every decoding sequence drafts per step."""
    acceptance: float = 0.7
    """Probability that a draft is accepted, given that the one before it was."""
    asynchronous: bool = True
    """The next step is scheduled while the current one runs, as vLLM does by default: arrivals and aborts take
    effect one step later, and a sequence that stops by itself is computed once more than it needs."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """A log-normal distribution of token counts, cut to [low, high]."""

    median: float
    sigma: float = 0.0
    low: int = 1
    high: int = 8_000


@dataclass(frozen=True, slots=True)
class Prefix:
    """Prompts that begin with one of ``groups`` shared texts; ``owner`` is whose prefixes they are."""

    share: float
    groups: int
    tokens: int
    owner: str = ""
    """Tenants with the same owner share their prefixes; empty: the tenant's own."""


@dataclass(frozen=True, slots=True)
class Images:
    """Images in a prompt: how many of which sizes, and how many come from a pool of images seen before."""

    share: float
    """Of requests that carry any."""
    most: int = 3
    tokens: tuple[int, ...] = (64, 256, 729, 1_200)
    repeated: float = 0.3
    pool: int = 20


@dataclass(frozen=True, slots=True)
class TenantLoad:
    """What one tenant sends. Shares are probabilities of independent traits of a request."""

    name: str
    weight: float = 1.0
    tier: str = "interactive"
    prompt: Lengths = Lengths(400, 0.8, 8, 6_000)
    """Without prefix and images."""
    output: Lengths = Lengths(150, 0.7, 1, 1_000)
    prefix: Prefix | None = None
    images: Images | None = None
    several: float = 0.0
    """Share with ``n`` of 2 to 4."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters, named as models; half of the requests use one."""
    abort_early: float = 0.0
    """Share that hangs up after ``patience_ns``, often before the first token."""
    abort_late: float = 0.0
    """Share that hangs up somewhere in the answer."""
    patience_ns: int = 300 * MILLISECOND
    """Mean (exponential)."""
    rejected: float = 0.0
    """Share that the server refuses."""
    unstreamed: float = 0.0
    """Share that wants its answer in one piece."""
    stopping: float = 0.5
    """Share of sequences that end by a stop token rather than by their length."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of load: ``closed`` keeps ``level`` clients busy, ``poisson`` sends ``level`` requests a second,
    ``idle`` sends none, ``asleep`` puts the drained engine to sleep until the phase ends."""

    kind: Literal["closed", "poisson", "idle", "asleep"]
    seconds: float
    level: float = 0.0
    tenants: tuple[str, ...] = ()
    """Names of the tenants that send; empty: all."""
    think_seconds: float = 0.02
    """Mean pause of a closed-loop client between answer and next question (exponential)."""


@dataclass(frozen=True, slots=True)
class Restart:
    """The engine goes away ``at_seconds`` after the first start and comes back ``down_seconds`` later.

    ``crash``: the engine dies, its API servers fail what is in flight and report it. ``kill``: everything dies at
    once, and what was not yet sent is lost. ``drain``: it finishes what it has and stops.
    """

    at_seconds: float
    down_seconds: float = 8.0
    kind: Literal["crash", "kill", "drain"] = "crash"


@dataclass(frozen=True, slots=True)
class Observation:
    """How the API servers see the engine, and what the probe in them can tell."""

    batch_ns: int = 5 * SECOND
    delay_ns: float = 250_000.0
    """Median time from a step's end to its arrival in an API server."""
    delay_sigma: float = 0.8
    output_ns: float = 12_000.0
    """An API server's work per output; a step's mark comes after all of them, and servers work on one at a time."""
    hiccup_probability: float = 0.02
    hiccup_ns: float = 3e6
    """Mean length of a pause of an API server (exponential)."""
    send_ns: float = 300_000.0
    """Median time from a mark to the chunk that leaves for the client."""
    coalesced: float = 0.002
    """Share of chunks that carry the output of two steps."""
    told: float = 1.0
    """Share of requests whose response states its usage."""
    snapshot: bool = False
    """The probe reads the prompt length of a request whose client hangs up (and its cached tokens after the first
    output); else nobody ever tells."""
    details: bool = True
    """The engine reports scheduler details per step."""
    frontend_ns: float = 3e6
    """Median time from a request's arrival to the engine's queue."""
    frontend_token_ns: float = 1_000.0
    frontend_image_ns: float = 25e6
    blind_running: Literal["unknown", "carried", "zero"] = "unknown"
    """``running`` in a mark of a process that got outputs without the scheduler's statistics: -1 as the record says
    it, or what a probe that knows no better might say: the last value that the process saw, or zero."""
    stops: Literal["last", "each"] = "each"
    """Who sends ``stop``: process 0, after everything else of the boot, or each process as its own last record."""


@dataclass(frozen=True, slots=True)
class SimConfig:
    """A whole simulation. Equal configurations give equal simulations."""

    seed: int = 0
    law: StepLaw = StepLaw()
    limits: Limits = Limits()
    tenants: tuple[TenantLoad, ...] = (TenantLoad("one"),)
    phases: tuple[Phase, ...] = (Phase("closed", 30.0, 8),)
    restarts: tuple[Restart, ...] = ()
    observation: Observation = field(default_factory=Observation)
    servers: int = 1
    """API-server processes."""
    ranks: int = 1
    """Data-parallel engines behind them."""
    starting_seconds: float = 20.0
    engine: str = "sim"
    model: str = "sim-8b"
    gpu: str = "NVIDIA H100 80GB HBM3"

    def __post_init__(self) -> None:
        limits = self.limits
        if limits.sequences * (1 + limits.draft_tokens) > limits.step_tokens:
            raise ValueError("limits.sequences: all of them decoding must fit into limits.step_tokens")
        for tenant in self.tenants:
            longest = self.longest(tenant)
            if -(-longest // limits.block_tokens) > limits.kv_blocks:
                raise ValueError(f"tenant {tenant.name}: {longest} tokens do not fit into limits.kv_blocks")
            if tenant.images and max(tenant.images.tokens) > min(limits.encoder_tokens, limits.encoder_cache_tokens):
                raise ValueError(f"tenant {tenant.name}: its largest image does not fit into the encoder's limits")
        if len({tenant.name for tenant in self.tenants}) < len(self.tenants):
            raise ValueError("tenants: two have one name")
        for restart in self.restarts:
            if restart.down_seconds < 1 or self._asleep(restart.at_seconds):
                raise ValueError("restarts: each takes a second at least, and none falls into a sleep")
        if self.servers < 1 or self.ranks < 1:
            raise ValueError("servers and ranks must be at least 1")

    def _asleep(self, seconds: float) -> bool:
        begin = self.starting_seconds
        for phase in self.phases:
            if phase.kind == "asleep" and begin <= seconds < begin + phase.seconds:
                return True
            begin += phase.seconds
        return False

    def longest(self, tenant: TenantLoad) -> int:
        """Tokens that the longest possible sequence of a tenant keeps in the KV cache, drafts included."""
        prefix = tenant.prefix.tokens if tenant.prefix else 0
        images = tenant.images.most * max(tenant.images.tokens) if tenant.images else 0
        return prefix + images + tenant.prompt.high + tenant.output.high + 1 + self.limits.draft_tokens

    def seeded(self, seed: int) -> SimConfig:
        """The same with another seed."""
        return replace(self, seed=seed)

    def scaled(self, factor: float) -> SimConfig:
        """The same load with every phase ``factor`` times as long; restarts stay in the phase that they are in."""
        begin = self.starting_seconds
        return replace(
            self,
            phases=tuple(replace(phase, seconds=phase.seconds * factor) for phase in self.phases),
            restarts=tuple(
                replace(restart, at_seconds=begin + (restart.at_seconds - begin) * factor) for restart in self.restarts
            ),
        )
