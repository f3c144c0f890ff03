"""Two models small enough for two CPU cores: configuration, tokenizer and image processor, without weights.

vLLM fills in random weights (``--load-format dummy``), so what they write is noise, but prompts, images,
tokens and scheduling are real. Nothing is downloaded. Run by the engine environment's own Python, which has
transformers and tokenizers; Farthing's has neither:

    python tiny_models.py FOLDER

makes FOLDER/tinyqwen (text, Qwen2) and FOLDER/tinysmolvlm (text and images, Idefics3 as in SmolVLM: 19 tokens
for an image of any size).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import (  # type: ignore[import-not-found]  # only the engine's environment has these two
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from transformers import (  # type: ignore[import-not-found]
    Idefics3Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

VOCABULARY = 1024
HIDDEN = 128
IMAGE_EDGE = 112
PATCH = 14
SHUFFLE = 2
"""Idefics3 folds SHUFFLE x SHUFFLE patches into one image token: (112 / 14 / 2) ** 2 = 16 of them."""
IMAGE_TOKENS = (IMAGE_EDGE // PATCH // SHUFFLE) ** 2
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}
PAD, TURN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE = "<image>"
# what Idefics3's processor looks up: the frame of an image, and a place for each tile of a split one
IMAGE_MARKS = [IMAGE, "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
TILE_MARKS = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]

# iterating over a message's parts is how vLLM recognises that the model takes OpenAI's list of parts
CHAT = f"""\
{{%- for message in messages -%}}
{TURN}{{{{ message['role'] }}}}
{{% if message['content'] is string %}}{{{{ message['content'] }}}}{{% else -%}}
{{%- for part in message['content'] -%}}
{{%- if part['type'] == 'image' -%}}{IMAGE}{{%- elif part['type'] == 'text' -%}}{{{{ part['text'] }}}}{{%- endif -%}}
{{%- endfor -%}}{{%- endif -%}}{END}
{{% endfor -%}}
{{%- if add_generation_prompt -%}}{TURN}assistant
{{% endif -%}}
"""


def write_tokenizer(folder: Path, marks: Sequence[str] = ()) -> dict[str, int]:
    """A byte-level BPE tokenizer of VOCABULARY tokens in ``folder``; returns its token ids by token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, TURN, END, *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["every request is answered with tokens that cost a little " * 99], trainer)
    # so that every id that random weights come up with is some text
    tokenizer.add_tokens([f"~{number}" for number in range(tokenizer.get_vocab_size(), VOCABULARY)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=PAD, pad_token=PAD, unk_token=PAD, eos_token=END, model_max_length=1 << 20
    )
    wrapped.chat_template = CHAT
    wrapped.save_pretrained(folder)
    ids: dict[str, int] = wrapped.get_vocab()
    return ids


def write_config(folder: Path, config: Any, architecture: str) -> None:
    """The model's config.json."""
    config.architectures = [architecture]
    config.save_pretrained(folder)


def tinyqwen(folder: Path) -> None:
    """A text model of the Qwen2 architecture."""
    ids = write_tokenizer(folder)
    write_config(folder, Qwen2Config(**TEXT, bos_token_id=ids[PAD], eos_token_id=ids[END]), "Qwen2ForCausalLM")


def tinysmolvlm(folder: Path) -> None:
    """A vision-language model of the Idefics3 architecture, which needs no torchvision."""
    ids = write_tokenizer(folder, [*IMAGE_MARKS, *TILE_MARKS])
    special = {"bos_token_id": ids[PAD], "eos_token_id": ids[END], "pad_token_id": ids[PAD]}
    vision = {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": IMAGE_EDGE,
        "patch_size": PATCH,
    }
    config = Idefics3Config(
        image_token_id=ids[IMAGE],
        scale_factor=SHUFFLE,
        pad_token_id=ids[PAD],
        text_config=LlamaConfig(**TEXT, **special),
        vision_config=vision,
    )
    write_config(folder, config, "Idefics3ForConditionalGeneration")
    images = {
        "image_processor_type": "Idefics3ImageProcessor",
        "processor_class": "Idefics3Processor",
        "do_convert_rgb": True,
        "do_image_splitting": False,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "max_image_size": {"longest_edge": IMAGE_EDGE},
        "resample": 1,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": 4 * IMAGE_EDGE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(images, indent=1))
    processor = {"processor_class": "Idefics3Processor", "image_seq_len": IMAGE_TOKENS}
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=1))


def main(target: Path) -> None:
    """Make each model beside its final place and move it there, so that a folder that exists is whole."""
    for make in (tinyqwen, tinysmolvlm):
        final, part = target / make.__name__, target / f"{make.__name__}.{os.getpid()}"
        if final.exists():
            continue
        part.mkdir(parents=True)
        make(part)
        try:
            part.rename(final)
        except OSError:  # another run was quicker
            shutil.rmtree(part)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
