"""Rotary frequencies and angles against transformers, for every scaling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from linnet.arch import rope as rope_module
from linnet.arch.rope import angles, inverse_frequencies
from linnet.arch.rope_spec import DynamicScaling, FactorScaling, LinearScaling, Llama3Scaling, LongScaling, Rope, RopeScaling, YarnScaling

CONTEXT = 2048
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 512, "attention_factor": 1.13}
CASES: dict[str, tuple[dict[str, Any], RopeScaling | None]] = {
    "none": ({"rope_type": "default"}, None),
    "linear": ({"rope_type": "linear", "factor": 3.0}, LinearScaling(3.0)),
    "dynamic": ({"rope_type": "dynamic", "factor": 2.5}, DynamicScaling(2.5)),
    "llama3": ({"rope_type": "llama3"} | LLAMA3, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
    "yarn": ({"rope_type": "yarn"} | YARN, YarnScaling(4.0, 512, 1.13)),
    "yarn-betas": ({"rope_type": "yarn", "beta_fast": 20.0, "beta_slow": 2.0} | YARN, YarnScaling(4.0, 512, 1.13, 20.0, 2.0)),
    "yarn-fraction": ({"rope_type": "yarn", "truncate": False} | YARN, YarnScaling(4.0, 512, 1.13, truncate=False)),
}


def config(parameters: dict[str, Any], dim: int, theta: float) -> LlamaConfig:
    parameters = {"rope_theta": theta} | parameters
    heads: dict[str, Any] = {"num_attention_heads": 2, "hidden_size": 2 * dim, "head_dim": dim}
    return LlamaConfig(max_position_embeddings=CONTEXT, rope_parameters=parameters, **heads)


@pytest.mark.parametrize("theta", [10000.0, 500000.0, 1e6])
@pytest.mark.parametrize("dim", [4, 10, 64, 128])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("length", [7, CONTEXT, CONTEXT + 1, 5 * CONTEXT])
def test_frequencies_are_those_of_transformers(name: str, dim: int, theta: float, length: int) -> None:
    parameters, scaling = CASES[name]
    theirs: tuple[torch.Tensor, float]
    if name == "none":
        theirs = LlamaRotaryEmbedding.compute_default_rope_parameters(config(parameters, dim, theta))
    else:
        theirs = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config(parameters, dim, theta), seq_len=torch.tensor(length))
    ours, factor = inverse_frequencies(Rope(dim, theta, CONTEXT, scaling=scaling), length)
    assert ours.dtype == np.float32
    assert ours.shape == (dim // 2,)
    assert factor == theirs[1]
    # Their float32 power may be off by its last bit, ours is rounded correctly; a changed base or a blend amplifies it.
    np.testing.assert_array_max_ulp(ours, theirs[0].numpy(), 2 if name in ("none", "linear") else 6)


def test_dynamic_scaling_changes_nothing_within_the_context() -> None:
    plain, dynamic = (Rope(64, 10000.0, CONTEXT, scaling=scaling) for scaling in (None, DynamicScaling(2.0)))
    for length in (1, CONTEXT):
        np.testing.assert_array_equal(inverse_frequencies(plain, length)[0], inverse_frequencies(dynamic, length)[0])
    assert not np.array_equal(inverse_frequencies(plain, 1)[0], inverse_frequencies(dynamic, CONTEXT + 1)[0])


def test_factors_divide_each_frequency() -> None:
    """GGUF's `rope_freqs.weight` for Llama 3.1 holds the quotients, so dividing by them is the llama3 scaling."""
    plain = Rope(64, 500000.0, CONTEXT)
    llama3 = inverse_frequencies(replace(plain, scaling=Llama3Scaling(8.0, 1.0, 4.0, 8192)), 1)[0]
    factors = inverse_frequencies(plain, 1)[0] / llama3
    ours = inverse_frequencies(replace(plain, scaling=FactorScaling(tuple(factors.tolist()))), 1)[0]
    np.testing.assert_array_max_ulp(ours, llama3, 1)


@pytest.mark.parametrize("original", [512, CONTEXT])
@pytest.mark.parametrize("dim", [4, 10, 96])
def test_longrope_is_that_of_transformers(dim: int, original: int) -> None:
    """One set of factors up to the original context and another past it, and a factor for cosines and sines."""
    random = np.random.default_rng(dim)
    short, long = (random.uniform(1, most, dim // 2).astype(np.float32) for most in (2, 40))
    parameters = {"rope_type": "longrope", "short_factor": short.tolist(), "long_factor": long.tolist()}
    parameters["original_max_position_embeddings"] = original
    for length in (1, original, original + 1, 5 * CONTEXT):
        theirs, factor = ROPE_INIT_FUNCTIONS["longrope"](config(parameters, dim, 10000.0), seq_len=length)
        rope = Rope(dim, 10000.0, CONTEXT, scaling=LongScaling(tuple(short.tolist()), tuple(long.tolist()), original, factor))
        frequencies, ours = inverse_frequencies(rope, length)
        np.testing.assert_array_max_ulp(frequencies, theirs.numpy(), 2)
        cosines, sines = angles(rope, np.array([0, 1, 63], np.int32), np.full(3, length, np.int32))
        radians = torch.outer(torch.tensor([0.0, 1.0, 63.0]), theirs)
        np.testing.assert_allclose(cosines, radians.cos() * factor, rtol=0, atol=1e-5)
        np.testing.assert_allclose(sines, radians.sin() * factor, rtol=0, atol=1e-5)
        assert ours == factor
    assert (factor > 1) == (original < CONTEXT)


@pytest.mark.parametrize("name", CASES)
def test_angles_are_those_of_transformers(name: str) -> None:
    parameters, scaling = CASES[name]
    length = 3 * CONTEXT
    module = LlamaRotaryEmbedding(config(parameters, 64, 10000.0))
    theirs = module(torch.zeros(1), torch.arange(length)[None])
    rope = Rope(64, 10000.0, CONTEXT, scaling=scaling)
    ours = angles(rope, np.arange(length, dtype=np.int32), np.full(length, length, np.int32))
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == (length, 32)
        assert a.flags.c_contiguous
        # An angle's last bit near 6144 radians is 5e-4.
        np.testing.assert_allclose(a, b[0, :, :32].numpy(), rtol=0, atol=1.5e-3)
        np.testing.assert_allclose(a[:64], b[0, :64, :32].numpy(), rtol=0, atol=1e-5)


def test_angles_of_a_row_do_not_depend_on_its_neighbours() -> None:
    rope = Rope(32, 10000.0, 100, scaling=DynamicScaling(2.0))
    positions = np.array([0, 63, 64, 5, 5, 5, 700, 6, 7], np.int32)
    lengths = np.array([90, 90, 90, 101, 800, 90, 800, 800, 90], np.int32)
    together = angles(rope, positions, lengths)
    for i in range(len(positions)):
        alone = angles(rope, positions[i : i + 1], lengths[i : i + 1])
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a, b[i : i + 1])
    assert not np.array_equal(together[0][3], together[0][4])  # one position, two lengths past the context
    empty = angles(rope, positions[:0], lengths[:0])
    assert empty[0].shape == empty[1].shape == (0, 16)


def test_the_cache_is_bounded_and_cannot_be_written() -> None:
    rope = Rope(8, 10000.0, 100)
    count = (rope_module.KEPT_BLOCKS + 5) * rope_module.BLOCK
    angles(rope, np.arange(count, dtype=np.int32), np.zeros(count, np.int32))
    assert rope_module._block.cache_info().currsize == rope_module.KEPT_BLOCKS
    cosines, _ = angles(rope, np.array([3], np.int32), np.array([9], np.int32))
    with pytest.raises(ValueError, match="read-only"):
        cosines[0, 0] = 2.0
