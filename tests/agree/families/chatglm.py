"""ChatGLM-6B, the first. transformers has no such model: the oracle is the published description in plain PyTorch, under the
checkpoint's own names."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from family import Family, Settings, State
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

PROMPT = 45
"""The oracle takes the first so many tokens for the prompt: the tests give no other prompts to it."""


class Glm6bConfig(PreTrainedConfig):
    model_type = "chatglm"


class Attention(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor, prompt: int) -> torch.Tensor:
        count, width = x.shape
        q, k, v = self.query_key_value(x).view(count, self.heads, -1).chunk(3, dim=-1)
        places = torch.arange(count)
        inside, after = places.clamp(max=prompt - 2), (places - prompt + 2).clamp(min=0)
        halves = (y.chunk(2, dim=-1) for y in (q, k))
        q, k = (torch.cat([rotated(first, inside), rotated(second, after)], dim=-1) for first, second in halves)
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(width // self.heads)
        hidden = (places[None, :] > places[:, None]) & (places[None, :] >= prompt - 1)
        mixed = torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -math.inf).softmax(dim=-1), v)
        return self.dense(mixed.reshape(count, width))


def rotated(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[tokens, heads, dim], each half of dim against the other; frequencies in half precision, as the model has them."""
    dim = x.shape[-1]
    frequencies = (1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim)).half().float()
    angles = (places[:, None] * frequencies)[:, None, :]
    one, two = x.chunk(2, dim=-1)
    return torch.cat([one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin()], dim=-1)


class FeedForward(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense_4h_to_h(nn.functional.gelu(self.dense_h_to_4h(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.alpha = math.sqrt(2 * config.num_layers)
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.attention = Attention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = FeedForward(config)

    def forward(self, x: torch.Tensor, prompt: int) -> torch.Tensor:
        h = self.input_layernorm(x)
        h = self.post_attention_layernorm(self.alpha * h + self.attention(h, prompt))
        return self.alpha * h + self.mlp(h)


class Glm6b(PreTrainedModel):
    config_class = Glm6bConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.transformer = nn.Module()
        self.transformer.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.transformer.final_layernorm = nn.LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> Any:
        (tokens,) = input_ids
        x = self.transformer.word_embeddings(tokens)
        for layer in self.transformer.layers:
            x = layer(x, min(PROMPT, len(tokens)))
        return SimpleNamespace(logits=self.lm_head(self.transformer.final_layernorm(x))[None])


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    """With what published ones hold besides: frequencies that are recomputed, and words on tokens and quantization."""
    for name in [name for name in state if name.endswith("query_key_value.weight")]:
        state[name.replace("query_key_value.weight", "rotary_emb.inv_freq")] = torch.ones(values["head_dim"] // 4).half()
    kept = "hidden_size inner_hidden_size layernorm_epsilon num_attention_heads num_layers vocab_size"
    made = {key: values[key] for key in kept.split()}
    made |= {"model_type": "chatglm", "max_sequence_length": 2048, "position_encoding_2d": True, "use_cache": True}
    made |= {"bos_token_id": 98, "eos_token_id": 99, "mask_token_id": 96, "gmask_token_id": 97, "pad_token_id": 3}
    return made | {"pre_seq_len": None, "prefix_projection": False, "quantization_bit": 0, "quantization_embeddings": False}, state


def sized(heads: int, head_dim: int, width: int, layers: int) -> Settings:
    sizes = {"hidden_size": heads * head_dim, "num_attention_heads": heads, "head_dim": head_dim}
    return {**sizes, "inner_hidden_size": width, "num_layers": layers}


def draw(random: np.random.Generator) -> Settings:
    return sized(int(random.integers(1, 6)), int(random.choice([4, 8, 12])), int(random.integers(20, 90)), int(random.integers(1, 4)))


FAMILY = Family(
    Glm6bConfig,
    Glm6b,
    draw,
    named={"plain": sized(4, 16, 96, 3), "odd": sized(3, 12, 70, 2), "one-layer": sized(5, 8, 50, 1)},
    blocks=sized(4, 64, 512, 2),
    checkpoint=checkpoint,
    settings={"layernorm_epsilon": 1e-5, "tie_word_embeddings": False},
)
