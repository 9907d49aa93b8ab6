"""Files that Linnet writes, in llama.cpp: every type, several families, and the built-in model. Run by `make test-peers`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comparison import PROMPTS, TOKENS, ask, divergence
from family_answers import prompt_tokens
from family_cases import BLOCKS
from peer import LlamaCpp

import linnet
from linnet import LLM, SamplingParams
from linnet.quantize.file_types import FILE_TYPES
from models import save

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install '.[peers]'")
pytestmark = pytest.mark.peers

LARGEST_DIVERGENCE = 1e-3
"""Mean KL in nats, of the same file in both."""
TINY = Path(__file__).parents[2] / "models" / "tiny"
FAMILY_TYPES = ("F16", "Q8_0", "Q4_K_M", "Q2_K", "IQ4_XS")


@pytest.mark.parametrize("type", FILE_TYPES)
def test_built_in_model(type: str, tmp_path: Path) -> None:
    """The text goes in as text: the vocabulary is read alike, too."""
    path = tmp_path / "model.gguf"
    linnet.quantize(TINY, path, type)
    peer = LlamaCpp(path, threads=1)
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True)
    with LLM(path) as llm:
        for prompt in PROMPTS:
            case = ask(peer, prompt)
            assert llm.tokenizer is not None
            assert llm.tokenizer.encode(prompt, special=True) == case.token_ids
            (answer,) = llm.generate([case.token_ids], params)
            assert list(answer.token_ids)[: case.certain] == case.greedy[: case.certain]
            assert divergence(case.logits, llm.logits(case.token_ids + case.greedy)[case.positions]) < LARGEST_DIVERGENCE
    peer.close()


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma", "gpt2", "phi3", "mixtral", "falcon", "olmo2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("family")
    save(BLOCKS[request.param].draw.model(), path, request.param)
    return path


@pytest.mark.parametrize("type", FAMILY_TYPES)
def test_families(type: str, folder: Path, tmp_path: Path) -> None:
    """Random weights, which amplify the last bits (an activation rounded the other way, an expert chosen otherwise): where llama.cpp is
    further from itself with another attention kernel, that distance is the limit."""
    path = tmp_path / "model.gguf"
    linnet.quantize(folder, path, type)
    peer, other = (LlamaCpp(path, threads=1, context=256, flash=flash) for flash in (True, False))
    with LLM(path) as llm:
        for number in range(4):
            prompt = prompt_tokens(number)
            greedy = list(peer.stream(prompt, TOKENS))
            expected, own = (engine.logits(prompt + greedy) for engine in (peer, other))
            second, first = np.partition(expected[len(prompt) - 1 : -1], -2, axis=1)[:, -2:].T
            unsure = np.flatnonzero(first - second < 0.1 * np.abs(expected).max())
            certain = int(unsure[0]) if unsure.size else TOKENS
            (answer,) = llm.generate([prompt], SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True))
            assert list(answer.token_ids)[:certain] == greedy[:certain]
            limit = max(LARGEST_DIVERGENCE, 3 * divergence(expected, own))
            assert divergence(expected, llm.logits(prompt + greedy)) < limit
    peer.close()
    other.close()
