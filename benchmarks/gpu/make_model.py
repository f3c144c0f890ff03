"""A model without weights in the shape of Llama-3.1-8B, for servers that are started with ``--load-format dummy``.

    python benchmarks/gpu/make_model.py FOLDER

Speed, memory, energy and scheduling are those of the shape; what it writes is noise, but every token id decodes.
FOLDER also gets ``words.json``, the words that are one token each, from which the load makes prompts of known length.
Nothing is downloaded, and equal code makes equal files.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

VOCABULARY = 128_256
WORDS = 1576
"""As many as the recordings' load chose from, so that an equal seed asks for equal sizes."""
CONSONANTS, VOWELS = "bcdfgklmnprstvz", "aeiou"
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPACE = "\u0120"
"""How the byte-level alphabet writes a space."""
CHAT = (
    "{% for message in messages %}" + START + "{{ message['role'] }}\n{{ message['content'] }}" + END + "\n"
    "{% endfor %}{% if add_generation_prompt %}" + START + "assistant\n{% endif %}"
)
CONFIG: dict[str, Any] = {
    # as published with Llama-3.1-8B, but for the ids of this tokenizer
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "transformers_version": "4.42.3",
    "vocab_size": VOCABULARY,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def byte_alphabet() -> list[str]:
    """The characters that stand for the 256 bytes in a byte-level BPE, as GPT-2 defined them."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]


def made_words(number: int) -> list[str]:
    """Different words of two or three syllables."""
    rng = random.Random(7)
    words: dict[str, None] = {}
    while len(words) < number:
        syllables = [rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(2, 3))]
        words["".join(syllables)] = None
    return sorted(words)


def bpe(words: list[str], size: int) -> dict[str, Any]:
    """A byte-level BPE of so many tokens in which a space and one of the words are one token.

    Every merge adds a letter to the beginning of a word, so no other merge can get in its way.
    """
    tokens = dict.fromkeys([PAD, START, END, *byte_alphabet()])
    merges = []
    for word in words:
        for end in range(len(word)):
            longer = SPACE + word[: end + 1]
            if longer not in tokens:
                merges.append(f"{SPACE + word[:end]} {word[end]}")
                tokens[longer] = None
    tokens |= dict.fromkeys(f"{SPACE}q{number}" for number in range(len(tokens), size))
    return {"type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges}


def tokenizer(words: list[str]) -> dict[str, Any]:
    """The whole tokenizer.json."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, **plain, "special": True} for number, token in enumerate((PAD, START, END))
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": bpe(words, VOCABULARY),
    }


def main(folder: Path) -> None:
    """Write the model's files."""
    words = made_words(WORDS)
    named = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": PAD,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": 1 << 20,
        "chat_template": CHAT,
    }
    files = {
        "config.json": CONFIG,
        "tokenizer.json": tokenizer(words),
        "tokenizer_config.json": named,
        "words.json": words,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
