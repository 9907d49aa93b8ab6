"""Gemma 4 as it is published: every tensor that transformers has of each size, and no other, in its shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

from linnet.arch.config import Config
from linnet.arch.registry import build
from linnet.engine.page_plan import page_bytes
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.assemble import wanted

NEAR, FAR = "sliding_attention", "full_attention"
SMALL: dict[str, Any] = {"vocab_size": 262_144, "num_attention_heads": 8, "head_dim": 256, "global_head_dim": 512}
LARGE: dict[str, Any] = {**SMALL, "hidden_size_per_layer_input": 0, "sliding_window": 1024, "attention_k_eq_v": True}
E2B = {
    **SMALL,
    "hidden_size": 1536,
    "intermediate_size": 6144,
    "num_hidden_layers": 35,
    "num_key_value_heads": 1,
    "num_kv_shared_layers": 20,
    "use_double_wide_mlp": True,
    "layer_types": [*[NEAR] * 4, FAR] * 7,
}
E4B = {
    **SMALL,
    "hidden_size": 2560,
    "intermediate_size": 10_240,
    "num_hidden_layers": 42,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 18,
}
A31B = {
    **LARGE,
    "hidden_size": 5376,
    "intermediate_size": 21_504,
    "num_hidden_layers": 60,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "num_global_key_value_heads": 4,
}
A26B = {
    **LARGE,
    "hidden_size": 2816,
    "intermediate_size": 2112,
    "num_hidden_layers": 30,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_global_key_value_heads": 2,
    "enable_moe_block": True,
    "num_experts": 128,
    "top_k_experts": 8,
    "moe_intermediate_size": 704,
}


@pytest.mark.parametrize("values", [E2B, E4B, A31B, A26B], ids=["E2B", "E4B", "31B", "26B-A4B"])
def test_tensors_are_those_of_transformers(values: dict[str, Any]) -> None:
    spec, table = build(Config({"model_type": "gemma4_text", **values}, "config.json"))
    with torch.device("meta"):
        state = Gemma4ForCausalLM(Gemma4TextConfig(**values)).state_dict()
    ours = {name: slot.shape for _, slot in wanted(spec, table, "hf", state) for name in slot.names}
    assert ours == {name: tuple(tensor.shape) for name, tensor in state.items() if name != "lm_head.weight"}


def test_pages_of_the_small_model_are_those_of_its_own_15_layers() -> None:
    spec, _ = build(Config({"model_type": "gemma4_text", **E2B}, "config.json"))
    assert spec.kv_layers == tuple(range(15))
    assert {layer.attention.kv_layer for layer in spec.layers[15:]} == {13, 14}
    assert page_bytes(spec, "f16") == 32 * 2 * 2 * (12 * 256 + 3 * 512)  # positions, bytes, keys and values


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"use_bidirectional_attention": "all"}, UnsupportedModelError, "use_bidirectional_attention is 'all'"),
        ({"vocab_size_per_layer_input": 7}, ModelFileError, "vocab_size_per_layer_input is '7'; as many as vocab_size"),
        ({"num_kv_shared_layers": 35}, ModelFileError, "num_kv_shared_layers is '35'"),
        ({"num_kv_shared_layers": 32}, ModelFileError, "so few that layer 4 has one of its kind"),
        ({"altup_num_inputs": 4}, UnsupportedModelError, "altup_num_inputs = 4"),
        ({"per_layer_config": {"0": {"head_dim": 64}}}, ModelFileError, "a head_dim of 256, as in others of its kind, in layer 0"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(change: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        build(Config({"model_type": "gemma4_text", **E2B, **change}, "config.json"))
