"""GLM 4.5: norms of queries and keys or none, biases or none, any share of heads rotated, experts in groups or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from families.deepseek_v3 import GROUPS, checkpoint, with_corrections
from families.glm4 import GQA, rotating
from families.llama import FAMILY as LLAMA
from families.llama import drawn_sizes
from family import Settings, drawn_rope, flip, scaled
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM, PreTrainedModel

MIXTURE: Settings = {
    "n_routed_experts": 5,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 28,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
}
PLAIN: Settings = {**LLAMA.named["plain"], "moe_intermediate_size": 32}


def make_model(config: Any) -> PreTrainedModel:
    return with_corrections(Glm4MoeForCausalLM(config))


def drawn_mixture(random: np.random.Generator) -> Settings:
    """Experts chosen as in DeepSeek V3."""
    groups = int(random.integers(1, 4))
    return {
        "n_routed_experts": 3 * groups,
        "n_group": groups,
        "topk_group": int(random.integers(1, groups + 1)),
        "num_experts_per_tok": int(random.integers(1, 4)),
        "n_shared_experts": int(random.integers(1, 3)),
        "first_k_dense_replace": int(random.integers(0, 3)),
        "moe_intermediate_size": int(random.integers(8, 60)),
        "norm_topk_prob": flip(random),
    }


def draw(random: np.random.Generator) -> Settings:
    own = {"use_qk_norm": flip(random), "attention_bias": flip(random)}
    sizes = {**drawn_sizes(random), "head_dim": int(random.choice([8, 12, 16]))}
    return {**sizes, **drawn_mixture(random), **own, **rotating(float(random.choice([0.5, 1.0])), drawn_rope(random))}


FAMILY = replace(
    LLAMA,
    config=Glm4MoeConfig,
    model=make_model,
    draw=draw,
    checkpoint=checkpoint,
    named={
        "plain": PLAIN,
        "norms-biases": {**GQA, "use_qk_norm": True, "attention_bias": True},
        "groups-whole-heads": {**GQA, **GROUPS, **rotating(1.0, {})},
        "tied-yarn": {**GQA, **rotating(0.5, scaled("yarn")), "tie_word_embeddings": True},
    },
    blocks={**LLAMA.blocks, "moe_intermediate_size": 256},
    gguf="glm4moe",
    settings={**LLAMA.settings, **MIXTURE, "num_hidden_layers": 2},
)
