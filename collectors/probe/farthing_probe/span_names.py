"""The edge span's names, as ``farthing.domain.conventions`` has them; a test holds the two equal.

Sources: OpenTelemetry's semantic conventions for generative AI (github.com/open-telemetry/semantic-conventions-genai,
status Development) and for HTTP.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ATTRIBUTE_CACHED_TOKENS",
    "ATTRIBUTE_ESTIMATE",
    "ATTRIBUTE_FINISH_REASONS",
    "ATTRIBUTE_IMAGE_TOKENS",
    "ATTRIBUTE_INPUT_TOKENS",
    "ATTRIBUTE_MODEL",
    "ATTRIBUTE_OPERATION",
    "ATTRIBUTE_OUTCOME",
    "ATTRIBUTE_OUTPUT_TOKENS",
    "ATTRIBUTE_PROJECT",
    "ATTRIBUTE_PROVIDER",
    "ATTRIBUTE_REQUEST_ID",
    "ATTRIBUTE_ROUTE",
    "ATTRIBUTE_STATUS",
    "ATTRIBUTE_TENANT",
    "ATTRIBUTE_TIER",
    "RESOURCE_INSTANCE",
    "RESOURCE_SERVICE",
    "SPAN_ABORTED",
    "SPAN_FIRST_TOKEN",
    "SPAN_OPERATIONS",
    "SPAN_PROVIDER",
    "SPAN_SCOPE",
    "SPAN_SERVICE",
]

SPAN_SERVICE: Final = "farthing-edge"
"""``service.name`` of the edge span's resource; ``service.instance.id`` is the engine's name."""
SPAN_SCOPE: Final = "farthing_probe"
RESOURCE_SERVICE: Final = "service.name"
RESOURCE_INSTANCE: Final = "service.instance.id"
SPAN_PROVIDER: Final = "vllm"
SPAN_FIRST_TOKEN: Final = "first_token"  # noqa: S105 - an event
SPAN_ABORTED: Final = "aborted"
ATTRIBUTE_OPERATION: Final = "gen_ai.operation.name"
ATTRIBUTE_PROVIDER: Final = "gen_ai.provider.name"
ATTRIBUTE_MODEL: Final = "gen_ai.request.model"
ATTRIBUTE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
ATTRIBUTE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
ATTRIBUTE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
ATTRIBUTE_CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
ATTRIBUTE_IMAGE_TOKENS: Final = "farthing.usage.image_tokens"
ATTRIBUTE_TENANT: Final = "farthing.tenant"
ATTRIBUTE_PROJECT: Final = "farthing.project"
ATTRIBUTE_TIER: Final = "farthing.tier"
ATTRIBUTE_OUTCOME: Final = "farthing.outcome"
ATTRIBUTE_REQUEST_ID: Final = "farthing.request_id"
ATTRIBUTE_ESTIMATE: Final = "farthing.cost.estimate_nano_usd"
ATTRIBUTE_ROUTE: Final = "http.route"
ATTRIBUTE_STATUS: Final = "http.response.status_code"
SPAN_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/chat/completions/batch": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/cohere/v2/chat": "chat",
    "/v1/completions": "text_completion",
    "/inference/v1/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v2/embed": "embeddings",
}
"""``gen_ai.operation.name`` by route; of another route, its last part."""
