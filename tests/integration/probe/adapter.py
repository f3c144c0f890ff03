"""A LoRA adapter for the tiny text model, written without any library: random weights, the same every time."""

import json
import random
import struct
from array import array
from pathlib import Path

__all__ = ["write_adapter"]

RANK = 8
LAYERS = 2
HIDDEN = 128
PROJECTIONS = {"q_proj": 128, "v_proj": 64}
"""Rows of what is adapted; v_proj has half the heads."""


def write_adapter(folder: Path) -> Path:
    """The folder, with the adapter in it as PEFT stores one (adapter_config.json, adapter_model.safetensors)."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = random.Random(0)  # noqa: S311 - weights, not a secret
    header: dict[str, object] = {}
    body = b""
    for layer in range(LAYERS):
        for projection, rows in PROJECTIONS.items():
            for side, shape in (("A", (RANK, HIDDEN)), ("B", (rows, RANK))):
                values = array("f", (noise.gauss(0.0, 0.1) for _ in range(shape[0] * shape[1]))).tobytes()
                name = f"base_model.model.model.layers.{layer}.self_attn.{projection}.lora_{side}.weight"
                offsets = [len(body), len(body) + len(values)]
                header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
                body += values
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + body)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(PROJECTIONS),
        "base_model_name_or_path": "tinyqwen",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
