"""ERNIE 4.5 (Baidu 2025), its dense model: Llama's layer, rotating neighbours in either kind of file."""

from __future__ import annotations

from linnet.arch.config import Config
from linnet.arch.llama import llama_spec, table
from linnet.arch.spec import ModelSpec
from linnet.arch.table import Table

__all__ = ["build", "table"]


def build(config: Config) -> tuple[ModelSpec, Table]:
    if config.format == "gguf":
        spec = llama_spec(config, "ernie4_5", None, interleaved=True)
        return spec, table(spec)
    config.assume(rms_norm_eps=1e-5, rope_theta=500_000.0, tie_word_embeddings=True)
    for key, usual in (("num_key_value_heads", 2), ("head_dim", 128)):
        config.assume(**{key: config.optional_integer(key, usual)})
    spec, biased = llama_spec(config, "ernie4_5", None, interleaved=True), config.flag("use_bias", False)
    return spec, table(spec, biased, biased)
