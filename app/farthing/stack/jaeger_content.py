"""What Jaeger throws away of spans before anything else sees them: whatever may hold a prompt, an answer or a header.

Farthing's own spans have none of it; applications send spans of their own, and their instrumentations write prompts and
answers into attributes and events, some of them unless told not to. The attributes processor deletes by regular
expressions over keys, found anywhere in a key (getMatchingKeys of internal/coreinternal/attraction/attraction.go of
opentelemetry-collector-contrib); what they are written against is in tests/stack/fixtures/content-attributes.yaml, with
its sources. No pattern has a $, which the collector would take for a variable of the environment.
"""

from __future__ import annotations

from typing import Any, Final

from farthing.domain import conventions as names

__all__ = ["CONTENT_PATTERNS", "delete_content", "drop_events"]

CONTENT_PATTERNS: Final = (
    # OpenTelemetry's conventions for generative AI, before and since 1.37
    r"^gen_ai\.(input|output)\.messages\b",
    r"^gen_ai\.(system_instructions|prompt|completion|content|choice|(system|user|assistant|tool)\.message)\b",
    r"^gen_ai\.tool\.(definitions|description|call\.(arguments|result))\b",
    r"^gen_ai\.(retrieval\.(documents|query)|memory\.(query|records)|evaluation\.explanation)\b",
    r"^gen_ai\.(request\.(stop_sequences|structured_output_schema)|agent\.description)\b",
    # OpenLLMetry
    r"^traceloop\.(entity\.(input|output)|association\.properties|prompt)\b",
    r"^llm\.(headers|content|completions?|prompts?|request\.functions|chat\.stop_sequences)\b",
    r"^mcp\.(request\.argument|response\.value|session\.init_options)\b",
    r"^pinecone\.query\.(filter|queries)\b",
    # OpenInference
    r"^llm\.(input_messages|output_messages|choices|prompt_template|function_call|tools|invocation_parameters)\b",
    r"^(message|message_content|tool_call|image|audio|annotations?|evaluations?|metadata)\b",
    r"^embedding\.(embeddings|invocation_parameters|text|vector)\b",
    r"^(retrieval\.(documents|query)|document\.(content|metadata)|reranker\.(query|input_documents|output_documents))\b",
    r"^tool\.(parameters|description|json_schema)\b",
    # the AI SDK
    r"^ai\.(prompt|result|values?|embeddings?|schema|request\.headers|telemetry\.metadata)\b",
    r"^ai\.settings\.(stopSequences|system)\b",
    r"^ai\.toolCall\.(args|result|input|output)\b",
    r"^ai\.response\.(text|object|toolCalls|toolResults|reasoning|files|sources|providerMetadata)\b",
    # MLflow, Langfuse, Logfire, Google's agents
    r"^mlflow\.((span|trace)(Inputs|Outputs)|chat)\b",
    r"^langfuse\.(observation|trace)\.(input|output|metadata|status_message|model\.parameters)\b",
    r"^logfire\.msg\b",
    r"^(all_messages_events|pydantic_ai\.all_messages|final_result|model_request_parameters|tool_(arguments|response))\b",
    r"^(request|response)_data\b",
    r"^gcp\.vertex\.agent\.(llm_request|llm_response|tool_call_args|tool_response|data)\b",
    # HTTP, RPC, messages, databases: bodies, headers, and addresses with their queries
    r"^http\.(request|response)\.(body|header|content|query)\b",
    r"^(http\.target|url\.(full|query|fragment))\b",
    r"\.ur[il]\b",
    r"^rpc\.(.+\.)?metadata\b",
    r"^db\.(statement|query\.(text|parameter|result)|operation\.parameter)\b",
    r"^db\.[a-z_]+\.[a-z_]+\.(where|where_document|filter|query)\b",
    r"^graphql\.(document|variables)\b",
    # what errors say may quote what they stumbled over
    r"^(exception\.(message|stacktrace)|error\.message|code\.stacktrace)\b",
    # whoever names things plainly
    r"^(prompts?|completions?|inputs?|outputs?|query|questions?|answers?|chunks?)\b",
    r"(^|\.)(contents?|messages|body|arguments|args|kwargs|transcript|question|answer)\b",
)
"""In RE2, which Go's collector reads, and alike in Python's ``re``."""


def delete_content() -> dict[str, Any]:
    """The attributes processor (keys: internal/coreinternal/attraction/config.schema.yaml)."""
    return {"actions": [{"action": "delete", "pattern": pattern} for pattern in CONTENT_PATTERNS]}


def drop_events() -> dict[str, Any]:
    """The filter processor: no event passes but the edge span's own two; conditions in OTTL, one that holds drops.

    An event of another service may hold anything under any name (OpenTelemetry's own for exceptions, messages and
    choices hold content), and neither processor reaches into an event's attributes. A condition that failed would let
    the event pass, so that a failure drops the whole payload instead (``propagate``).
    """
    own = (names.SPAN_FIRST_TOKEN, names.SPAN_ABORTED)
    return {
        "error_mode": "propagate",
        "traces": {
            "spanevent": [
                f'resource.attributes["{names.RESOURCE_SERVICE}"] != "{names.SPAN_SERVICE}"',
                " and ".join(f'name != "{name}"' for name in own),
            ]
        },
    }
