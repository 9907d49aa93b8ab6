"""Tiny random models of every family that GGUF has a name for: the named draws of tests/agree/families, in sizes that llama.cpp
takes, and a few that matter only here. What GGUF cannot say and what llama.cpp does not run is listed, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import comparison  # noqa: F401  # lets the next ones be found
import numpy as np
from families.llama import GQA as LLAMA_GQA
from families.phi import GQA as PHI_GQA
from families.phi3 import longrope
from family import Settings, scaled
from gguf_export import export

from linnet.load.checkpoint import open_checkpoint
from models import FAMILIES, Draw, save

WITH_GELU = {"bloom", "falcon", "gemma", "gemma2", "gemma3", "gemma4", "gpt2", "gptneox", "mpt", "phi2", "starcoder", "starcoder2"}


@dataclass(frozen=True)
class FamilyCase:
    """A model, its architecture in GGUF, and which of several names of a tensor are taken (see `export`)."""

    draw: Draw
    architecture: str
    preferred: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.draw)

    def write(self, folder: Path, type_name: str = "f32") -> Path:
        """The model's GGUF file. Raises NotInGgufError for one that GGUF cannot say."""
        save(self.draw.model(), folder / "hf", self.draw.family)
        checkpoint = open_checkpoint(folder / "hf")
        return export(checkpoint, folder / "model.gguf", self.architecture, type_name, self.preferred)

    @property
    def allowed(self) -> float:
        """Largest difference of a logit, as a share of the largest. llama.cpp's GELU looks its argument up in float16, which dozens
        of layers amplify, and Gemma 4 has it twice in a layer."""
        if self.architecture not in WITH_GELU:
            return 1e-4
        usual = 3e-3 if self.architecture == "gemma4" else 1e-3
        return 0.02 if self.draw.settings.get("num_hidden_layers", 0) > 40 else usual


# ---- what llama.cpp wants of a family's draws
def _square(settings: Settings) -> Settings:
    """The hidden size is that of all heads together."""
    return {"hidden_size": settings["num_attention_heads"] * settings["head_dim"]} if "head_dim" in settings else {}


def _scale_of_head(settings: Settings) -> Settings:
    """Scores are divided by the root of a head's width, as in every Gemma but the largest."""
    return {"query_pre_attn_scalar": settings["head_dim"]}


def _narrow_queries(settings: Settings) -> Settings:
    """Only the "lite" model, which llama.cpp knows by its 27 layers, projects queries at once."""
    return {"q_lora_rank": settings["q_lora_rank"] or 21}


ADJUSTED = {
    "chatglm2": _square,
    "cohere": _square,
    "deepseek": _square,
    "deepseek_v2": _narrow_queries,
    "deepseek_v3": _narrow_queries,
    "exaone4": _square,
    "gemma2": _scale_of_head,
    "gemma3": _scale_of_head,
    "nemotron": _square,
    "olmo2": _square,
    "qwen2": _square,
    "qwen2_moe": _square,
}

# ---- models that only matter here: sizes by which llama.cpp knows a model, and other names of tensors
SMALL: Settings = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12}
ADDED: dict[str, dict[str, Settings]] = {
    "baichuan": {
        "7b": {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 8, "num_hidden_layers": 32},
        "13b": {"hidden_size": 40, "num_attention_heads": 5, "head_dim": 8, "num_hidden_layers": 40, "alibi": True},
        "second-7b": {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 8, "num_hidden_layers": 32, "unit_rows": True},
    },
    "exaone4": {
        "32b": {**SMALL, "num_hidden_layers": 64, "head_dim": 8, "sliding_window": 7},
        "1.2b": {**LLAMA_GQA, **scaled("llama3"), "hidden_size": 84, "sliding_window": None, "layer_types": ["full_attention"] * 3},
    },
    "cohere": {"plus": {**SMALL, "use_qk_norm": True, "num_hidden_layers": 64, "head_dim": 8}},
    "deepseek_v2": {
        "lite": {"num_hidden_layers": 27, "q_lora_rank": None},
        "compressed-pages": FAMILIES["deepseek_v2"].named["narrow-queries"],
        "compressed-pages-yarn": {**FAMILIES["deepseek_v2"].named["yarn-mscale"], "q_lora_rank": 21},
        "gate-over-up": FAMILIES["deepseek_v2"].named["narrow-queries"],
    },
    "gemma": {"gqa": {**FAMILIES["gemma"].named["gqa-untied"], "tie_word_embeddings": True}},
    "falcon": {"many-keys": {"multi_query": False}},
    "glm4": {"june-2024": {**FAMILIES["glm4"].named["plain"], "post_norms": False}, "apart": FAMILIES["glm4"].named["plain"]},
    "llama": {"yarn-attention-factor": {**LLAMA_GQA, "rope_parameters": {**scaled("yarn")["rope_parameters"], "attention_factor": 0.8}}},
    "mpt": {"slopes": {"attn_config": {"alibi_bias_max": 4}}, "twelve-heads-slopes": {"n_heads": 12, "attn_config": {"alibi_bias_max": 4}}},
    "mixtral": {"experts-apart": FAMILIES["mixtral"].named["plain"]},
    "olmo2": {"mqa": {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 1}},
    "stablelm": {"mqa": {**FAMILIES["stablelm"].named["mqa-norm"], "tie_word_embeddings": False}},
    "gemma2": {"27b": {**SMALL, "num_hidden_layers": 46, "query_pre_attn_scalar": 8, "sliding_window": 7}},
    "gemma3": {"27b": {**SMALL, "num_hidden_layers": 62, "query_pre_attn_scalar": 8, "sliding_window": 7}},
    "chatglm2": {"apart": FAMILIES["chatglm2"].named["plain"]},
    "phi": {"in-one": FAMILIES["phi"].named["plain"]},
    "phi3": {"within": {**PHI_GQA, **longrope(np.random.default_rng(4), 6, 300)}},
}
PREFERRED = {
    "chatglm2-apart": ("attn_q.", "attn_k.", "attn_v."),
    "deepseek_v2-compressed-pages": ("attn_k_b", "attn_v_b"),
    "deepseek_v2-gate-over-up": ("ffn_gate_up_exps",),
    "deepseek_v2-compressed-pages-yarn": ("attn_k_b", "attn_v_b"),
    "glm4-apart": ("attn_q.", "attn_k.", "attn_v."),
    "mixtral-experts-apart": ("ffn_gate.", "ffn_up.", "ffn_down."),
    "phi-in-one": ("attn_qkv",),
}
OTHER_ARCHITECTURES = {
    "glm4-june-2024": "chatglm",
    "mistral-inside": "mistral3",
    "mistral-temperature": "mistral3",
    "mistral-temperature-inside-tied": "mistral3",
}


def _adjusted(family: str, settings: Settings) -> Settings:
    adjust = ADJUSTED.get(family)
    return settings | adjust(FAMILIES[family].settings | settings) if adjust else settings


def _all_cases() -> Iterator[FamilyCase]:
    for family, made in FAMILIES.items():
        if made.gguf is None:
            continue
        draws = {name: _adjusted(family, settings) for name, settings in made.named.items()}
        for name, settings in {**draws, **ADDED.get(family, {})}.items():
            draw = Draw(family, name, settings)
            yield FamilyCase(draw, OTHER_ARCHITECTURES.get(str(draw), made.gguf), PREFERRED.get(str(draw), ()))


CASES = {str(case): case for case in _all_cases()}
BLOCKS = {
    family: FamilyCase(Draw(family, "blocks", _adjusted(family, made.blocks)), made.gguf)
    for family, made in FAMILIES.items()
    if made.gguf is not None
}
"""Models whose every matrix has columns that are a multiple of 256."""


# ---- what is left out, by what leaves it out
NO_BIAS = "the architecture has no such biases"
NO_DYNAMIC = "there is no dynamic scaling"
NO_WINDOW = "the architecture has no window"
ALWAYS_SAME = "the architecture's experts are always weighed the same way"
SIZE = "the number of layers tells whether heads rotate"
NOT_IN_GGUF = {
    "baichuan-alibi": SIZE,
    "baichuan-alibi-40": SIZE,
    "baichuan-second-alibi": SIZE,
    "bloom-residual-after-norm": "the architecture adds to what went in",
    "chatglm2-normed-residuals": "the architecture adds to what went in",
    "deepseek_v2-yarn-two-mscales": "there is one word for both",
    "dots1-upper-window": NO_WINDOW,
    "dots1-windows-by-type": NO_WINDOW,
    "ernie4_5_moe-not-the-last": "experts are there to the last layer",
    "falcon-alibi": "the architecture rotates",
    "falcon-one-key-sequential": "the architecture's blocks lie side by side",
    "gemma2-layer-types": "every second layer has a window",
    "gemma2-no-caps": "no cap means the usual one",
    "gemma4-uncapped-untied": "no cap means the usual one",
    "glm4-dynamic": NO_DYNAMIC,
    "glm4-no-post-norms": "the architecture has them (without them it is called chatglm)",
    "gpt2-scaled-by-layer": "scores are scaled alike in all layers",
    "gpt2-unscaled": "scores are scaled, and the activation is GELU",
    "gpt_bigcode-unscaled": "scores are scaled, and the activation is GELU",
    "gpt_neox-dynamic": NO_DYNAMIC,
    "gpt_neox-no-biases-tied": "the activation is another GELU",
    "gpt_oss-windows-by-type": "every second layer has a window",
    "hunyuan_v1_dense-dynamic": NO_DYNAMIC,
    "internlm2-dynamic": NO_DYNAMIC,
    "internlm2-mqa-biases": NO_BIAS,
    "llama-dynamic": NO_DYNAMIC,
    "mistral-listed": "every layer has a window, or none",
    "mpt-scale": "scores are scaled by the width of a head",
    "olmoe-flex": "the architecture has its norms before its blocks",
    "olmoe-gqa-normalised": ALWAYS_SAME,
    "phi-gqa-norms": "the architecture has no norms of queries and keys",
    "phi-tied-relu": "the activation is GELU",
    "qwen-biases": NO_BIAS,
    "qwen2-upper-window": NO_WINDOW,
    "qwen2_moe-dense-layers": "every layer has experts",
    "qwen2_moe-every-second-layer": "every layer has experts",
    "qwen2_moe-normalised": ALWAYS_SAME,
    "qwen2_moe-window": NO_WINDOW,
    "qwen3-upper-window": NO_WINDOW,
    "qwen3_moe-dense-layers": "every layer has experts",
    "qwen3_moe-not-normalised": ALWAYS_SAME,
    "qwen3_moe-window": NO_WINDOW,
    "smollm3-interval": "every fourth layer has no positions",
    "smollm3-listed": "every fourth layer has no positions",
    "smollm3-window": NO_WINDOW,
}
UNTIED = "it wants an output of its own"
NOT_IN_LLAMA_CPP = {
    "arcee-biases": NO_BIAS,
    "chatglm2-biases": NO_BIAS,
    "cohere-mqa-query-key-norms": "only 64 layers and more have norms of queries and keys",
    "cohere-query-key-norms": "only 64 layers and more have norms of queries and keys",
    "cohere-untied-biases": NO_BIAS,
    "cohere2-untied-biases": NO_BIAS,
    "deepseek-biases": NO_BIAS,
    "deepseek-none-shared": "it wants the block that every token passes",
    "deepseek_v2-biases": NO_BIAS,
    "deepseek_v3-not-normalised-biases": NO_BIAS,
    "dots1-groups-biases": NO_BIAS,
    "ernie4_5-biases": NO_BIAS,
    "ernie4_5_moe-every-second-tied": "it wants experts in every layer past the first that has them",
    "hunyuan_v1_moe-biases": NO_BIAS,
    "falcon-many-keys-parallel": NO_BIAS,
    "gemma-biases": NO_BIAS,
    "gemma-gqa-untied": "it has no output of its own",
    "gemma2-biases": NO_BIAS,
    "gemma3-biases": NO_BIAS,
    "gemma4-biases": NO_BIAS,
    "glm4-llama3": "it takes no factors of frequencies",
    "gpt_oss-no-biases": "it wants the biases",
    "gpt_oss-tied": UNTIED,
    "hunyuan_v1_dense-biases": NO_BIAS,
    "internlm2-tied": UNTIED,
    "minimax_m2-tied-yarn": UNTIED,
    "mixtral-experts-apart": "it takes no experts with a tensor each any more",
    "nemotron-mqa-tied": UNTIED,
    "olmo2-biases": NO_BIAS,
    "olmo2-mqa-tied": UNTIED,
    "olmoe-tied-biases": UNTIED,
    "qwen-tied": UNTIED,
    "qwen3-biases": NO_BIAS,
    "qwen3_moe-biases": NO_BIAS,
    "seed_oss-all-biases": NO_BIAS,
    "smollm3-biases-yarn": NO_BIAS,
    "stablelm-mqa-norm": UNTIED,
    "starcoder2-mqa-no-biases-untied": "it wants the biases",
}
SHORT = "it knows 32 layers, which rotate, and 40, which have ALiBi; fewer get no positions"
WINDOW = "it does not look at the window of this architecture"
OTHERWISE_IN_LLAMA_CPP = {
    "baichuan-plain": SHORT,
    "baichuan-second": SHORT,
    "deepseek-normalised": "it does not look at expert_weights_norm",
    "deepseek_v2-groups": "it ranks groups by the sum of their two best scores, as V3 does, where V2 takes the best",
    "deepseek_v2-yarn": "without yarn_log_multiplier it sharpens the scores as well, which no published model asks for",
    "exaone4-listed-llama3": "only a model of 64 layers has windows",
    "exaone4-window": "only a model of 64 layers has windows",
    "llama-yarn-own-factor": "it does not look at yarn_beta_fast and yarn_beta_slow",
    "mistral-window": WINDOW,
    "mixtral-window": WINDOW,
    "olmo2-third-listed": "it has one rotary base for all layers",
    "phi3-short": "its whole context, not the request, chooses the long factors",
    "phi3-window": WINDOW,
    "starcoder2-window": WINDOW,
}
"""What llama.cpp runs and computes otherwise than transformers does."""

LEFT_OUT = {**NOT_IN_GGUF, **NOT_IN_LLAMA_CPP, **OTHERWISE_IN_LLAMA_CPP}
COMPARED = {name: case for name, case in CASES.items() if name not in LEFT_OUT}
