"""GGUF metadata as a configuration: the same specs as config.json gives, and metadata that lies."""

from dataclasses import replace

import numpy as np
import pytest

from linnet.arch.config import Config
from linnet.arch.gguf_config import gguf_config
from linnet.arch.registry import build
from linnet.arch.rope_spec import FactorScaling, LinearScaling, Rope, YarnScaling
from linnet.arch.spec import ModelSpec
from linnet.errors import ModelFileError, UnsupportedModelError

SIZES = {
    "block_count": 2,
    "context_length": 256,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
SHAPES = {"token_embd.weight": (50, 64), "output.weight": (50, 64)}
HF = {
    "num_hidden_layers": 2,
    "max_position_embeddings": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 50,
}


def metadata(architecture: str = "llama", **extra) -> dict:
    """Keyword names stand for keys below the architecture, with "__" for "."."""
    keys = {**SIZES, **{key.replace("__", "."): value for key, value in extra.items()}}
    return {"general.architecture": architecture, "general.file_type": 7, **{f"{architecture}.{key}": value for key, value in keys.items()}}


def spec_of(values: dict, shapes=SHAPES, factors=None) -> ModelSpec:
    tensors = None if factors is None else {"rope_freqs.weight": factors}
    return build(gguf_config(values, "m.gguf", shapes, tensors))[0]


def rope_of(spec: ModelSpec) -> Rope:
    (rope,) = spec.layers[0].attention.ropes
    return rope


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_means_what_config_json_means(architecture):
    head_dim = {"attention__key_length": 24, "attention__value_length": 24, "rope__dimension_count": 24}
    found = spec_of(metadata(architecture, **head_dim, rope__freq_base=5e5, vocab_size=50))
    expected = build(Config({"model_type": architecture, **HF, "head_dim": 24, "rope_theta": 5e5}, "config.json"))[0]
    interleaved = architecture == "llama"
    rope = replace(rope_of(expected), interleaved=interleaved)
    layers = tuple(replace(layer, mixer=replace(layer.attention, ropes=(rope,))) for layer in expected.layers)
    assert found == replace(expected, layers=layers)


def test_rows_of_the_embedding_count_the_vocabulary_and_absent_output_is_tied():
    spec = spec_of(metadata(vocab_size=7), {"token_embd.weight": (64, 64)})
    assert (spec.vocab_size, spec.tied) == (64, True)
    assert not spec_of(metadata()).tied


def test_how_embeddings_are_pooled_is_none_of_the_decoders_business():
    """Qwen3-Embedding's files say it, and are decoders like others."""
    assert spec_of(metadata("qwen3", pooling_type=3)) == spec_of(metadata("qwen3"))


def test_a_window_in_a_list_is_refused_by_name():
    with pytest.raises(ModelFileError, match=r"llama\.attention\.sliding_window is '\[1 2\]'; an integer"):
        spec_of(metadata(attention__sliding_window=np.array([1, 2])))


@pytest.mark.parametrize(
    ("extra", "scaling", "context"),
    [
        ({}, None, 256),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, None, 256),
        ({"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}, LinearScaling(4.0), 1024),
        ({"rope__scaling__factor": 4.0}, LinearScaling(4.0), 1024),
        ({"rope__scale_linear": 2.0}, LinearScaling(2.0), 512),
        ({"rope__scaling__factor": 0.0}, None, 256),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__original_context_length": 64},
            YarnScaling(4.0, 64, 1.138629436111989),
            256,
        ),
        (
            {
                "rope__scaling__type": "yarn",
                "rope__scaling__factor": 4.0,
                "rope__scaling__original_context_length": 128,
                "rope__scaling__attn_factor": 0.5,
                "rope__scaling__yarn_beta_fast": 16.0,
                "rope__scaling__yarn_beta_slow": 2.0,
                "rope__scaling__yarn_ext_factor": 1.0,
            },
            YarnScaling(4.0, 128, 1.138629436111989 / 2, 16.0, 2.0),
            512,
        ),
    ],
)
def test_rotary_scaling(extra, scaling, context):
    spec = spec_of(metadata(**extra))
    assert rope_of(spec).scaling == scaling
    assert spec.context == context


def test_rope_factors_and_partial_rotation():
    assert rope_of(spec_of(metadata(), factors=[1.0] * 7 + [8.0])).scaling == FactorScaling((1.0,) * 7 + (8.0,))
    assert rope_of(spec_of(metadata(rope__dimension_count=8))).dim == 8
    for factors in ([1.0] * 7, [1.0] * 7 + [0.0], [1.0] * 7 + [float("nan")]):
        with pytest.raises(ModelFileError, match=r"rope_freqs\.weight"):
            spec_of(metadata(), factors=factors)
    with pytest.raises(UnsupportedModelError, match=r"rope_freqs\.weight"):
        spec_of(metadata(rope__scaling__factor=2.0), factors=[1.0] * 8)


def test_causal_attention_may_be_said():
    assert spec_of(metadata(attention__causal=True)) == spec_of(metadata())


def test_a_window_of_llama_is_honoured():
    assert spec_of(metadata(attention__sliding_window=32)).layers[0].attention.window == 32


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"logit_scale": 0.5}, r"llama\.logit_scale"),
        ({"attention__value_length": 8}, r"llama\.attention\.value_length"),
        ({"rope__scaling__yarn_ext_factor": 0.5}, r"llama\.rope\.scaling\.yarn_ext_factor"),
        ({"use_parallel_residual": True}, r"llama\.use_parallel_residual = True"),
        ({"attention__causal": False}, r"llama\.attention\.causal is 'False'"),
        ({"rope__scaling__type": "spiral"}, r"llama\.rope\.scaling\.type is 'spiral'"),
        ({"rope__dimension_sections": np.array([1, 2, 3], np.int32)}, r"llama\.rope\.dimension_sections"),
    ],
)
def test_keys_that_matter_and_are_not_understood_are_named(extra, message):
    with pytest.raises(UnsupportedModelError, match=message):
        spec_of(metadata(**extra))


ODD = [0, -1, 2**40, float("nan"), "8", True, np.arange(3), ["a"], ["a", "b"]]


@pytest.mark.parametrize("value", ODD, ids=str)
@pytest.mark.parametrize("key", ["block_count", "embedding_length", "attention.head_count", "feed_forward_length", "context_length"])
def test_impossible_values_are_named_as_the_file_names_them(key, value):
    with pytest.raises(ModelFileError, match=f"llama.{key}"):
        spec_of(metadata(**{key.replace(".", "__"): value}))


@pytest.mark.parametrize("key", ["rope.freq_base", "rope.scaling.factor", "rope.scaling.type", "attention.causal", "attention.key_length"])
def test_values_of_the_wrong_kind_are_named(key):
    for value in (np.arange(3), ["a", "b"], np.array([0.0, 0.0])):
        with pytest.raises(ModelFileError, match=f"llama.{key}"):
            spec_of(metadata(**{key.replace(".", "__"): value}))


def test_missing_keys_and_architectures():
    values = metadata()
    del values["llama.embedding_length"]
    with pytest.raises(ModelFileError, match=r"llama\.embedding_length is missing"):
        spec_of(values)
    with pytest.raises(ModelFileError, match=r"general\.architecture"):
        spec_of({})
    with pytest.raises(UnsupportedModelError, match="'rwkv7'"):
        spec_of(metadata("rwkv7"))
    with pytest.raises(UnsupportedModelError, match="vocabulary without tensors"):
        spec_of(metadata(), {})
