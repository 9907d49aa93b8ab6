"""Mixtures of experts: configurations as they are published, in GGUF's keys, and such as cannot be."""

from __future__ import annotations

from dataclasses import replace
from math import log, prod
from typing import Any

import pytest
from published_mixtures import DEEPSEEK_V2_LITE, GGUF, LLAMA_KEYS, PARAMETERS, PUBLISHED, SPLIT, Settings

from linnet.arch.config import Config
from linnet.arch.gguf_config import gguf_config
from linnet.arch.registry import build
from linnet.arch.spec import Layer, ModelSpec, Moe, Router
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.assemble import wanted


def built(values: Settings) -> tuple[ModelSpec, Any]:
    return build(Config(values, "config.json"))


def moe_of(spec: ModelSpec) -> Moe:
    moe = spec.layers[-1].mlp
    assert isinstance(moe, Moe)
    return moe


def turned(spec: ModelSpec) -> ModelSpec:
    """With rotary pairs as GGUF has them for architectures whose rows its converter reorders."""

    def layer(layer: Layer) -> Layer:
        ropes = tuple(replace(rope, interleaved=True) for rope in layer.attention.ropes)
        return replace(layer, mixer=replace(layer.attention, ropes=ropes))

    return replace(spec, layers=tuple(map(layer, spec.layers)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_as_many_parameters_as_their_authors_say(name: str) -> None:
    spec, table = built(PUBLISHED[name])
    sizes = {tensor: prod(slot.shape) for row, slot in wanted(spec, table, "hf") for tensor in slot.names if not row.optional}
    assert sum(sizes.values()) / 1e9 == pytest.approx(PARAMETERS[name], rel=3e-3)


def test_what_published_configurations_say_of_experts() -> None:
    mixtral, v2, oss = (built(PUBLISHED[name])[0] for name in ("mixtral-8x7b", "deepseek-v2", "gpt-oss-20b"))
    assert (moe_of(mixtral).experts, moe_of(mixtral).router) == (8, Router(2))
    assert moe_of(v2).router == Router(6, normalise=False, scale=16.0, groups=8, active_groups=3)
    assert [isinstance(layer.mlp, Moe) for layer in v2.layers] == [False] + [True] * 59
    assert v2.layers[0].attention.scale == pytest.approx(192**-0.5 * (0.0707 * log(40) + 1) ** 2)
    assert moe_of(oss).router == Router(4, "softmax_chosen", normalise=False)
    assert [layer.attention.window for layer in oss.layers] == [128, None] * 12


@pytest.mark.parametrize(("name", "architecture", "keys"), GGUF)
def test_gguf_means_the_same(name: str, architecture: str, keys: Settings) -> None:
    values = PUBLISHED[name]
    said = {**{LLAMA_KEYS[key]: values[key] for key in LLAMA_KEYS if key in values}, **keys}
    metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in said.items()}}
    shapes = {"token_embd.weight": (values["vocab_size"], values["hidden_size"]), "output.weight": ()}
    if values.get("topk_method") == "noaux_tc":
        shapes["blk.60.exp_probs_b.bias"] = (256,)
    expected = built(values)[0]
    assert build(gguf_config(metadata, "m.gguf", shapes))[0] == (turned(expected) if architecture in ("llama", "deepseek") else expected)


WRONG: list[tuple[str, Settings, type[Exception], str]] = [
    ("mixtral-8x7b", {"num_experts_per_tok": 9}, ModelFileError, "num_experts_per_tok is '9'; at most the 8 experts"),
    ("mixtral-8x7b", {"num_local_experts": 10**9}, ModelFileError, "num_local_experts is '1000000000'; an integer from 1 to 4096"),
    ("mixtral-8x7b", {"num_experts": 4}, ModelFileError, "num_local_experts is '8'; the same as num_experts"),
    ("mixtral-8x7b", {"num_local_experts": None}, ModelFileError, "num_experts is missing"),
    ("qwen1.5-moe", {"mlp_only_layers": ["0"]}, ModelFileError, r"mlp_only_layers is .*; a list of numbers of layers"),
    ("qwen1.5-moe", {"moe_intermediate_size": 0}, ModelFileError, "moe_intermediate_size is '0'"),
    ("deepseek-moe-16b", {"scoring_func": "sigmoid"}, UnsupportedModelError, "scoring_func is 'sigmoid'; only softmax runs"),
    ("deepseek-moe-16b", {"moe_layer_freq": 0}, ModelFileError, "moe_layer_freq is '0'"),
    ("deepseek-v2", {"n_group": 7}, ModelFileError, r"n_group is '7'; a divisor of the number of experts \(160\)"),
    ("deepseek-v2", {"topk_group": 9}, ModelFileError, r"topk_group is '9'; at most the number of groups \(8\)"),
    ("deepseek-v2", {"num_experts_per_tok": 61}, ModelFileError, "num_experts_per_tok is '61'; at most the 60 experts"),
    ("deepseek-v3", {"scoring_func": "softmax"}, UnsupportedModelError, "scoring_func is 'softmax'; only sigmoid runs"),
    ("deepseek-v3", {"topk_method": "greedy"}, UnsupportedModelError, "topk_method is 'greedy'; only noaux_tc runs"),
    ("deepseek-v3", {"mlp_layer_types": ["sparse"]}, ModelFileError, r"mlp_layer_types is .*; 61 times dense or sparse"),
    ("deepseek-v2", {"topk_method": "noaux_tc"}, UnsupportedModelError, "topk_method is 'noaux_tc'; known are greedy, group"),
    ("deepseek-v2", {"norm_topk_prob": True}, UnsupportedModelError, "norm_topk_prob is true; only false runs"),
    ("deepseek-v2", {"qk_rope_head_dim": 63}, ModelFileError, "qk_rope_head_dim is '63'; an even number"),
    ("deepseek-v2", {"num_key_value_heads": 64}, ModelFileError, "num_key_value_heads is '64'; as many as num_attention_heads"),
    ("deepseek-v2", {"v_head_dim": 10**6}, ModelFileError, "v_head_dim is '1000000'"),
    ("gpt-oss-20b", {"swiglu_limit": 5.0}, UnsupportedModelError, "swiglu_limit is 5; only 7 runs"),
    ("gpt-oss-20b", {"quantization_config": {"quant_method": "awq"}}, UnsupportedModelError, "quant_method is 'awq'; only mxfp4"),
    ("gpt-oss-20b", {"layer_types": ["full_attention"]}, ModelFileError, "layer_types is .*; 24 times"),
]


@pytest.mark.parametrize(("name", "changes", "error", "message"), WRONG, ids=[f"{name}-{next(iter(keys))}" for name, keys, *_ in WRONG])
def test_what_cannot_be_is_named_with_its_file(name: str, changes: Settings, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"config\.json: (quantization_config\.)?" + message):
        built({**PUBLISHED[name], **changes})


def test_another_router_in_gguf_is_refused() -> None:
    values = {"deepseek2." + key: value for key, value in SPLIT.items()}
    said = {"deepseek2." + LLAMA_KEYS[key]: DEEPSEEK_V2_LITE[key] for key in LLAMA_KEYS if key in DEEPSEEK_V2_LITE}
    metadata = {**said, **values, "general.architecture": "deepseek2", "deepseek2.expert_gating_func": 3}
    with pytest.raises(UnsupportedModelError, match=r"m\.gguf: deepseek2\.expert_gating_func is 3; only softmax runs"):
        build(gguf_config(metadata, "m.gguf", {"token_embd.weight": (102400, 2048)}))
