"""Linnet beside llama.cpp itself: the built-in model quantized by llama.cpp, and random models of every family.

Run by `make test-peers`; needs llama-cpp-python, which takes 12 minutes to build.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison import LARGEST_DIVERGENCE, PROMPTS, TOKENS, ask, divergence
from llama_quantize import equal_importance, quantize
from numpy.typing import NDArray
from peer import LlamaCpp
from tiny_gguf import ARCHITECTURES, KINDS, write_gguf, write_tiny

from linnet import LLM, SamplingParams

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install '.[peers]'")
pytestmark = pytest.mark.peers

FILE_TYPES = (
    "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K_S Q3_K_M Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ4_NL IQ4_XS "
    "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M"
).split()


@contextmanager
def open_peer(path: Path, flash: bool = True) -> Iterator[LlamaCpp]:
    peer = LlamaCpp(path, threads=1, flash=flash)
    yield peer
    peer.close()


def check_prompts(path: Path) -> None:
    """Same ids for every prompt, same greedy tokens as far as they are certain, same logits along the answer."""
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    with LLM(str(path), ops="native") as llm, open_peer(path) as peer:
        for prompt in PROMPTS:
            case = ask(peer, prompt)
            assert llm.tokenizer is not None
            assert llm.tokenizer.encode(prompt, special=True) == case.token_ids
            (answer,) = llm.generate([case.token_ids], params)
            assert list(answer.token_ids)[: case.certain] == case.greedy[: case.certain]
            actual = llm.logits(case.token_ids + case.greedy)[case.positions]
            assert divergence(case.logits, actual) < LARGEST_DIVERGENCE


@pytest.mark.parametrize("name", FILE_TYPES)
def test_built_in_model_quantized_by_llama_cpp(name: str, tmp_path: Path) -> None:
    source, target = tmp_path / "f16.gguf", tmp_path / f"{name}.gguf"
    write_tiny(source, "f16")
    quantize(source, target, getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}"), importance=equal_importance(source))
    check_prompts(target)


@pytest.mark.parametrize("kind", KINDS)
def test_built_in_model(kind: str, tmp_path: Path) -> None:
    write_tiny(tmp_path / "model.gguf", kind)
    check_prompts(tmp_path / "model.gguf")


def random_checkpoint(family: str, tied: bool) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Config and weights of a random transformers model with the built-in model's vocabulary; widths fit K-quants."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        vocab_size=1328,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        eos_token_id=4,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.06 * noise)
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    return config.to_dict(), weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_random_model(family: str, kind: str, tmp_path: Path) -> None:
    """Random weights amplify the last bits (a rounding of activations falls the other way): where llama.cpp is further
    than the limit from itself with another attention kernel, that distance is the limit. Of the sums that minima are
    multiplied with, llama.cpp keeps 11 bits and linnet all: half as much again."""
    path = tmp_path / "model.gguf"
    write_gguf(path, kind, *random_checkpoint(family, tied=family == "qwen3"))
    token_ids = np.random.default_rng(1).integers(5, 1328, 100).tolist()
    with open_peer(path) as peer, open_peer(path, flash=False) as other:
        expected, own = peer.logits(token_ids), other.logits(token_ids)
    with LLM(str(path), ops="native") as llm:
        actual = llm.logits(token_ids)
    own_distance = divergence(expected, own) * (1.5 if kind in ("q4_1", "q5_1") else 1)
    assert divergence(expected, actual) < max(LARGEST_DIVERGENCE, own_distance)
