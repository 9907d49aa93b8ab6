"""DeepSeekMoE: transformers does not have it, so its Llama is given DeepSeek's mixtures, as their paper defines them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from families.llama import FAMILY as LLAMA
from families.llama import GQA, drawn_sizes
from families.mixtral import drawn_experts
from family import Settings, State, drawn_rope, flip, scaled
from transformers import LlamaForCausalLM


class Block(torch.nn.Module):
    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (torch.nn.Linear(hidden, width, bias=False) for _ in range(2))
        self.down_proj = torch.nn.Linear(width, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Mixture(torch.nn.Module):
    """Dai et al. 2024, equations 9 to 11: shared experts, plus routed ones weighed by their softmax over all."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        hidden, width, shared = config.hidden_size, config.moe_intermediate_size, config.n_shared_experts
        self.config = config
        self.gate = torch.nn.Linear(hidden, config.n_routed_experts, bias=False)
        self.experts = torch.nn.ModuleList(Block(hidden, width) for _ in range(config.n_routed_experts))
        self.shared_experts = Block(hidden, shared * width) if shared else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.gate(x).softmax(dim=-1)
        chosen = torch.zeros_like(scores).scatter(-1, scores.topk(self.config.num_experts_per_tok).indices, 1.0)
        weights = scores * chosen
        if self.config.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        out = sum(weights[..., index, None] * expert(x) for index, expert in enumerate(self.experts))
        return out if self.shared_experts is None else out + self.shared_experts(x)


def model(config: Any) -> LlamaForCausalLM:
    made = LlamaForCausalLM(config)
    for index, layer in enumerate(made.model.layers):
        if index >= config.first_k_dense_replace and index % config.moe_layer_freq == 0:
            layer.mlp = Mixture(config)
    return made


def checkpoint(values: Settings, state: State) -> tuple[Settings, State]:
    training = {"aux_loss_alpha": 0.001, "seq_aux": True, "scoring_func": "softmax"}
    return {**values, **training, "model_type": "deepseek"}, state


def draw(random: np.random.Generator) -> Settings:
    return {
        **drawn_sizes(random),
        **drawn_rope(random),
        **drawn_experts(random, "n_routed_experts"),
        "moe_intermediate_size": int(random.integers(8, 60)),
        "n_shared_experts": int(random.integers(0, 4)),
        "first_k_dense_replace": int(random.integers(0, 3)),
        "moe_layer_freq": int(random.integers(1, 3)),
        "norm_topk_prob": flip(random),
        "attention_bias": flip(random),
    }


FAMILY = replace(
    LLAMA,
    model=model,
    draw=draw,
    named={
        "plain": {**LLAMA.named["plain"], "moe_intermediate_size": 32},
        "gqa": GQA,
        "normalised": {**GQA, "norm_topk_prob": True},
        "all-sparse": {**GQA, "first_k_dense_replace": 0},
        "every-second-layer": {**GQA, "moe_layer_freq": 2},
        "none-shared": {**GQA, "n_shared_experts": None},
        "biases": {**GQA, "attention_bias": True},
        "linear": {**GQA, **scaled("linear")},
    },
    blocks={**LLAMA.blocks, "moe_intermediate_size": 256},
    checkpoint=checkpoint,
    gguf="deepseek",
    settings={
        **LLAMA.settings,
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "n_shared_experts": 2,
        "moe_intermediate_size": 28,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "norm_topk_prob": False,
    },
)
