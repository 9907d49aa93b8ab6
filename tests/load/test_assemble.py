"""Assembling: every tensor to its field, and one error that lists whatever does not fit."""

import logging
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from linnet.arch.config import Config
from linnet.arch.registry import build
from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.assemble import assemble, plan
from linnet.load.dequantize import dequantize
from linnet.load.memory import MemorySource
from linnet.tensors import F16, F32, Q4_0, Q8_0, RawTensor, TensorType
from linnet.weights import PLAIN

SMALL = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 64,
}


class Recorder:
    """An op set that keeps what it is given."""

    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> tuple[str, np.ndarray, TensorType | None]:
        return raw.name, dequantize(raw), target

    def vector(self, raw: RawTensor) -> np.ndarray:
        return dequantize(raw)

    def owns(self, matrix: Any) -> bool:
        return matrix[0].endswith("q_proj.weight")


class Watched(MemorySource):
    def __init__(self, tensors):
        super().__init__(tensors)
        self.released: list[str] = []

    def release(self, name: str) -> None:
        self.released.append(name)


def model(kind: str = "llama", **extra):
    config_class, model_class = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[kind]
    hf = model_class(config_class(**SMALL, **extra))
    spec, table = build(Config(hf.config.to_dict(), "config"))
    return hf.state_dict(), spec, table


FIELDS = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
ATTENTION = tuple(FIELDS)[:4]


@pytest.mark.parametrize(
    ("kind", "extra", "biases"),
    [
        ("llama", {}, set()),
        ("llama", {"attention_bias": True, "mlp_bias": True}, set(FIELDS)),
        ("qwen2", {}, set(ATTENTION[:3])),
        ("qwen3", {"attention_bias": True}, set(ATTENTION)),
    ],
)
def test_every_tensor_reaches_its_field(kind, extra, biases):
    state, spec, table = model(kind, **extra)
    weights = assemble(Recorder(), spec, table, MemorySource(state))
    np.testing.assert_array_equal(weights.embedding[1], state["model.embed_tokens.weight"])
    np.testing.assert_array_equal(weights.output.matrix[1], state["lm_head.weight"])
    np.testing.assert_array_equal(weights.final_norm.weight, state["model.norm.weight"])
    assert len(weights.layers) == 3
    for index, layer in enumerate(weights.layers):
        prefix = f"model.layers.{index}."
        for field, hf in FIELDS.items():
            linear = attrgetter(field)(layer)
            np.testing.assert_array_equal(linear.matrix[1], state[f"{prefix}{hf}.weight"])
            if field in biases:
                np.testing.assert_array_equal(linear.bias, state[f"{prefix}{hf}.bias"])
            else:
                assert linear.bias is None
        np.testing.assert_array_equal(layer.attention_norm.weight, state[prefix + "input_layernorm.weight"])
        np.testing.assert_array_equal(layer.mlp_norm.weight, state[prefix + "post_attention_layernorm.weight"])
        if kind == "qwen3":
            np.testing.assert_array_equal(layer.attention.query_norm.weight, state[prefix + "self_attn.q_norm.weight"])
            np.testing.assert_array_equal(layer.attention.key_norm.weight, state[prefix + "self_attn.k_norm.weight"])
        else:
            assert layer.attention.query_norm == PLAIN


def test_tied_output_is_the_embedding_and_its_copy_is_ignored():
    state, spec, table = model(tie_word_embeddings=True)
    assert "lm_head.weight" in state
    weights = assemble(Recorder(), spec, table, MemorySource(state))
    assert weights.output.matrix is weights.embedding
    del state["lm_head.weight"]
    assert assemble(Recorder(), spec, table, MemorySource(state)).output.matrix is not None


def test_one_error_lists_everything():
    state, spec, table = model()
    del state["model.layers.1.mlp.up_proj.weight"]
    del state["lm_head.weight"]
    state["model.layers.0.self_attn.extra"] = np.zeros(3, np.float32)
    state["model.layers.2.self_attn.k_proj.weight"] = np.zeros((2, 64), np.float32)
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(12, np.float32)
    with pytest.raises(ModelFileError) as caught:
        plan(spec, table, MemorySource(state))
    message = str(caught.value)
    assert "missing: model.layers.1.mlp.up_proj.weight, lm_head.weight;" in message
    assert "unexpected: model.layers.0.self_attn.extra" in message
    assert "model.layers.2.self_attn.k_proj.weight is [2, 64], not [48, 64]" in message
    assert "inv_freq" not in message


def test_not_strict_forgives_what_is_left_over_only(caplog):
    state, spec, table = model()
    state["extra"] = np.zeros(3, np.float32)
    with caplog.at_level(logging.WARNING, "linnet.load"):
        assemble(Recorder(), spec, table, MemorySource(state), strict=False)
    assert "extra" in caplog.text
    del state["model.norm.weight"]
    with pytest.raises(ModelFileError, match=r"missing: model\.norm\.weight"):
        assemble(Recorder(), spec, table, MemorySource(state), strict=False)


def test_types_that_do_not_run_are_listed_before_any_work():
    state, spec, table = model()

    class Odd(MemorySource):
        def type(self, name: str) -> TensorType:
            if name == "lm_head.weight":
                return TensorType("f64", 28, 1, 8)
            return Q8_0 if name == "model.norm.weight" else super().type(name)

    with pytest.raises(UnsupportedModelError, match=r"model\.norm\.weight \(q8_0\), lm_head\.weight \(f64\)"):
        plan(spec, table, Odd(state))


def test_target_goes_where_its_blocks_fit(caplog):
    state, spec, table = model()  # columns: 64 (fits), 96 (fits), and 4 * 24 = 96
    with caplog.at_level(logging.WARNING, "linnet.load"):
        weights = assemble(Recorder(), spec, table, MemorySource(state), Q4_0)
    assert {weights.embedding[2], weights.output.matrix[2], weights.layers[0].mlp.down.matrix[2]} == {Q4_0}
    assert not caplog.records
    odd = TensorType("q4_k", 12, 256, 144)
    with caplog.at_level(logging.WARNING, "linnet.load"):
        weights = assemble(Recorder(), spec, table, MemorySource(state), odd)
    assert weights.embedding[2] is None
    assert "model.embed_tokens.weight stays f32" in caplog.text


def test_a_matrix_that_is_stored_in_the_target_is_kept():
    state, spec, table = model()
    assert assemble(Recorder(), spec, table, MemorySource(state), F32).embedding[2] is None
    assert assemble(Recorder(), spec, table, MemorySource(state), F16).embedding[2] is F16


def test_pages_are_given_back_once_the_op_set_has_a_copy():
    state, spec, table = model()
    source = Watched(state)
    assemble(Recorder(), spec, table, source)
    assert sorted(source.released) == sorted(name for name in state if name.endswith(("norm.weight", "q_proj.weight")))
