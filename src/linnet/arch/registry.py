"""Which family a checkpoint belongs to. A family's module is imported when a model of it is opened."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from linnet.arch.check import check
from linnet.arch.config import Config
from linnet.arch.spec import ModelSpec
from linnet.arch.table import Table
from linnet.errors import UnsupportedModelError

# Names (config.json's model_type, GGUF's general.architecture) -> module of this package with
# `build(config) -> (spec, table)` and `table(spec) -> table`.
HF_FAMILIES = {
    "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon",
    "arcee": "arcee",
    "baichuan": "baichuan",
    "bloom": "bloom",
    "chatglm": "chatglm",
    "codegen": "codegen",
    "cohere": "cohere",
    "cohere2": "cohere2",
    "deepseek": "deepseek",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v3": "deepseek_v3",
    "dots1": "dots1",
    "ernie4_5": "ernie4_5",
    "ernie4_5_moe": "ernie4_5_moe",
    "exaone": "exaone",
    "exaone4": "exaone4",
    "falcon": "falcon",
    "flex_olmo": "olmoe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "gemma4": "gemma4",
    "gemma4_text": "gemma4",
    "gemma4_unified": "gemma4",
    "gemma4_unified_text": "gemma4",
    "glm": "glm4",
    "glm4": "glm4",
    "glm4_moe": "glm4_moe",
    "glm4_moe_lite": "deepseek_v3",
    "gpt2": "gpt2",
    "gpt_bigcode": "gpt_bigcode",
    "gpt_neo": "gpt_neo",
    "gpt_neox": "gpt_neox",
    "gpt_oss": "gpt_oss",
    "gptj": "gptj",
    "granite": "granite",
    "granitemoe": "granitemoe",
    "granitemoeshared": "granitemoe",
    "helium": "helium",
    "hunyuan_v1_dense": "hunyuan_v1_dense",
    "hunyuan_v1_moe": "hunyuan_v1_moe",
    "internlm2": "internlm2",
    "kimi_k2": "deepseek_v3",
    "lfm2": "lfm2",
    "llama": "llama",
    "minimax_m2": "minimax_m2",
    "ministral": "mistral",
    "ministral3": "mistral",
    "mistral": "mistral",
    "mistral3": "mistral",
    "mixtral": "mixtral",
    "moss": "codegen",
    "mpt": "mpt",
    "nanochat": "nanochat",
    "nemotron": "nemotron",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "olmoe": "olmoe",
    "opt": "opt",
    "phi": "phi",
    "phi3": "phi3",
    "qwen": "qwen",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3_5": "qwen3_5",
    "qwen3_5_moe": "qwen3_5",
    "qwen3_5_moe_text": "qwen3_5",
    "qwen3_5_text": "qwen3_5",
    "qwen3_moe": "qwen3_moe",
    "seed_oss": "seed_oss",
    "qwen3_next": "qwen3_next",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}
GGUF_FAMILIES = {
    "arcee": "arcee",
    "baichuan": "baichuan",
    "bloom": "bloom",
    "chatglm": "chatglm2",
    "cohere2": "cohere2",
    "command-r": "cohere",
    "deepseek": "deepseek",
    "deepseek2": "deepseek_v2",
    "dots1": "dots1",
    "ernie4_5": "ernie4_5",
    "ernie4_5-moe": "ernie4_5_moe",
    "exaone": "exaone",
    "exaone4": "exaone4",
    "falcon": "falcon",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma4": "gemma4",
    "glm4": "glm4",
    "glm4moe": "glm4_moe",
    "gpt-oss": "gpt_oss",
    "gpt2": "gpt2",
    "gptneox": "gpt_neox",
    "granite": "granite",
    "granitemoe": "granitemoe",
    "hunyuan-dense": "hunyuan_v1_dense",
    "hunyuan-moe": "hunyuan_v1_moe",
    "internlm2": "internlm2",
    "llama": "llama",
    "minimax-m2": "minimax_m2",
    "mistral3": "mistral",
    "mpt": "mpt",
    "nemotron": "nemotron",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "phi2": "phi",
    "phi3": "phi3",
    "qwen": "qwen",
    "qwen2": "qwen2",
    "qwen2moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "seed_oss": "seed_oss",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder": "gpt_bigcode",
    "starcoder2": "starcoder2",
}
_WRITTEN_AS = {
    "deepseek_v3": ("deepseek2",),
    "glm4": ("glm4", "chatglm"),
    "ministral": ("llama",),
    "ministral3": ("mistral3",),
    "mistral": ("llama",),
    "mixtral": ("llama",),
    "nanogpt": ("gpt2",),
}
"""Architectures of GGUF that hold models of a family, where they are not read by the family's own module alone."""

TORCH_FAMILIES = {
    "from_scratch": "from_scratch",
    "nanochat_torch": "nanochat_torch",
    "nanogpt": "nanogpt",
}
"""What `load/torch_checkpoint.py` calls the architectures of plain PyTorch checkpoints."""


def build(config: Config) -> tuple[ModelSpec, Table]:
    """The spec and the table of weights of a configuration.

    Raises UnsupportedModelError for a family that is not here or a key that is not understood, and ModelFileError for
    values that are missing, malformed or contradict each other.
    """
    families = {"hf": HF_FAMILIES, "gguf": GGUF_FAMILIES, "torch": TORCH_FAMILIES}[config.format]
    name = config.text("model_type")
    if name not in families:
        others = "; backend='transformers' (--backend transformers) may run it" if config.format == "hf" else ""
        there = ", ".join(sorted(families))
        raise UnsupportedModelError(f"{config.where}: the architecture {name!r} is not built{others}; there are {there}")
    spec, table = _module(families[name]).build(config)
    config.finish()
    check(spec, config.where)
    return spec, table


def table_of(spec: ModelSpec) -> Table:
    """The table for a spec that somebody made; biases are whichever the checkpoint has."""
    families = HF_FAMILIES | TORCH_FAMILIES
    if spec.family not in families:
        known = ", ".join(sorted(families))
        raise UnsupportedModelError(f"spec.family is {spec.family!r}; there are {known}; another needs a table of its own")
    table: Table = _module(families[spec.family]).table(spec)
    return table


def gguf_architectures(family: str) -> tuple[str, ...]:
    """The architectures of GGUF that may hold models of a family (`ModelSpec.family`), likeliest first; none where GGUF has no name
    for it. Whether a model fits one, its metadata must show."""
    if family in _WRITTEN_AS:
        return _WRITTEN_AS[family]
    module = (HF_FAMILIES | TORCH_FAMILIES).get(family)
    return tuple(name for name, reader in GGUF_FAMILIES.items() if reader == module or name == family)


def _module(name: str) -> Any:
    return import_module(f"linnet.arch.{name}")
