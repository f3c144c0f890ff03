"""Traffic of several tenants for the demonstration's engine: chats, images, streams, and clients that hang up.

    python traffic.py URL [--model NAME] [--seed NUMBER]

Waits for the engine, then sends for ever, a thread a tenant, and says once a minute what became of the requests.
Who asks is in the headers that the probe reads (docs/probe.md). Standard library only.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import struct
import sys
import threading
import time
import urllib.request
import zlib
from collections import Counter
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any

WORDS = (
    "every",
    "request",
    "is",
    "answered",
    "with",
    "tokens",
    "that",
    "cost",
    "a",
    "little",
    "and",
    "somebody",
    "pays",
)
REPORT_SECONDS = 60.0
ANSWER_WITHIN_SECONDS = 120.0
PREAMBLE_REPEATS = 12
"""Of WORDS in each project's own system prompt: more than one block of the CPU engine's prefix cache (128 tokens)."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks, how often (requests a minute), and for how much (most words in, most tokens out)."""

    name: str
    project: str
    tier: str
    per_minute: float
    words: int
    tokens: int
    images: float = 0.0
    """Share of the requests that show an image."""
    hang_ups: float = 0.0
    """Share of the requests whose client leaves in the middle of the answer."""


TENANTS = (
    Tenant("shop", "search", "interactive", 20, words=40, tokens=32),
    Tenant("shop", "assistant", "interactive", 10, words=120, tokens=96, hang_ups=0.05),
    Tenant("studio", "captions", "interactive", 8, words=20, tokens=48, images=1.0),
    Tenant("research", "labelling", "batch", 12, words=200, tokens=24),
)


def picture(red: int, green: int, blue: int, edge: int = 32) -> str:
    """A data: URL of a square PNG (8-bit RGB) of one colour."""
    row = b"\0" + bytes((red, green, blue)) * edge
    chunks = (b"IHDR", struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row * edge))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*chunks, (b"IEND", b""))
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def chat(tenant: Tenant, model: str, chance: random.Random) -> dict[str, Any]:
    """The body of one request of the tenant's."""
    text = " ".join(chance.choices(WORDS, k=chance.randint(5, tenant.words)))
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if chance.random() < tenant.images:
        parts.append({"type": "image_url", "image_url": {"url": picture(*chance.randbytes(3))}})
    preamble = " ".join([tenant.project, *WORDS * PREAMBLE_REPEATS])
    return {
        "model": model,
        "messages": [{"role": "system", "content": preamble}, {"role": "user", "content": parts}],
        "max_tokens": chance.randint(4, tenant.tokens),
        "ignore_eos": True,
        "stream": True,
    }


def get(request: urllib.request.Request, within: float) -> HTTPResponse:
    """The engine's answer, its head read; OSError (of which urllib's errors are) where there is none or it refuses."""
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=within)  # noqa: S310  # main takes http alone  # nosec B310
    return answer


@dataclass(slots=True)
class Client:
    """One tenant's traffic to the engine at ``url``: a request after another, with pauses of a random length."""

    tenant: Tenant
    url: str
    model: str
    chance: random.Random
    outcomes: Counter[str]

    def run(self) -> None:
        """Send for ever."""
        while True:
            time.sleep(self.chance.expovariate(self.tenant.per_minute / 60))
            outcome = self.ask()
            self.outcomes[outcome] += 1
            if outcome == "failed":
                wait_for(self.url)

    def ask(self) -> str:
        """Send one request and read its answer, or leave after its first line: ``answered``, ``left``, ``failed``."""
        headers = {
            "Content-Type": "application/json",
            "X-Tenant-Id": self.tenant.name,
            "X-Project-Id": self.tenant.project,
            "X-Tier": self.tenant.tier,
        }
        body = json.dumps(chat(self.tenant, self.model, self.chance)).encode()
        leaves = self.chance.random() < self.tenant.hang_ups
        try:
            request = urllib.request.Request(f"{self.url}/v1/chat/completions", body, headers)  # noqa: S310  # same
            with get(request, ANSWER_WITHIN_SECONDS) as answer:
                if leaves:
                    answer.readline()
                else:
                    answer.read()
        except (OSError, HTTPException):
            return "failed"
        return "left" if leaves else "answered"


def wait_for(url: str) -> None:
    """Return when the engine is healthy."""
    while True:
        try:
            with get(urllib.request.Request(f"{url}/health"), 5):  # noqa: S310  # same
                return
        except (OSError, HTTPException):
            time.sleep(2)


def main() -> None:
    """Send until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="the engine, for example http://engine:8000")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    url, outcomes = given.url.rstrip("/"), Counter[str]()
    if not url.startswith(("http://", "https://")):
        parser.error(f"{given.url} is no http URL")
    wait_for(url)
    for tenant in TENANTS:
        chance = random.Random(f"{given.seed} {tenant.name} {tenant.project}")  # noqa: S311  # traffic, not secrets  # nosec B311
        client = Client(tenant, url, given.model, chance, outcomes)
        threading.Thread(target=client.run, daemon=True).start()
    while True:
        time.sleep(REPORT_SECONDS)
        sys.stdout.write(f"requests so far: {', '.join(f'{n} {what}' for what, n in sorted(outcomes.items()))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
