"""What travels through the simulated engine: requests, and the sequences that the engine makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["NEVER", "Image", "Request", "Segment", "Sequence", "Spec"]

NEVER = 2**62
"""A moment that does not come."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a prompt: its place, its size in tokens, and what it shows."""

    start: int
    tokens: int
    key: str

    @property
    def end(self) -> int:
        """Position after its last token."""
        return self.start + self.tokens


@dataclass(frozen=True, slots=True)
class Segment:
    """Full blocks of a prompt that others may share, by the key of their text; segments follow each other."""

    key: str
    blocks: int


@dataclass(frozen=True, slots=True)
class Spec:
    """What a client asks for, and how it will behave."""

    request_id: str
    tenant: str
    tier: str
    model: str
    prompt_tokens: int
    segments: tuple[Segment, ...]
    images: tuple[Image, ...]
    outputs: tuple[int, ...]
    """Output tokens of each sequence."""
    stops: tuple[bool, ...]
    """Whether each ends by a stop token."""
    patience_ns: int | None
    """The client hangs up this long after it asked."""
    abort_after: int | None
    """The client hangs up after this many tokens of the first sequence."""
    streamed: bool
    told: bool
    rejected: bool
    status: int = 200


class Sequence:
    """One sequence in the engine. Token counts are integers, ``*_ns`` of work are float nanoseconds."""

    __slots__ = (
        "again_ns",
        "again_tokens",
        "cached",
        "chunks",
        "chunks_since",
        "computed",
        "decode_ns",
        "decode_since",
        "decode_tokens",
        "encoder_tokens",
        "first_ns",
        "generated",
        "ghost_context",
        "held",
        "hidden",
        "hidden_steps",
        "high",
        "images_seen",
        "last_ns",
        "limit",
        "ordinal",
        "pool_ns",
        "preemptions",
        "prefill_ns",
        "prefill_tokens",
        "request",
        "room",
        "scheduled_ns",
        "shared",
        "slot",
        "state",
        "stops",
        "ticket",
        "unreported",
        "vision_ns",
    )

    def __init__(self, request: Request, ordinal: int) -> None:
        self.request = request
        self.ordinal = ordinal
        self.limit = request.spec.outputs[ordinal]
        self.stops = request.spec.stops[ordinal]
        self.state = "waiting"
        """waiting, prefilling, decoding or gone."""
        self.ticket = 0
        """Order of admission; the highest is preempted first."""
        self.slot = -1
        # what the KV cache holds for it
        self.computed = 0
        self.high = 0
        """Most tokens that it ever had in the KV cache: computing up to here once more is rework."""
        self.shared = 0
        """Blocks held through chains."""
        self.room = 0
        """Tokens that its blocks can hold, shared ones included."""
        self.images_seen = 0
        """Images that its own steps encoded, ever."""
        self.held: list[str] = []
        """Keys of the images whose encoder output it holds."""
        # its story
        self.cached = 0
        self.generated = 0
        self.hidden = 0
        """Output tokens that came after the client had hung up, which the API server ignored."""
        self.hidden_steps = 0
        """Of the decoding steps since ``chunks_since``, those whose output was ignored."""
        self.chunks = 0
        """Steps whose output the API server took."""
        self.chunks_since = 0
        self.preemptions = 0
        self.unreported = 0
        """Preemptions that its next output will report."""
        self.scheduled_ns: int | None = None
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.ghost_context = 0
        # its work
        self.prefill_ns = 0.0
        self.decode_ns = 0.0
        self.vision_ns = 0.0
        self.again_ns = 0.0
        self.pool_ns = 0.0
        self.prefill_tokens = 0
        """Tokens scheduled before its first output."""
        self.decode_tokens = 0
        """Tokens scheduled after it: drafts, and recomputed ones too (as vLLM's iteration details have it)."""
        self.decode_since = 0
        self.again_tokens = 0
        self.encoder_tokens = 0

    @property
    def delivered(self) -> int:
        """Output tokens that the API server took."""
        return self.generated - self.hidden

    @property
    def known(self) -> int:
        """Tokens that there are to compute before the next one can be sampled."""
        return self.request.spec.prompt_tokens + self.generated


@dataclass(slots=True, eq=False)
class Request:
    """A request on its way: where it is, when things happened, and what its client saw."""

    spec: Spec
    process: int
    rank: int
    arrived_ns: int
    queued_ns: int
    abort_ns: int = NEVER
    client: tuple[int, int] | None = None
    """Closed-loop phase (index, end) whose client waits for it."""
    sequences: list[Sequence] = field(default_factory=list)
    reported: list[tuple[int, int, int, int, int, int, int, int]] = field(default_factory=list)
    """Of finished sequences: scheduled, first and last moment as the API server reckons them, prompt, cached and
    output tokens, time in queue, preemptions."""
    first_chunk_ns: int | None = None
    last_chunk_ns: int | None = None
    closed: bool = False
    """Its client knows the end."""
