"""Configurations of models whose layers are recurrent in part: what they say in two ways, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from linnet.arch.config import Config
from linnet.arch.registry import build
from linnet.arch.spec import Attention, ModelSpec
from linnet.errors import ModelFileError, UnsupportedModelError

SIZES = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "max_position_embeddings": 256}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def spec_of(family: str, **values: Any) -> ModelSpec:
    return build(Config({"model_type": family, **SIZES, **HEADS, **values}, "config.json"))[0]


def test_which_layers_of_lfm2_attend() -> None:
    spec = spec_of("lfm2", full_attn_idxs=[1, 3], theta=5e5)
    assert [isinstance(layer.mixer, Attention) for layer in spec.layers] == [False, True, False, True]
    assert {rope.theta for attention in spec.attentions for rope in attention.ropes} == {5e5}
    kinds = ["conv", "full_attention", "conv", "full_attention"]
    assert spec_of("lfm2", layer_types=kinds, rope_theta=5e5) == spec


@pytest.mark.parametrize("numbers", [[1, 4], [-1], ["1"], [True]])
def test_numbers_of_layers_that_are_not_there(numbers: list[Any]) -> None:
    with pytest.raises(ModelFileError, match=r"full_attn_idxs.*numbers of layers, from 0 to 3"):
        spec_of("lfm2", full_attn_idxs=numbers)


def test_every_fourth_layer_of_qwen_attends() -> None:
    spec = spec_of("qwen3_5_text", attn_output_gate=True)
    assert [isinstance(layer.mixer, Attention) for layer in spec.layers] == [False, False, False, True]
    assert all(attention.gated for attention in spec.attentions)


def test_attention_without_a_gate_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="attn_output_gate is false"):
        spec_of("qwen3_5_text", attn_output_gate=False)


@pytest.mark.parametrize("values", [{"linear_num_value_heads": 24}, {"linear_conv_kernel_dim": 1}, {"layer_types": ["conv"] * 4}])
def test_what_no_hybrid_can_be(values: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError):
        spec_of("qwen3_5_text", **values)
