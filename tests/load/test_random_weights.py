"""Random weights: valid blocks of every type (decoded by the gguf package), in the shape of the model that was named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from gguf_files import write_gguf
from transformers import LlamaConfig, LlamaForCausalLM

from linnet import LLM, UnsupportedModelError
from linnet.errors import ModelFileError
from linnet.load.checkpoint import open_checkpoint
from linnet.load.random_weights import WEIGHT_STD, RandomSource, open_random
from linnet.tensors import BF16, F16, Q4_0, TYPES

TINY = Path(__file__).parents[2] / "models" / "tiny"


@pytest.mark.parametrize("type", TYPES.values(), ids=TYPES)
def test_blocks_are_finite_and_centred(type):
    source = RandomSource("test", {"w": ((512, 1024), type)})
    raw = source.read("w")
    assert raw.data.nbytes == type.nbytes((512, 1024))
    values = quants.dequantize(raw.data, GGMLQuantizationType(type.gguf_id)).astype(np.float64)
    assert np.isfinite(values).all()
    assert abs(values.mean()) < 0.1 * WEIGHT_STD
    assert 0.6 * WEIGHT_STD < values.std() < 1.5 * WEIGHT_STD  # mxfp4's scales are powers of two
    again = source.read("w")
    np.testing.assert_array_equal(again.data, raw.data)
    assert not np.shares_memory(again.data, raw.data)  # or a benchmark would read caches in place of memory


@pytest.fixture(scope="module")
def config_only(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    shutil.copy(TINY / "config.json", folder)
    return folder


@pytest.mark.parametrize("target", [None, Q4_0, BF16])
def test_a_config_alone_gives_what_the_weights_would_be(config_only, target):
    real = open_checkpoint("tiny")
    random = open_random(config_only, target)
    assert random.spec == real.spec
    assert sorted(random.source.names()) == sorted(real.source.names())
    for name in real.source.names():
        assert random.source.shape(name) == real.source.shape(name)
        matrix = len(real.source.shape(name)) == 2
        assert random.source.type(name) == (target if target is not None and matrix else F16)
    assert (target is not None) or random.nbytes == real.nbytes
    real.close()


def test_a_gguf_keeps_its_types(tmp_path):
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64
    )
    path = write_gguf(tmp_path / "model.gguf", LlamaForCausalLM(config), "q5_1")
    real, random = open_checkpoint(path), open_random(path)
    assert random.naming == "gguf"
    assert {n: (random.source.shape(n), random.source.type(n)) for n in random.source.names()} == {
        n: (real.source.shape(n), real.source.type(n)) for n in real.source.names()
    }
    real.close()
    for target in (None, Q4_0):
        with LLM.from_checkpoint(open_random(path, target), weights="auto" if target is None else "q4_0") as llm:
            assert np.isfinite(llm.logits([1, 2, 3])).all()


def test_logits_are_finite_and_the_same_every_time(config_only):
    with LLM.from_checkpoint(open_random(config_only)) as one, LLM.from_checkpoint(open_random(config_only)) as other:
        logits = one.logits(list(range(50)))
        assert np.isfinite(logits).all()
        assert logits.std() > 0
        np.testing.assert_array_equal(logits, other.logits(list(range(50))))


MIXTURES = {
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 8},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64, "norm_topk_prob": True},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


@pytest.mark.parametrize("target", [None, Q4_0])
@pytest.mark.parametrize("family", MIXTURES)
def test_stacks_biases_and_transposed_matrices(family, target, tmp_path):
    """Biases of experts are vectors, and matrices stored [in, out] cannot be made in the type that they are loaded as."""
    from transformers import AutoConfig

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    AutoConfig.for_model(family, vocab_size=96, **({} if family == "gpt2" else sizes), **MIXTURES[family]).save_pretrained(tmp_path)
    checkpoint = open_random(tmp_path, target)
    with LLM.from_checkpoint(checkpoint, weights="auto" if target is None else "q4_0", ops="reference", context=32) as llm:
        assert np.isfinite(llm.logits([1, 2, 3])).all()


def test_refusals(tmp_path):
    with pytest.raises(ModelFileError, match="no model"):
        open_random(tmp_path)
    config = json.loads((TINY / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": "float8_e4m3fn"}))
    with pytest.raises(UnsupportedModelError, match=r"dtype is 'float8_e4m3fn'; there are float32"):
        open_random(tmp_path)
    with pytest.raises(ModelFileError, match="no tensor 'x'"):
        RandomSource("nothing", {}).read("x")
