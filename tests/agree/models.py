"""Tiny random models made by transformers: what every family is checked on, on every op set.

A new family adds its line to FAMILIES; test_agree.py fails for a registered family that has none.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf_files import encode
from numpy.typing import NDArray
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from linnet.tensors import TYPES

VOCABULARY = 101
CONTEXT = 160
"""Positions the models are said to be made for: more than any test here uses, but for the scaled ones."""

SHAPES: dict[str, dict[str, Any]] = {
    "gqa": {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 14},
    "mqa-tied": {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True},
    "mha": {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 18},
}
"""Head sizes that are not the width of 60 divided by the heads, so that none can be derived."""

TRAINED = 24
"""The original context of the scaled models: shorter than the prompts, so that scaling has something to do."""

SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": TRAINED},
    "yarn-own-factor": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": TRAINED,
        "attention_factor": 0.8,
        "beta_fast": 3.0,
        "beta_slow": 0.2,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": TRAINED,
    },
}


@dataclass(frozen=True)
class Family:
    """How transformers makes a model of a family; `draws` are config keys of its own, each one model more."""

    config: Callable[..., PretrainedConfig]
    model: Callable[[Any], PreTrainedModel]
    draws: dict[str, dict[str, Any]] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "llama": Family(LlamaConfig, LlamaForCausalLM, {"biases": {"attention_bias": True, "mlp_bias": True}}),
    "mistral": Family(MistralConfig, MistralForCausalLM, {"window": {"sliding_window": 5}, "no-window": {"sliding_window": None}}),
    "qwen2": Family(
        Qwen2Config, Qwen2ForCausalLM, {"upper-window": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}}
    ),
    "qwen3": Family(
        Qwen3Config,
        Qwen3ForCausalLM,
        {
            "biases": {"attention_bias": True},
            "upper-window": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
        },
    ),
}


@dataclass(frozen=True)
class Draw:
    """One tiny model. `settings` are its config keys past those that all share."""

    family: str
    name: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"

    def model(self) -> PreTrainedModel:
        """The model in float32 with eager attention, the same at each call."""
        family = FAMILIES[self.family]
        shared: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 60, "intermediate_size": 76, "num_hidden_layers": 3}
        shared |= {
            "max_position_embeddings": CONTEXT,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": None,
        }
        config = family.config(**(shared | self.settings), attn_implementation="eager")
        model = family.model(config)
        model.train(False)
        randomise(model, zlib.crc32(str(self).encode()))
        return model


def draws() -> Iterator[Draw]:
    """Every family in every shape, with every rotary scaling, and with what is its own."""
    for family, made in FAMILIES.items():
        for name, shape in SHAPES.items():
            yield Draw(family, name, shape)
        for name, scaling in SCALINGS.items():
            # Dynamic scaling measures against the model's context, the others against their own entry.
            context = TRAINED if name == "dynamic" else CONTEXT
            yield Draw(family, name, SHAPES["gqa"] | {"rope_parameters": {"rope_theta": 1e4} | scaling, "max_position_embeddings": context})
        for name, settings in made.draws.items():
            yield Draw(family, name, SHAPES["gqa"] | settings)


DRAWS = list(draws())

BLOCKS: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
}
"""A shape whose every matrix has columns for the blocks of 256 of K-quants."""


def randomise(model: PreTrainedModel, seed: int) -> None:
    """Weights that keep the size of what passes through, so that logits differ by whole units; norms around 1 and biases
    around 0, which transformers starts at exactly 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[1] ** -0.5
            parameter.copy_(("norm" in name) + scale * noise)


def save(model: PreTrainedModel, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "5GB") -> None:
    """Writes the checkpoint with its weights as `dtype`, and leaves them so rounded, as float32, in the model."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    # A copy, because `to` would round the rotary frequencies as well.
    rounded: Any = copy.deepcopy(model)
    rounded.to(dtype).save_pretrained(folder, max_shard_size=shard)


def quantize_model(model: PreTrainedModel, type_name: str, activations: bool) -> None:
    """Makes the float32 model compute what one stored as `type_name` does: each matrix becomes what the `gguf` package reads
    back from that type, and, with `activations`, each input of one is rounded as llama.cpp's kernels for that type round it.
    Types without kernels go through q8_0, as linnet's documentation says."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                values = stored_as(parameter.numpy(), type_name)
                if type_name not in TYPES:
                    values = stored_as(values, "q8_0")
                parameter.copy_(torch.from_numpy(values))
    block = TYPES[type_name].block if type_name in TYPES else 32
    if activations and block > 1:
        through = through_q8_k if block == 256 else through_q8_0
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(lambda _, inputs: (through(inputs[0].detach()),))


def stored_as(values: NDArray[np.float32], type_name: str) -> NDArray[np.float32]:
    """The values once a tensor type has held them."""
    type = gguf.GGMLQuantizationType[type_name.upper()]
    return gguf.quants.dequantize(encode(values, type_name), type).reshape(values.shape).astype(np.float32)


def through_q8_0(x: torch.Tensor) -> torch.Tensor:
    """Blocks of 32 as 8 bits and a float16 scale, by the `gguf` package."""
    stored = gguf.quants.quantize(x.reshape(-1, x.shape[-1]).numpy(), gguf.GGMLQuantizationType.Q8_0)
    return torch.from_numpy(gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.Q8_0).reshape(x.shape).copy())


def through_q8_k(x: torch.Tensor) -> torch.Tensor:
    """Blocks of 256 as 8 bits and a float32 scale by which the value of largest magnitude becomes -127 (ggml's Q8_K)."""
    blocks = x.reshape(-1, 256)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    inverse = torch.where(largest == 0, 0, -127 / largest)
    return (torch.round(blocks * inverse).clamp(max=127) / inverse).nan_to_num(0).reshape(x.shape)


def oracle(model: PreTrainedModel, tokens: list[int]) -> Any:
    """Logits of transformers, float32 array [len(tokens), vocab]."""
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()
