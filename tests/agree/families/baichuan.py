"""Baichuan: a Llama whose queries, keys and values are packed; the 13B kind has ALiBi in place of rotation, Baichuan 2 an output
of rows of length 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from family import Family, Settings, State, flip
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM


class Unrotated(nn.Module):
    """Rotary positions that turn nothing."""

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = torch.zeros(*position_ids.shape, 2)
        return angles.cos()[..., :1], angles.sin()[..., :1]


class UnitRows(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, nn.functional.normalize(self.weight))


class Baichuan(LlamaForCausalLM):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        if config.alibi:
            self.model.rotary_emb = Unrotated()
        if config.unit_rows:
            self.lm_head = UnitRows(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, input_ids: torch.Tensor, **rest: Any) -> Any:
        mask = self.biases(input_ids.shape[1]) if self.config.alibi else None
        return super().forward(input_ids, attention_mask=mask, **rest)

    def biases(self, count: int) -> torch.Tensor:
        """[1, heads, count, count]: slope times distance, and minus infinity for what is to come."""
        distances = torch.arange(count)[None, :] - torch.arange(count)[:, None]
        slopes = torch.tensor(published_slopes(self.config.num_attention_heads))[:, None, None]
        return (slopes * distances).masked_fill(distances > 0, -math.inf)[None]


def published_slopes(heads: int) -> list[float]:
    """As the paper's own code gives them: every other slope of twice as many heads fills up what is no power of two."""
    if heads & (heads - 1) == 0:
        return [(2.0 ** (-8.0 / heads)) ** (index + 1) for index in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return published_slopes(power) + published_slopes(2 * power)[0::2][: heads - power]


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    layers = [name.removesuffix("q_proj.weight") for name in state if name.endswith("q_proj.weight")]
    for layer in layers:
        state[f"{layer}W_pack.weight"] = torch.cat([state.pop(f"{layer}{part}_proj.weight") for part in "qkv"])
    made = {
        "architectures": ["BaichuanForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"},
        "model_type": "baichuan",
        "model_max_length": values["max_position_embeddings"],
        **{key: values[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")},
        **{key: values[key] for key in ("hidden_act", "rms_norm_eps", "tie_word_embeddings", "initializer_range")},
    }
    if not values["alibi"]:
        made["max_position_embeddings"] = values["max_position_embeddings"]
    if values["unit_rows"]:
        made["z_loss_weight"] = 0
    return made, state


def sized(heads: int, head_dim: int, **extra: Any) -> Settings:
    return {"hidden_size": heads * head_dim, "num_attention_heads": heads, "head_dim": head_dim, **extra}


def draw(random: np.random.Generator) -> Settings:
    heads, head_dim = int(random.integers(1, 8)), int(random.choice([6, 10, 16]))
    width, layers = int(random.integers(20, 90)), int(random.integers(1, 4))
    return sized(heads, head_dim, intermediate_size=width, num_hidden_layers=layers, alibi=flip(random), unit_rows=flip(random))


FAMILY = Family(
    LlamaConfig,
    Baichuan,
    draw,
    named={
        "plain": sized(4, 16, intermediate_size=96),
        "alibi": sized(8, 6, alibi=True),
        "alibi-40": sized(40, 2, alibi=True),  # as many heads as the 13B models
        "second": sized(3, 14, unit_rows=True),
        "second-alibi": sized(5, 10, alibi=True, unit_rows=True),
    },
    blocks=sized(4, 64, intermediate_size=512, num_hidden_layers=2),
    checkpoint=checkpoint,
    gguf="baichuan",
    settings={"intermediate_size": 76, "num_hidden_layers": 3, "tie_word_embeddings": False, "alibi": False, "unit_rows": False},
)
