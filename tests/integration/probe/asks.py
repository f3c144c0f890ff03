"""Plans of requests: a seed gives the same mixed load every time, and what must become of each request.

Every request carries a workload header of its own, so that the record it leaves is found whatever its ids are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.integration.engine.chat import image_part, text_part

__all__ = [
    "ADAPTER",
    "BY_KEY",
    "KEYED_TENANT",
    "PLAIN_KEY",
    "TENANTS",
    "Ask",
    "HangUp",
    "abort_plan",
    "calm_plan",
    "text_plan",
    "vision_plan",
]

MODEL = "tiny"
ADAPTER = "adapter"
TENANTS = ("acme", "globex", "initech", "umbrella")
KEYED_TENANT = "hooli"
"""The fifth: it sends no tenant header and is known by its key."""
PLAIN_KEY = "sk-of-everyone-else"
BY_KEY = "sk-of-hooli-alone"
PROJECTS = ("search", "assistant", "batch")
TIERS = ("interactive", "standard", "batch")
WORDS = (
    *("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "a", "server"),
    *("answers", "many", "requests", "about", "pictures", "and", "text"),
)
"""Of the text that the models' tokenizer was made from."""
PREFIX_WORDS = 300
"""More than two cache blocks of 128 tokens."""
TOO_MANY_WORDS = 2_500
LONG = 2_400
"""Output tokens that no client stays for: it hangs up long before, though the engine may be seconds ahead of it."""
CHAT, COMPLETIONS, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
RESPONSES, BATCH = "/v1/responses", "/v1/chat/completions/batch"


@dataclass(frozen=True, slots=True)
class HangUp:
    """When a client closes its socket: after so many chunks of output (0: at the headers), after so many seconds, or
    with half its request sent.
    """

    chunks: int | None = None
    seconds: float | None = None
    asking: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, and what must be said of it afterwards."""

    tag: str
    recipe: str
    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: HangUp | None = None
    tenant: str = ""
    project: str = ""
    tier: str = ""
    user: str = ""
    request_id: str | None = None
    """As the client sends it."""
    status: int = 200
    outcome: str = "finished"
    model: str = MODEL
    sequences: int = 1
    """Sequences that the engine generates for it."""
    prompts: tuple[Any, ...] = ()
    """What the engine tokenizes: texts, or messages; each ``sequences / len(prompts)`` times."""
    output_tokens: int | None = None
    """Exactly so many, of all sequences; None where the model decides."""

    @property
    def streams(self) -> bool:
        """Whether the answer comes in chunks."""
        return bool(self.body.get("stream"))


Recipe = Callable[[random.Random], dict[str, Any]]
"""Draws path, body and whatever of an Ask differs from the usual."""


def _words(rng: random.Random, low: int = 4, high: int = 40) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))


def _sampling(rng: random.Random, low: int = 6, high: int = 24, **more: Any) -> dict[str, Any]:
    """Greedy, so that speculation guesses right; exactly as many tokens as drawn."""
    return {"max_tokens": rng.randint(low, high), "ignore_eos": True, "temperature": 0.0, **more}


def _chat(content: Any, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"path": CHAT, "body": {"model": MODEL, "messages": messages, **body}, "prompts": (messages,)}


def _exact(drawn: dict[str, Any]) -> dict[str, Any]:
    """The same, with the number of output tokens that its body asks for."""
    sequences = drawn.get("sequences", 1)
    return {**drawn, "output_tokens": sequences * drawn["body"]["max_tokens"]}


def chat_whole(rng: random.Random) -> dict[str, Any]:
    """An answer in one piece."""
    return _exact(_chat(_words(rng), **_sampling(rng)))


def chat_stream(rng: random.Random) -> dict[str, Any]:
    """A stream that never says how many tokens it was."""
    return _exact(_chat(_words(rng), stream=True, **_sampling(rng)))


def chat_stream_usage(rng: random.Random) -> dict[str, Any]:
    """A stream whose last chunk says so."""
    return _exact(_chat(_words(rng), stream=True, stream_options={"include_usage": True}, **_sampling(rng)))


def chat_stream_continuous(rng: random.Random) -> dict[str, Any]:
    """A stream that says so in every chunk."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    return _exact(_chat(_words(rng), stream=True, stream_options=options, **_sampling(rng)))


def chat_two(rng: random.Random) -> dict[str, Any]:
    """Two answers to one prompt."""
    body = {"n": 2, "seed": rng.randrange(1000), **_sampling(rng, temperature=1.0)}
    return _exact({**_chat(_words(rng), **body), "sequences": 2})


def chat_two_stream(rng: random.Random) -> dict[str, Any]:
    """Two answers whose chunks interleave."""
    drawn = chat_two(rng)
    return {**drawn, "body": {**drawn["body"], "stream": True, "stream_options": {"include_usage": True}}}


def chat_shared_prefix(rng: random.Random) -> dict[str, Any]:
    """A prompt whose beginning others had before: it is in the cache from the second time on."""
    beginning = _words(random.Random(7), PREFIX_WORDS, PREFIX_WORDS)  # noqa: S311 - a text, not a secret
    stream = {"stream": True, "stream_options": {"include_usage": True}} if rng.random() < 0.5 else {}
    return _exact(_chat(f"{beginning} {_words(rng)}", **stream, **_sampling(rng, 4, 10)))


def chat_adapter(rng: random.Random) -> dict[str, Any]:
    """The adapter asked for by its own name."""
    drawn = chat_stream_usage(rng) if rng.random() < 0.5 else chat_whole(rng)
    return {**drawn, "body": {**drawn["body"], "model": ADAPTER}, "model": ADAPTER}


def chat_stop(rng: random.Random) -> dict[str, Any]:
    """Stop strings, so that the model decides how long the answer is."""
    return _chat(_words(rng), stop=["e", "o", "~7"], **_sampling(rng, 16, 48))


def chat_tools(rng: random.Random) -> dict[str, Any]:
    """A conversation with a tool call, its arguments and its result."""
    drawn = _exact(_chat(_words(rng), **_sampling(rng)))
    call = {"name": "look_up", "arguments": f'{{"of": "{_words(rng, 2, 4)}"}}'}
    tool = {"name": "look_up", "parameters": {"type": "object", "properties": {"of": {"type": "string"}}}}
    messages = [
        *drawn["body"]["messages"],
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c1", "content": _words(rng, 2, 6)},
    ]
    body = {**drawn["body"], "messages": messages, "tools": [{"type": "function", "function": tool}]}
    return {**drawn, "body": body, "prompts": (messages,)}


def chat_batch(rng: random.Random) -> dict[str, Any]:
    """Several conversations in one request."""
    conversations = [[{"role": "user", "content": _words(rng)}] for _ in range(rng.randint(2, 3))]
    body = {"model": MODEL, "messages": conversations, **_sampling(rng, 4, 12)}
    drawn = {"path": BATCH, "body": body, "prompts": tuple(conversations), "sequences": len(conversations)}
    return _exact(drawn)


def _completion(prompt: str | list[str], **body: Any) -> dict[str, Any]:
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    sequences = len(prompts) * body.get("n", 1)
    body = {"model": MODEL, "prompt": prompt, **body}
    return _exact({"path": COMPLETIONS, "body": body, "prompts": prompts, "sequences": sequences})


def completion(rng: random.Random) -> dict[str, Any]:
    """One prompt."""
    return _completion(_words(rng), **_sampling(rng))


def completion_stream(rng: random.Random) -> dict[str, Any]:
    """One prompt, its answer in chunks, sometimes with usage."""
    options = {"stream_options": {"include_usage": True}} if rng.random() < 0.5 else {}
    return _completion(_words(rng), stream=True, **options, **_sampling(rng))


def completion_list(rng: random.Random) -> dict[str, Any]:
    """Several prompts in one request."""
    return _completion([_words(rng) for _ in range(rng.randint(2, 4))], **_sampling(rng, 4, 12))


def completion_list_stream(rng: random.Random) -> dict[str, Any]:
    """Several prompts whose chunks interleave."""
    drawn = completion_list(rng)
    return {**drawn, "body": {**drawn["body"], "stream": True, "stream_options": {"include_usage": True}}}


def completion_list_two(rng: random.Random) -> dict[str, Any]:
    """Two answers to each of two prompts."""
    body = {"n": 2, "seed": rng.randrange(1000), **_sampling(rng, 4, 12, temperature=1.0)}
    return _completion([_words(rng), _words(rng)], **body)


def completion_adapter(rng: random.Random) -> dict[str, Any]:
    """The adapter through the older route."""
    drawn = completion_stream(rng)
    return {**drawn, "body": {**drawn["body"], "model": ADAPTER}, "model": ADAPTER}


def messages_route(rng: random.Random) -> dict[str, Any]:
    """Anthropic's route."""
    asked = [{"role": "user", "content": _words(rng)}]
    body = {"model": MODEL, "messages": asked, "max_tokens": rng.randint(6, 16), "stream": rng.random() < 0.5}
    return {"path": MESSAGES, "body": body, "prompts": (asked,)}


def responses_route(rng: random.Random) -> dict[str, Any]:
    """OpenAI's newer route, which ignores the client's request id."""
    text = _words(rng)
    stream = rng.random() < 0.5
    body = {"model": MODEL, "input": text, "max_output_tokens": rng.randint(6, 16), "stream": stream}
    return {"path": RESPONSES, "body": body, "prompts": ([{"role": "user", "content": text}],)}


def _aborted(drawn: dict[str, Any], hang_up: HangUp, status: int = 499) -> dict[str, Any]:
    return {**drawn, "hang_up": hang_up, "status": status, "outcome": "aborted", "output_tokens": None}


def abort_at_once(rng: random.Random) -> dict[str, Any]:
    """Gone at the headers of a stream, before its first token where the prompt is long enough."""
    prompt = _words(rng, 300, 350)
    return _aborted(_chat(prompt, stream=True, **_sampling(rng, LONG, LONG)), HangUp(chunks=0))


def abort_midway(rng: random.Random) -> dict[str, Any]:
    """Gone after some chunks of a chat."""
    drawn = _chat(_words(rng), stream=True, return_token_ids=True, **_sampling(rng, LONG, LONG))
    return _aborted(drawn, HangUp(chunks=rng.randint(1, 24)))


def abort_completion(rng: random.Random) -> dict[str, Any]:
    """Gone after some chunks of an answer of two sequences."""
    body = {"n": 2, "seed": 3, "stream": True, "return_token_ids": True}
    drawn = _completion(_words(rng), **body, **_sampling(rng, LONG, LONG, temperature=1.0))
    return _aborted(drawn, HangUp(chunks=rng.randint(2, 24)))


def abort_waiting(rng: random.Random) -> dict[str, Any]:
    """Gone while waiting for an answer in one piece."""
    return _aborted(_chat(_words(rng), **_sampling(rng, LONG, LONG)), HangUp(seconds=rng.uniform(0.1, 0.3)))


def abort_list(rng: random.Random) -> dict[str, Any]:
    """Gone while waiting for the answers to several prompts."""
    drawn = _completion([_words(rng), _words(rng)], **_sampling(rng, LONG, LONG))
    return _aborted(drawn, HangUp(seconds=rng.uniform(0.1, 0.3)))


def abort_asking(rng: random.Random) -> dict[str, Any]:
    """Gone in the middle of its own request, of which the engine never hears."""
    return {**_aborted(chat_whole(rng), HangUp(asking=True)), "sequences": 0, "prompts": ()}


def _rejected(drawn: dict[str, Any], status: int) -> dict[str, Any]:
    return {**drawn, "status": status, "outcome": "rejected", "sequences": 0, "output_tokens": None, "prompts": ()}


def bad_parameter(rng: random.Random) -> dict[str, Any]:
    """A parameter that the engine refuses."""
    return _rejected(_chat(_words(rng), **{**_sampling(rng), "temperature": -1.0}), 400)


def bad_json_field(rng: random.Random) -> dict[str, Any]:
    """A body that is not what the route takes."""
    return _rejected({"path": CHAT, "body": {"model": MODEL, "messages": "no list"}}, 400)


def too_long(rng: random.Random) -> dict[str, Any]:
    """A prompt that does not fit the model."""
    stream = {"stream": True} if rng.random() < 0.5 else {}
    return _rejected(_chat(_words(rng, TOO_MANY_WORDS, TOO_MANY_WORDS), **stream, **_sampling(rng)), 400)


def unknown_model(rng: random.Random) -> dict[str, Any]:
    """A model that is not served."""
    drawn = _chat(_words(rng), **_sampling(rng))
    return _rejected({**drawn, "body": {**drawn["body"], "model": "no-such-model"}}, 404)


def wrong_key(rng: random.Random) -> dict[str, Any]:
    """A key that the engine does not know, with a tenant that the sender may not speak for."""
    headers = {"Authorization": "Bearer sk-guessed"}
    return {**_rejected(chat_whole(rng), 401), "headers": headers}


def image_chat(rng: random.Random) -> dict[str, Any]:
    """One picture, one of six: some are in the processor's cache."""
    parts = [text_part(_words(rng)), image_part(48 + 16 * rng.randrange(3), 64, rng.randrange(2))]
    return _exact(_chat(parts, **_sampling(rng)))


def image_chat_stream(rng: random.Random) -> dict[str, Any]:
    """Two pictures of their own, streamed, with or without usage."""
    pictures = [image_part(64, 48, rng.randrange(10**6)) for _ in range(2)]
    options = {"stream_options": {"include_usage": True}} if rng.random() < 0.5 else {}
    return _exact(_chat([*pictures, text_part(_words(rng))], stream=True, **options, **_sampling(rng)))


def image_chat_two(rng: random.Random) -> dict[str, Any]:
    """A picture, and two answers to it."""
    parts = [image_part(64, 64, rng.randrange(10**6)), text_part(_words(rng))]
    body = {"n": 2, "seed": rng.randrange(1000), **_sampling(rng, temperature=1.0)}
    return _exact({**_chat(parts, **body), "sequences": 2})


def image_abort(rng: random.Random) -> dict[str, Any]:
    """Gone after some chunks about a picture."""
    parts = [image_part(96, 96, rng.randrange(10**6)), text_part(_words(rng))]
    drawn = _chat(parts, stream=True, return_token_ids=True, **_sampling(rng, LONG, LONG))
    return _aborted(drawn, HangUp(chunks=rng.randint(0, 8)))


def too_many_images(rng: random.Random) -> dict[str, Any]:
    """More pictures than the engine takes."""
    parts = [image_part(32, 32, n) for n in range(3)]
    return _rejected(_chat([*parts, text_part(_words(rng))], **_sampling(rng)), 400)


TEXT: tuple[tuple[Recipe, int], ...] = (
    (chat_whole, 9),
    (chat_stream, 9),
    (chat_stream_usage, 9),
    (chat_stream_continuous, 2),
    (chat_two, 3),
    (chat_two_stream, 2),
    (chat_shared_prefix, 8),
    (chat_adapter, 4),
    (chat_stop, 3),
    (chat_tools, 3),
    (chat_batch, 2),
    (completion, 6),
    (completion_stream, 6),
    (completion_list, 3),
    (completion_list_stream, 2),
    (completion_list_two, 2),
    (completion_adapter, 2),
    (messages_route, 4),
    (responses_route, 4),
    (abort_at_once, 3),
    (abort_midway, 4),
    (abort_completion, 1),
    (abort_waiting, 3),
    (abort_list, 1),
    (abort_asking, 1),
    (bad_parameter, 2),
    (bad_json_field, 1),
    (too_long, 2),
    (unknown_model, 2),
    (wrong_key, 2),
)
"""Recipes of the text load with their weights."""

VISION: tuple[tuple[Recipe, int], ...] = (
    (image_chat, 6),
    (image_chat_stream, 4),
    (image_chat_two, 2),
    (chat_whole, 2),
    (chat_stream, 2),
    (image_abort, 2),
    (too_many_images, 1),
    (unknown_model, 1),
)

CALM: tuple[tuple[Recipe, int], ...] = (
    (chat_whole, 4),
    (chat_stream, 4),
    (chat_stream_usage, 4),
    (chat_two, 1),
    (chat_shared_prefix, 1),
    (completion_list, 2),
    (messages_route, 1),
    (responses_route, 1),
    (abort_midway, 1),
    (unknown_model, 1),
)
"""A load of which every kind of ending is known beforehand."""


def text_plan(load: str, seed: int, size: int) -> list[Ask]:
    """A mixed load for the text model, with ids that clients made up and used twice."""
    return _with_request_ids(_plan(load, seed, size, TEXT), seed)


def vision_plan(load: str, seed: int, size: int) -> list[Ask]:
    """A mixed load of pictures and text."""
    return _plan(load, seed, size, VISION)


def calm_plan(load: str, seed: int, size: int) -> list[Ask]:
    """A shorter mixed load for trials of delivery."""
    return _plan(load, seed, size, CALM)


def abort_plan(load: str, seed: int, size: int, *, told: bool) -> list[Ask]:
    """Requests that all end with a client that hangs up; ``told``: every chunk says how many tokens there were."""
    recipes: tuple[tuple[Recipe, int], ...] = ((abort_midway, 5), (abort_waiting, 1))
    plan = _plan(load, seed, size, recipes)
    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    return [replace(ask, body={**ask.body, **options}) if told and ask.streams else ask for ask in plan]


def _plan(load: str, seed: int, size: int, recipes: Sequence[tuple[Recipe, int]]) -> list[Ask]:
    """``size`` requests, every recipe among them, mixed by the seed."""
    rng = random.Random(seed)  # noqa: S311 - a load, not a secret
    weights = [weight for _, weight in recipes]
    # one of each, then by weight: a rare recipe must not be missing by chance
    chosen = [recipe for recipe, _ in recipes]
    assert size >= len(chosen), f"{size} requests cannot hold {len(chosen)} recipes"
    chosen += rng.choices(chosen, weights, k=size - len(chosen))
    rng.shuffle(chosen)
    return [_ask(f"{load}-{number:04d}", recipe, rng) for number, recipe in enumerate(chosen)]


def _ask(tag: str, recipe: Recipe, rng: random.Random) -> Ask:
    drawn = recipe(rng)
    tenant = rng.choice((*TENANTS, KEYED_TENANT))
    keyed = tenant == KEYED_TENANT
    project, tier, user = rng.choice(PROJECTS), rng.choice(TIERS), f"{tenant}-person-{rng.randrange(9)}"
    headers = {
        "Authorization": f"Bearer {BY_KEY if keyed else PLAIN_KEY}",
        **({} if keyed else {"X-Tenant-Id": tenant}),
        "X-Project-Id": project,
        "X-Tier": tier,
        "X-User-Id": user,
        "X-Workload-Id": tag,
        **drawn.pop("headers", {}),
    }
    if drawn.get("status") == 401:
        # nobody is charged for what somebody else claimed in their name
        headers["X-Tenant-Id"], tenant = rng.choice(TENANTS), "unknown"
        headers["X-Request-Id"] = drawn["request_id"] = tag  # its headers are not believed, the workload's neither
    return Ask(
        tag=tag,
        recipe=recipe.__name__,
        headers=headers,
        tenant=tenant,
        project=project,
        tier=tier,
        user=user,
        **drawn,
    )


def _with_request_ids(plan: list[Ask], seed: int) -> list[Ask]:
    """Some requests named by their clients: for themselves, like one before, and like one in flight beside them."""
    rng = random.Random(seed + 1)  # noqa: S311 - a load, not a secret
    named = list(plan)
    for at, ask in enumerate(plan):
        draw = rng.random() if ask.request_id is None else 1.0
        if draw < 0.15:
            named[at] = _named(ask, f"client-{ask.tag}")
        elif draw < 0.22:
            named[at] = _named(ask, f"again-{rng.randrange(3)}")
        elif draw < 0.24:
            named[at] = _named(ask, f"long-{ask.tag}-" + "x" * 600)
    for at in range(0, len(named) - 1, max(2, len(named) // 10)):
        here, beside = named[at], named[at + 1]
        if here.status != 401 and beside.status != 401:
            named[at], named[at + 1] = _named(here, f"twins-{at}"), _named(beside, f"twins-{at}")
    return named


def _named(ask: Ask, request_id: str) -> Ask:
    return replace(ask, request_id=request_id, headers={**ask.headers, "X-Request-Id": request_id})
