"""What an engine's scheduler did in a recording, step by step and request by request, by explicit replay.

The replay knows only the recording's files: the scheduler's counts per step (``d``), the finished-request
statistics (``fin``) and the client's view. It reproduces every step's counts exactly or raises
ScheduleError, so a wrong assumption cannot pass unseen. It imports nothing of ``farthing.costing``.

Rules replayed (vLLM 0.26, v1 scheduler, asynchronous scheduling, no speculation, no preemption):

- a sequence of G tokens gets its first where its prefill ends and one in each of the next G - 1 steps;
- prefills are served first come, first served; a step that runs out of its token budget, or that lacks
  encoder budget for the next image, leaves a partial prefill that goes on in the next step;
- an image is encoded in the step where its first placeholder is computed, unless its encoding is cached;
- a request that its client left decodes on until the engine hears of it: the steps' decode counts say when.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tests.costing.oracle_model import Chunk, Details, Schedule, ScheduleError, Served, Share, Step

from farthing.replay.recording import Recording

__all__ = ["replay"]

_CLIENT_ID = re.compile(r"^(?:chat)?cmpl-(?P<id>.+?)(?:-\d+)?$")
_BEFORE_IMAGE = 5
"""Prompt tokens before the first image: the chat template's, seen as the length of every cut before one."""
_BETWEEN_IMAGES = 2
"""Prompt tokens from the end of one image to the start of the next: vision end and vision start."""


_SAME_STEP_S = 0.005
"""Requests scheduled into one step are scheduled within this many seconds; a step takes longer."""


def replay(recording: Recording) -> Schedule:
    """The schedule of a recording; takes some seconds.

    Raises ScheduleError when a step's counts of requests or tokens are not reproduced exactly.
    """
    rows = [row for row in recording.steps if row.get("d")]
    details = [Details(*row["d"]) for row in rows]
    clients = {str(row["id"]): row for row in recording.requests}
    wall_minus_mono = float(recording.steps[0]["t"]) - float(recording.steps[0]["m"])
    sizes = _image_tokens(recording.requests)
    requests = _finished(rows, clients, wall_minus_mono, sizes)
    requests += _aborted(rows, requests, clients, wall_minus_mono, sizes)
    _end_aborted(details, requests, clients)
    shares: list[list[Share]] = [[] for _ in rows]
    chunks = _prefill(details, requests, shares)
    _encode(details, chunks, shares)
    _decode(details, requests, shares)
    starts = _starts(recording.steps, chunks)
    return Schedule(
        steps=tuple(
            Step(start, float(row["m"]), tuple(members))
            for start, row, members in zip(starts, rows, shares, strict=True)
        ),
        requests={request.identity: request for request in requests},
    )


def _image_tokens(rows: Sequence[dict[str, Any]]) -> dict[tuple[int, int], int]:
    """Placeholder tokens of an image by its width and height, learnt from requests with that image alone."""
    sizes = {}
    for row in rows:
        if row.get("usage") and len(row.get("images", ())) == 1:
            width, height = row["images"][0]
            sizes[width, height] = int(row["usage"]["prompt_tokens_details"]["multimodal_tokens"]["image"])
    return sizes


def _images(row: dict[str, Any], sizes: dict[tuple[int, int], int]) -> tuple[int, ...]:
    return tuple(sizes[width, height] for width, height in row.get("images", ()))


def _finished(
    rows: list[dict[str, Any]],
    clients: dict[str, dict[str, Any]],
    wall_minus_mono: float,
    sizes: dict[tuple[int, int], int],
) -> list[Served]:
    """Requests that the engine reported finished, placed by counting back one step per output token."""
    served = []
    for last, row in enumerate(rows):
        for report in row.get("fin", ()):
            match = _CLIENT_ID.match(str(report["request_id"]))
            if match is None or match.group("id") not in clients:
                raise ScheduleError(f"{report['request_id']}: finished, but no client sent it")
            client = clients[match.group("id")]
            first = last - (report["num_generation_tokens"] - 1)
            served.append(
                Served(
                    identity=match.group("id"),
                    tenant=client["tenant"],
                    load_phase=client["phase"],
                    prompt=report["num_prompt_tokens"],
                    computed=report["num_prompt_tokens"] - report["num_cached_tokens"],
                    first_step=first,
                    last_step=last,
                    scheduled_s=float(rows[first]["m"]) - float(report["prefill_time"]),
                    finished=True,
                    arrived_s=float(client["t0"]) - wall_minus_mono,
                    images=_images(client, sizes),
                )
            )
    return served


def _aborted(
    rows: list[dict[str, Any]],
    finished: list[Served],
    clients: dict[str, dict[str, Any]],
    wall_minus_mono: float,
    sizes: dict[tuple[int, int], int],
) -> list[Served]:
    """Requests whose client hung up, placed where prefills ended that no finished request explains.

    A step's prompt counters exceed its finished requests' by exactly the aborted ones' prompts; where several
    ended in one step, that excess is split by the size of finished prompts of the same shape.
    """
    excess = [list(row.get("p", (0, 0, 0, 0))) for row in rows]
    for request in finished:
        excess[request.first_step][0] -= request.prompt
        excess[request.first_step][1] -= request.computed
    open_steps = [step for step, (prompt, *_) in enumerate(excess) if prompt]
    by_step: dict[int, list[str]] = defaultdict(list)
    for identity, row in clients.items():
        if row["err"] != "aborted":
            continue
        seen_s = float(row["first"]) - wall_minus_mono
        before = [step for step in open_steps if float(rows[step]["m"]) <= seen_s + 5e-4]
        if not before:
            raise ScheduleError(f"{identity}: aborted, but no prefill ended before its first chunk")
        by_step[before[-1]].append(identity)
    if set(by_step) != set(open_steps) or any(min(e[:2]) < 0 for e in excess):
        raise ScheduleError("prompt tokens of some steps belong to no request")
    like: dict[str, list[Served]] = defaultdict(list)
    for request in finished:
        like[_shape(clients[request.identity])].append(request)
    served = []
    for step, identities in by_step.items():
        kin = [like[_shape(clients[identity])] for identity in identities]
        prompts = _apportion(excess[step][0], [_mean(r.prompt for r in alike) for alike in kin])
        cached = _cached(excess[step][0] - excess[step][1], kin)
        for identity, prompt, hit in zip(identities, prompts, cached, strict=True):
            client = clients[identity]
            arrived = float(client["t0"]) - wall_minus_mono
            served.append(
                Served(
                    identity=identity,
                    tenant=client["tenant"],
                    load_phase=client["phase"],
                    prompt=prompt,
                    computed=prompt - hit,
                    first_step=step,
                    last_step=step,
                    scheduled_s=arrived,
                    finished=False,
                    arrived_s=arrived,
                    images=_images(client, sizes),
                )
            )
    return served


def _shape(row: dict[str, Any]) -> str:
    """Requests of one shape have prompts of nearly one length."""
    return str([row.get("in"), row.get("shared"), row.get("words"), row.get("images")])


def _mean(values: Iterable[int]) -> float:
    return statistics.fmean([*values] or [1])


def _cached(total: int, kin: list[list[Served]]) -> Sequence[int]:
    """Cached tokens of several requests that add up to a total, each as seen of a request alike."""
    if len(kin) == 1:
        return [total]
    for hits in itertools.product(*({0, *(r.prompt - r.computed for r in alike)} for alike in kin)):
        if sum(hits) == total:
            return hits
    raise ScheduleError(f"{total} cached tokens fit no requests alike")


def _apportion(total: int, weights: list[float]) -> list[int]:
    """Whole numbers that add up to a total, in proportion to weights."""
    bounds = [round(total * sum(weights[: i + 1]) / sum(weights)) for i in range(len(weights))]
    return [high - low for low, high in itertools.pairwise([0, *bounds])]


def _end_aborted(details: list[Details], requests: list[Served], clients: dict[str, dict[str, Any]]) -> None:
    """Find the last step of each aborted request: where the step's decode count falls short of those open.

    Of several that could have ended, the one whose client hung up first did.
    """
    known = [0] * (len(details) + 1)
    starting: dict[int, list[Served]] = defaultdict(list)
    for request in requests:
        if request.finished:
            known[request.first_step + 1] += 1
            known[request.last_step + 1] -= 1
        else:
            starting[request.first_step].append(request)
    decoding, running = 0, list[Served]()
    for step, detail in enumerate(details):
        decoding += known[step]
        expected = decoding + len(running)
        if detail.decode_requests > expected:
            raise ScheduleError(f"step {step}: {detail.decode_requests} decodes, {expected} explained")
        running.sort(key=lambda request: clients[request.identity]["end"], reverse=True)
        for _ in range(expected - detail.decode_requests):
            if not running:
                raise ScheduleError(f"step {step}: {detail.decode_requests} decodes, {expected} explained")
            running.pop()
        for request in running:
            request.last_step = step
        running += starting[step]


def _prefill(details: list[Details], requests: list[Served], shares: list[list[Share]]) -> list[list[Chunk]]:
    """Place every prefill token; per step the (request, from position, to position) that were computed."""
    ending: dict[int, list[Served]] = defaultdict(list)
    for request in requests:
        ending[request.first_step].append(request)
    queue = [request for step in sorted(ending) for request in _in_order(ending[step])]
    position = {request.identity: request.prompt - request.computed for request in requests}
    chunks: list[list[Chunk]] = [[] for _ in details]
    head = 0
    for step, detail in enumerate(details):
        while head < len(queue) and queue[head].first_step <= step:
            head += 1
        spare = detail.prefill_tokens
        for request in ending[step]:
            start = position[request.identity]
            chunks[step].append((request, start, request.prompt))
            spare -= request.prompt - start
        partial = queue[head : head + detail.prefill_requests - len(ending[step])]
        for request, tokens in zip(partial, _cuts(partial, position, spare), strict=True):
            start = position[request.identity]
            position[request.identity] += tokens
            spare -= tokens
            chunks[step].append((request, start, start + tokens))
        if spare or len(chunks[step]) != detail.prefill_requests or any(low >= high for _, low, high in chunks[step]):
            raise ScheduleError(f"step {step}: {detail.prefill_tokens} prefill tokens, {spare} of them unexplained")
        for request, low, high in chunks[step]:
            context = (high - low) * (low + high + 1) / 2
            shares[step].append(Share(request.identity, prefill_tokens=high - low, prefill_context=context))
    return chunks


def _in_order(ending: list[Served]) -> list[Served]:
    """The prefills that end in one step, in the order in which they were scheduled.

    A prefill that began in the step before was scheduled a step earlier than the others. Aborted requests
    have no scheduling time: unless a finished one is seen to be the early one, arrival decides.
    """
    times = [request.scheduled_s for request in ending if request.finished]
    if len(times) == len(ending) or (times and max(times) - min(times) > _SAME_STEP_S):
        return sorted(ending, key=lambda r: (r.scheduled_s if r.finished else max(times), r.arrived_s))
    return sorted(ending, key=lambda r: r.arrived_s)


def _cuts(partial: list[Served], position: dict[str, int], tokens: int) -> Sequence[int]:
    """How many tokens each partial prefill of a step got.

    One takes all that is left. Several are each cut before an image that the encoder had no budget for.
    """
    if len(partial) <= 1:
        return [tokens] * len(partial)
    options = [
        [start - position[r.identity] for start, _ in _placeholders(r) if start > position[r.identity]] for r in partial
    ]
    for cut in itertools.product(*options):
        if sum(cut) == tokens:
            return cut
    raise ScheduleError(f"{[r.identity for r in partial]}: {tokens} tokens fit no cut before an image")


def _placeholders(request: Served) -> Iterator[tuple[int, int]]:
    """Start and end of each image's placeholders in the prompt."""
    start = _BEFORE_IMAGE
    for tokens in request.images:
        yield start, start + tokens
        start += tokens + _BETWEEN_IMAGES


def _encode(details: list[Details], chunks: list[list[Chunk]], shares: list[list[Share]]) -> None:
    """Give each step's encoder work to the images that could have caused it.

    The counts of inputs and tokens say how many images of each size were encoded. Images whose prefix was
    computed come before those whose prefix was cached; equals share equally.
    """
    for step, detail in enumerate(details):
        if not detail.encoder_inputs:
            continue
        fresh: dict[int, list[str]] = defaultdict(list)
        stale: dict[int, list[str]] = defaultdict(list)
        for request, low, high in chunks[step]:
            for start, end in _placeholders(request):
                if start < high and end > low and (start >= low or low == request.prompt - request.computed):
                    (fresh if start >= low else stale)[end - start].append(request.identity)
        inputs: dict[str, float] = defaultdict(float)
        tokens: dict[str, float] = defaultdict(float)
        for size, count in _encoded(detail, {s: len(fresh[s]) + len(stale[s]) for s in {*fresh, *stale}}).items():
            for candidates, wanted in (
                (fresh[size], min(count, len(fresh[size]))),
                (stale[size], count - min(count, len(fresh[size]))),
            ):
                for identity in candidates:
                    inputs[identity] += wanted / len(candidates)
                    tokens[identity] += size * wanted / len(candidates)
        shares[step] = [
            share._replace(encoder_inputs=inputs[share.request], encoder_tokens=tokens[share.request])
            for share in shares[step]
        ]


def _encoded(detail: Details, candidates: dict[int, int]) -> dict[int, int]:
    """How many images of each size a step encoded, from its counts of inputs and tokens."""
    sizes = sorted(candidates)
    for counts in itertools.product(*(range(candidates[size] + 1) for size in sizes)):
        total = sum(count * size for count, size in zip(counts, sizes, strict=True))
        if sum(counts) == detail.encoder_inputs and total == detail.encoder_tokens:
            return dict(zip(sizes, counts, strict=True))
    raise ScheduleError(f"{detail}: its encoder work fits no images of its prefills ({candidates})")


def _decode(details: list[Details], requests: list[Served], shares: list[list[Share]]) -> None:
    """Add every request to every step in which it decoded."""
    for request in requests:
        for generated, step in enumerate(range(request.first_step + 1, request.last_step + 1), start=1):
            shares[step].append(Share(request.identity, decode_tokens=1, attended=request.prompt + generated))
    for step, detail in enumerate(details):
        decodes = sum(share.decode_tokens for share in shares[step])
        if decodes != detail.decode_requests or decodes != detail.decode_tokens:
            raise ScheduleError(f"step {step}: {detail.decode_requests} decodes, {decodes} replayed")


def _starts(rows: Sequence[dict[str, Any]], chunks: list[list[Chunk]]) -> list[float]:
    """Monotonic seconds at which each step's interval starts; ``rows`` are all marks, steps or not."""
    starts: list[float] = []
    previous, idle = float("-inf"), True
    for row in rows:
        at = float(row["m"])
        if row.get("d"):
            scheduled = [request.scheduled_s for request, _, _ in chunks[len(starts)]]
            starts.append(max(previous, min([at, *scheduled])) if idle and scheduled else previous)
            previous, idle = at, False
        idle = idle or row["run"] == 0
    return starts
