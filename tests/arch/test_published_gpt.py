"""Configurations of GPT-2's kin as they are published (facts, by name): what they mean, and that a checkpoint of just the tensors that
transformers has for them is one of theirs, with or without the prefix of the part that gives logits."""

from typing import Any

import pytest
import torch
import transformers

from linnet.arch.config import Config
from linnet.arch.registry import build
from linnet.arch.spec import ModelSpec, Norm
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.assemble import plan
from linnet.load.random_weights import RandomSource
from linnet.tensors import F32

COMMON = {"initializer_range": 0.02, "torch_dtype": "float16", "use_cache": True, "bos_token_id": 0, "eos_token_id": 0}
SUMMARY = {
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
}
GPT2 = {
    **COMMON,
    **SUMMARY,
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "layer_norm_epsilon": 1e-05,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
GPT_NEO_125M = {
    **COMMON,
    **SUMMARY,
    "model_type": "gpt_neo",
    "activation_function": "gelu_new",
    "attention_dropout": 0,
    "attention_layers": ["global", "local"] * 6,
    "attention_types": [[["global", "local"], 6]],
    "embed_dropout": 0,
    "gradient_checkpointing": False,
    "hidden_size": 768,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 2048,
    "num_heads": 12,
    "num_layers": 12,
    "resid_dropout": 0,
    "vocab_size": 50257,
    "window_size": 256,
}
GPT_J_6B = {
    **COMMON,
    **SUMMARY,
    "model_type": "gptj",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "gradient_checkpointing": False,
    "layer_norm_epsilon": 1e-05,
    "n_embd": 4096,
    "n_head": 16,
    "n_inner": None,
    "n_layer": 28,
    "n_positions": 2048,
    "resid_pdrop": 0.0,
    "rotary": True,
    "rotary_dim": 64,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
    "vocab_size": 50400,
}
PYTHIA_70M = {
    **COMMON,
    "model_type": "gpt_neox",
    "hidden_act": "gelu",
    "hidden_size": 512,
    "intermediate_size": 2048,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
OPT_125M = {
    **COMMON,
    "model_type": "opt",
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "attention_dropout": 0.0,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "ffn_dim": 3072,
    "hidden_size": 768,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "prefix": "</s>",
    "vocab_size": 50272,
    "word_embed_proj_dim": 768,
}
OPT_350M = {
    **OPT_125M,
    "_remove_final_layer_norm": False,
    "do_layer_norm_before": False,
    "ffn_dim": 4096,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "word_embed_proj_dim": 512,
}
GALACTICA_125M = {
    **OPT_125M,
    "activation_function": "gelu",
    "enable_bias": False,
    "layer_norm_elementwise_affine": True,
    "learned_embeddings": True,
    "scale_embeddings": False,
    "vocab_size": 50000,
}
BLOOM_560M = {
    **COMMON,
    "model_type": "bloom",
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "hidden_dropout": 0.0,
    "layer_norm_epsilon": 1e-05,
    "masked_softmax_fusion": True,
    "n_embed": 1024,
    "n_inner": None,
    "n_layer": 24,
    "num_attention_heads": 16,
    "offset_alibi": 100,
    "pretraining_tp": 1,
    "seq_length": 2048,
    "skip_bias_add": True,
    "skip_bias_add_qkv": False,
    "slow_but_exact": False,
    "vocab_size": 250880,
}
FALCON_7B = {
    **COMMON,
    "model_type": "falcon",
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "bias": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4544,
    "layer_norm_epsilon": 1e-05,
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "parallel_attn": True,
    "vocab_size": 65024,
}
FALCON_40B = {
    **FALCON_7B,
    "hidden_size": 8192,
    "new_decoder_architecture": True,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_kv_heads": 8,
}
FALCON_2_11B = {
    **FALCON_40B,
    "activation": "gelu",
    "ff_factor": 4,
    "ffn_hidden_size": 16384,
    "hidden_size": 4096,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_ln_in_parallel_attn": 1,
    "rope_scaling": None,
    "rope_theta": 500042.0,
    "tie_word_embeddings": False,
}
FALCON_RW_1B = {
    **FALCON_7B,
    "alibi": True,
    "bias": True,
    "hidden_size": 2048,
    "multi_query": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "parallel_attn": False,
    "vocab_size": 50304,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt-neo-125m": GPT_NEO_125M,
    "gpt-j-6b": GPT_J_6B,
    "pythia-70m": PYTHIA_70M,
    "opt-125m": OPT_125M,
    "opt-350m": OPT_350M,
    "galactica-125m": GALACTICA_125M,
    "bloom-560m": BLOOM_560M,
    "falcon-7b": FALCON_7B,
    "falcon-40b": FALCON_40B,
    "falcon2-11b": FALCON_2_11B,
    "falcon-rw-1b": FALCON_RW_1B,
}


def spec_of(values: dict[str, Any]) -> ModelSpec:
    return build(Config(values, "config.json"))[0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tensors_are_those_of_transformers(name: str) -> None:
    values = PUBLISHED[name]
    spec, table = build(Config(values, "config.json"))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values))
    for state in [model.state_dict(), *([model.base_model.state_dict()] if spec.tied else [])]:
        plan(spec, table, RandomSource(name, {tensor: (tuple(value.shape), F32) for tensor, value in state.items()}))


def test_what_they_mean() -> None:
    neo, gptj, pythia = spec_of(GPT_NEO_125M), spec_of(GPT_J_6B), spec_of(PYTHIA_70M)
    assert [layer.attention.window for layer in neo.layers] == [None, 256] * 6
    assert {layer.attention.scale for layer in neo.layers} == {1.0}
    (rope,) = gptj.layers[0].attention.ropes
    assert (rope.dim, rope.interleaved, gptj.layers[0].parallel, gptj.layers[0].mlp_norm) == (64, True, True, None)
    (rope,) = pythia.layers[0].attention.ropes
    assert (rope.dim, rope.theta, rope.interleaved, pythia.layers[0].mlp_norm) == (16, 1e4, False, Norm(1e-5, "layer"))
    opt, small = spec_of(OPT_125M), spec_of(OPT_350M)
    assert (opt.embedding.width, opt.final_norm, small.embedding.width, small.final_norm) == (None, Norm(1e-5, "layer"), 512, None)
    bloom, rw = spec_of(BLOOM_560M).layers[0].attention, spec_of(FALCON_RW_1B).layers[0].attention
    assert bloom.alibi is not None
    assert rw.alibi is not None
    assert (bloom.alibi[15], rw.alibi[31], rw.kv_heads) == (2**-8, 2**-8 / 8, 32)
    kv_heads = {name: spec_of(PUBLISHED[name]).layers[0].attention.kv_heads for name in ("falcon-7b", "falcon-40b", "falcon2-11b")}
    assert kv_heads == {"falcon-7b": 1, "falcon-40b": 8, "falcon2-11b": 8}


def test_the_first_names_of_falcon() -> None:
    """As the checkpoints of 2023 have them; transformers no longer reads these."""

    def first(values: dict[str, Any], model_type: str) -> dict[str, Any]:
        names = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "num_kv_heads": "n_head_kv"}
        left = {names.get(key, key): value for key, value in values.items() if key != "new_decoder_architecture"}
        return {**left, "model_type": model_type}

    assert spec_of(first(FALCON_7B, "RefinedWebModel")) == spec_of(FALCON_7B)
    assert spec_of(first(FALCON_40B, "RefinedWeb")) == spec_of(FALCON_40B)


def test_values_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ModelFileError, match="768, as n_embd says"):
        spec_of({**GPT2, "hidden_size": 1024})
    for types in (
        [[["global", "local"], 5]],
        [["global"] * 12],
        [[["global", "remote"], 6]],
        [[["global"], 10**9]],
        [[[["local"]], 12]],
        7,
        ["local"] * 12,
    ):
        with pytest.raises(ModelFileError, match="attention_types"):
            spec_of({**GPT_NEO_125M, "attention_types": types})
    with pytest.raises(ModelFileError, match="num_ln_in_parallel_attn"):
        spec_of({**FALCON_40B, "num_ln_in_parallel_attn": 3})
    with pytest.raises(UnsupportedModelError, match="add_cross_attention"):
        spec_of({**GPT2, "add_cross_attention": True})
