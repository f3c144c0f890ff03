"""Requests to a real engine: chat with text and images, and what ``usage`` says of them."""

import base64
import random
import struct
import zlib

import httpx
from tests.integration.engine.real_engine import RealEngine

__all__ = ["chat", "image_part", "png", "text_part"]


def png(width: int, height: int, seed: int) -> bytes:
    """A PNG (8-bit RGB) of noise; equal seeds give equal images."""
    noise = random.Random(seed)  # noqa: S311 - a picture, not a secret
    rows = b"".join(b"\0" + noise.randbytes(3 * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


def text_part(text: str) -> dict[str, object]:
    """A text part of a message."""
    return {"type": "text", "text": text}


def image_part(width: int, height: int, seed: int) -> dict[str, object]:
    """An image part of a message, as a data: URL."""
    encoded = base64.b64encode(png(width, height, seed)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}


async def chat(
    client: httpx.AsyncClient,
    engine: RealEngine,
    parts: list[dict[str, object]],
    *,
    max_tokens: int,
    headers: dict[str, str] | None = None,
) -> dict[str, object]:
    """The ``usage`` of one answered chat request of exactly ``max_tokens`` output tokens."""
    response = await client.post(
        f"{engine.url}/v1/chat/completions",
        json={
            "model": engine.model,
            "messages": [{"role": "user", "content": parts}],
            "max_tokens": max_tokens,
            "ignore_eos": True,
        },
        headers=headers,
        timeout=120,
    )
    response.raise_for_status()
    usage = response.json()["usage"]
    assert isinstance(usage, dict)
    return usage
