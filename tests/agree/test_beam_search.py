"""Beam search against transformers' own: the same tokens by every option, and drawn beams by the same law."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from linnet import LLM, SamplingParams
from linnet.engine.beams import candidates

LENGTH_PENALTIES = (-1.0, 0.0, 1.0, 2.0)
EARLY = (False, True, "never")
OTHERS: tuple[dict[str, Any], ...] = (
    {},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 2},
    {"min_tokens": 6},
    {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3, "min_tokens": 3},
)
ENDS = ([], [5], [5, 9, 33])
"""Token ids that end an answer: none, one, several."""
CASES = list(product(LENGTH_PENALTIES, EARLY, (0, 1, 2), OTHERS))
LONGEST = 14


def model_of(seed: int, vocab: int = 60) -> LlamaForCausalLM:
    """A random model whose logits differ enough for no two sums of them to be equal but for rounding."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def prompts_of(seed: int, count: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 60, length).tolist() for length in rng.integers(1, 20, count)]


def theirs(model: LlamaForCausalLM, prompts: Sequence[list[int]], ends: list[int], **options: Any) -> list[tuple[list[int], float]]:
    """Answers without what comes after their ends, and their scores; prompts of several lengths are padded on the left."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    least = options.pop("min_tokens", None)
    with torch.no_grad():
        found = model.generate(
            tokens,
            attention_mask=mask,
            eos_token_id=ends or None,
            min_new_tokens=least if ends else None,
            return_dict_in_generate=True,
            output_scores=True,
            **{"do_sample": False, "max_new_tokens": LONGEST, **options},
        )
    answers = []
    for row, score in zip(found.sequences[:, longest:].tolist(), found.sequences_scores.tolist(), strict=True):
        end = next((index + 1 for index, token in enumerate(row) if token in ends), LONGEST)
        answers.append((row[:end], score))
    return answers


def assert_equal(llm: LLM, model: LlamaForCausalLM, seed: int, cases: Sequence[tuple[Any, ...]], beams: int, n: int) -> None:
    """All at once, each as transformers answers it alone."""
    params, wanted = [], []
    prompts = prompts_of(seed, len(cases))
    for prompt, (penalty, early, ends, others) in zip(prompts, cases, strict=True):
        shape = {"num_beams": beams, "length_penalty": penalty, "early_stopping": early, **others}
        params.append(SamplingParams(temperature=0.0, max_tokens=LONGEST, n=n, stop_token_ids=ENDS[ends], **shape))
        wanted += theirs(model, [prompt], ENDS[ends], num_return_sequences=n, **shape)
    found = llm.generate(prompts, params)
    assert [answer.token_ids for answer in found] == [tokens for tokens, _ in wanted]
    np.testing.assert_allclose([answer.beam_score for answer in found], [score for _, score in wanted], rtol=1e-4, atol=1e-4)
    for answer in found:
        assert answer.finish_reason == "stop" or len(answer.token_ids) == LONGEST
    assert llm.counters().pages_used == 0


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    llms: list[LLM] = []

    def open_(model: LlamaForCausalLM, **options: Any) -> LLM:
        model.save_pretrained(tmp_path)
        llms.append(LLM(tmp_path, **{"kv_dtype": "f32", "context": 128, **options}))
        return llms[-1]

    yield open_
    for llm in llms:
        llm.close()


@pytest.mark.parametrize("seed", range(20))
def test_same_tokens_by_every_option(seed: int, opened: Any) -> None:
    model = model_of(seed)
    ops = {5: "reference", 10: "torch"}.get(seed, "native")
    cases = [CASES[(seed + 41 * step) % len(CASES)] for step in range(6)]
    assert_equal(opened(model, ops=ops), model, seed, cases, beams=2 + seed % 4, n=1 + seed % 2)


@pytest.mark.slow
@pytest.mark.parametrize("ops", ["native", "reference", "torch"])
@pytest.mark.parametrize("seed", range(20))
def test_same_tokens_by_every_option_together(seed: int, ops: str, opened: Any) -> None:
    model = model_of(100 + seed)
    assert_equal(opened(model, ops=ops), model, seed, CASES, beams=2 + seed % 5, n=1 + seed % 2)


def test_a_batch_of_prompts_of_several_lengths(opened: Any) -> None:
    model = model_of(3)
    llm, prompts = opened(model), prompts_of(5, 5)
    for penalty, early in product((0.0, 1.5), EARLY):
        shape = {"num_beams": 4, "length_penalty": penalty, "early_stopping": early}
        params = SamplingParams(temperature=0.0, max_tokens=LONGEST, n=4, stop_token_ids=[5, 9], **shape)
        found = llm.generate(prompts, params)
        wanted = theirs(model, prompts, [5, 9], num_return_sequences=4, **shape)
        assert [answer.token_ids for answer in found] == [tokens for tokens, _ in wanted]


FILTERS = [{"top_k": 1}, {"top_k": 9}, {"top_p": 0.0}, {"top_p": 0.5}, {"top_p": 0.999}, {"min_p": 0.3}]
FILTERS += [{"top_k": 30, "top_p": 0.7, "min_p": 0.1}]


@pytest.mark.parametrize("options", FILTERS)
@pytest.mark.parametrize("deviation", [0.1, 2.0, 9.0])
def test_each_beam_is_filtered_as_theirs(options: dict[str, Any], deviation: float) -> None:
    for seed, least in product(range(5), (2, 4)):
        scores = np.random.default_rng(seed).normal(0, deviation, 3000).astype(np.float32)
        params = SamplingParams(num_beams=3, temperature=0.7, **options)
        ids, kept = candidates(scores, params, 3 * least)
        theirs = torch.from_numpy(scores)[None] / 0.7
        if params.top_k:
            theirs = TopKLogitsWarper(params.top_k, min_tokens_to_keep=least)(None, theirs)
        if params.top_p < 1:
            theirs = TopPLogitsWarper(params.top_p, min_tokens_to_keep=least)(None, theirs)
        if params.min_p:
            theirs = MinPLogitsWarper(params.min_p, min_tokens_to_keep=least)(None, theirs)
        expected = np.flatnonzero(np.isfinite(theirs[0].numpy()))
        assert sorted(ids.tolist()) == expected.tolist()
        np.testing.assert_allclose(kept, theirs[0].numpy()[ids], rtol=1e-6)


DRAWS = [
    {"num_beams": 2},
    {"num_beams": 3, "temperature": 1.7, "length_penalty": 0.0},
    {"num_beams": 2, "top_k": 3, "temperature": 1.5, "early_stopping": True},
    {"num_beams": 2, "top_p": 0.8, "min_p": 0.05, "temperature": 2.0},
]


@pytest.mark.parametrize("options", DRAWS)
def test_drawn_beams_follow_the_same_law(options: dict[str, Any], opened: Any) -> None:
    """Both draw often, with fixed seeds: how often each answer comes must differ by no more than chance explains (a chi-square test)."""
    count, ends = 400, [2]
    model = model_of(2, vocab=7)
    llm = opened(model)
    shape = {"temperature": 1.0, "top_k": 0, **options}
    params = [SamplingParams(max_tokens=3, seed=seed, stop_token_ids=ends, **shape) for seed in range(count)]
    ours = Counter(tuple(answer.token_ids) for answer in llm.generate([[1, 3, 4]] * count, params))
    torch.manual_seed(0)
    shape["top_k"] = shape["top_k"] or 7
    answers = theirs(model, [[1, 3, 4]] * (4 * count), ends, do_sample=True, max_new_tokens=3, **shape)
    expected = Counter(tuple(tokens) for tokens, _ in answers)
    frequent = [answer for answer, times in expected.items() if times >= 30]
    found = np.array([*(ours[answer] for answer in frequent), count - sum(ours[answer] for answer in frequent)], float)
    wanted = np.array([*(expected[answer] for answer in frequent), 4 * count - sum(expected[answer] for answer in frequent)], float)
    together = (found + wanted) / (5 * count)
    distance = sum(((seen - total * together) ** 2 / (total * together)).sum() for seen, total in ((found, count), (wanted, 4 * count)))
    freedom = len(found) - 1
    assert freedom >= 4
    assert distance < freedom + 3.5 * np.sqrt(2 * freedom)  # its mean and standard deviation under the same law
