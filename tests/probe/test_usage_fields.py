"""The numbers of ``usage`` out of the bodies that vLLM sends, and nothing that a text in them pretends."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing_probe.usage_fields import LARGEST, Told, told_by


def compact(value):
    """As vLLM's JSON responses are written."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


CHAT = compact(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 1060,
            "total_tokens": 1080,
            "completion_tokens": 20,
            "prompt_tokens_details": {
                "cached_tokens": 1024, "created_cache_tokens": 0, "multimodal_tokens": {"image": 19}
            },
        },
        "prompt_logprobs": None,
        "kv_transfer_params": None,
    }
)  # fmt: skip
ANTHROPIC_END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"input_tokens":36,"output_tokens":20,"cache_read_input_tokens":1024}}\n\n'
)
RESPONSES_END = (
    b'event: response.completed\ndata: {"response":{"id":"resp_1","output":[],"usage":{"input_tokens":12,'
    b'"input_tokens_details":{"cached_tokens":4},"output_tokens":5,"output_tokens_details":{"reasoning_tokens":2},'
    b'"total_tokens":17},"user":null},"sequence_number":9,"type":"response.completed"}\n\n'
)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (CHAT, Told(1060, 1024, 19, 20)),
        (b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"total_tokens":9,"completion_tokens":2}}\n\n',
         Told(7, None, None, 2)),
        (b'data: {"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"prompt_tokens":7,"completion_tokens":1}}'
         b"\n\ndata: [DONE]\n\n", Told(7, None, None, 1)),
        (ANTHROPIC_END, Told(1060, 1024, None, 20)),
        (b'{"usage":{"input_tokens":5,"output_tokens":2,"cache_read_input_tokens":null,'
         b'"cache_creation_input_tokens":3}}', Told(8, 0, None, 2)),
        (RESPONSES_END, Told(12, 4, None, 5)),
        (compact({"object": "list", "data": [{"embedding": [0.5]}],
                  "usage": {"prompt_tokens": 8, "total_tokens": 8, "completion_tokens": 0,
                            "prompt_tokens_details": None}}), Told(8, None, None, 0)),
        (b'{"usage":null}', Told()),
        (b'{"usage":{}}', Told()),
        (b'{"text":"a transcription"}', Told()),
        (b"", Told()),
    ],
    ids=["chat", "last chunk", "continuous", "anthropic", "anthropic creation", "responses", "embeddings",
         "null", "empty", "transcription", "nothing"],
)  # fmt: skip
def test_the_counts_are_those_that_the_client_was_told(body, told):
    """In OpenAI's names and in Anthropic's, which count what came from the cache beside the rest."""
    assert told_by(body) == told


FAKE = '"usage":{"prompt_tokens":999999,"completion_tokens":999999}'


@pytest.mark.parametrize("text", [FAKE, FAKE + "}", "\\" + FAKE, '\\"' + FAKE, "\u2028" + FAKE + "\n\ndata: "])
def test_an_answer_that_spells_usage_changes_nothing(text):
    """Inside a JSON string its quotation marks are escaped, whatever stands before them."""
    body = json.loads(CHAT)
    body["choices"][0]["message"]["content"] = text
    body["prompt_logprobs"] = [{"1": {"decoded_token": text}}]
    assert told_by(compact(body)) == Told(1060, 1024, 19, 20)
    del body["usage"]
    assert told_by(compact(body)) == Told()


@given(st.text())
def test_no_text_of_an_answer_is_taken_for_usage(text):
    """Any text at all, before and after the real thing."""
    body = compact({"content": text + FAKE, "usage": {"prompt_tokens": 3}, "after": FAKE + text})
    assert told_by(body) == Told(prompt=3)


def test_arguments_of_a_tool_are_not_the_usage():
    """/v1/messages gives them as an object; the answer's own usage comes last."""
    tool = {"type": "tool_use", "name": "report", "input": {"usage": {"input_tokens": 999_999}}}
    body = {"role": "assistant", "content": [tool], "usage": {"input_tokens": 36, "output_tokens": 20}}
    assert told_by(compact(body)) == Told(36, None, None, 20)


@pytest.mark.parametrize(
    "usage",
    [
        b'{"prompt_tokens":' + b"[" * 100_000,
        b'{"prompt_tokens":{"a":' * 50_000,
        b'{"prompt_tokens":' + b"9" * 10_000 + b"}",
        b'{"prompt_tokens":1',
        b'{"prompt_tokens":"',
        b"{\xff\xfe}",
        b"{",
    ],
    ids=["list bomb", "object bomb", "endless number", "cut", "cut text", "not UTF-8", "nothing"],
)
def test_a_usage_that_cannot_be_read_is_unknown(usage):
    """Never an exception, and never a guess."""
    assert told_by(b'{"id":"1","usage":' + usage) == Told()


@pytest.mark.parametrize("value", [-1, 1.5, True, "7", None, [], {}, 2**31])
def test_a_count_that_is_none_is_unknown(value):
    """Intake takes integers from 0 to 2**31 - 1."""
    assert told_by(compact({"usage": {"prompt_tokens": value, "completion_tokens": 2}})) == Told(output=2)


def test_parts_are_never_more_than_the_whole():
    """Intake refuses a record that says so, and a request must not be lost because of it."""
    details = {"cached_tokens": 9, "multimodal_tokens": {"image": 9}}
    body = compact({"usage": {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": details}})
    assert told_by(body) == Told(5, 5, 5, 1)
    huge = {"input_tokens": LARGEST, "cache_read_input_tokens": LARGEST, "cache_creation_input_tokens": LARGEST}
    assert told_by(compact({"usage": huge})) == Told(LARGEST, LARGEST, None, None)
