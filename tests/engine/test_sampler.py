"""Sampling against NumPy's Philox and transformers' logits processors and warpers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from linnet.engine.params import SamplingParams
from linnet.engine.sampling import Sampler, largest, philox, token_logprob, uniform
from linnet.errors import InvalidRequestError
from linnet.ops.reference import ReferenceOps

VOCAB = 97


def random_logits(seed: int) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal(VOCAB)).astype(np.float32)


@pytest.mark.parametrize("key", [(0, 0), (1, 2), (2**64 - 1, 255), (0x0123456789ABCDEF, 7)])
@pytest.mark.parametrize("counter", [1, 2, 1000, 2**63, 2**64 - 1, 2**64, 2**100])
def test_philox_is_numpys(key: tuple[int, int], counter: int) -> None:
    numpys = np.random.Philox(key=key[0] | key[1] << 64, counter=counter - 1)  # it counts up before it draws
    assert philox(counter, key) == int(numpys.random_raw())
    numpys = np.random.Philox(key=key[0] | key[1] << 64, counter=counter - 1)
    assert uniform(key[0], key[1], counter) == np.random.Generator(numpys).random()


def test_uniform_is_uniform_and_differs_by_seed_sample_and_position() -> None:
    draws = [uniform(seed, sample, position) for seed in range(10) for sample in range(10) for position in range(100)]
    assert len(set(draws)) == len(draws)
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    assert (np.abs(counts - 500) < 5 * np.sqrt(500)).all()


class Adjusted(Exception):  # noqa: N818
    """Carries the adjusted logits out of the sampler."""


class CaptureOps(ReferenceOps):
    def sample(self, logits: Any, *options: float) -> int:
        raise Adjusted(logits.copy())


def adjusted(logits: np.ndarray, prompt: list[int], answer: list[int], **options: Any) -> np.ndarray:
    """Logits as they reach the op set's draw, after `answer` was generated from `prompt`."""
    ops = CaptureOps()
    sampler = Sampler(ops, SamplingParams(**options), 0, 0, prompt, [])
    for token in answer:
        sampler.take(token)
    before = logits.copy()
    with pytest.raises(Adjusted) as caught:
        sampler.next_token(logits, prompt + answer, len(answer))
    assert (logits == before).all()
    result: np.ndarray = caught.value.args[0]
    return result


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_forbidden_runs_are_transformers(size: int) -> None:
    """With a small alphabet, so that runs come back; at every length, the empty answer and prompts shorter than a run included."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokens = [int(token) for token in np.random.default_rng(size).integers(0, 5, 60)]
    for seed, (prompt, length) in enumerate([(0, 1), (1, 1), (2, 5), (5, 6), (5, 60), (40, 40), (59, 60)]):
        expected = torch.tensor(random_logits(seed))[None]
        expected = transformers.NoRepeatNGramLogitsProcessor(size)(torch.tensor([tokens[:length]]), expected)
        found = adjusted(random_logits(seed), tokens[:prompt], tokens[prompt:length], no_repeat_ngram_size=size)
        np.testing.assert_array_equal(found, expected[0].numpy())


@pytest.mark.parametrize("penalty", [0.7, 1.1, 2.0])
def test_repetition_penalty_is_transformers(penalty: float) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for seed in range(5):
        tokens = np.random.default_rng(seed).integers(0, VOCAB, 150).tolist()
        expected = transformers.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([tokens]), torch.tensor(random_logits(seed))[None])
        found = adjusted(random_logits(seed), tokens[:40], tokens[40:], repetition_penalty=penalty)
        np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-6)


def test_presence_and_frequency_penalties_count_the_answer_only() -> None:
    prompt, answer = [1, 2, 3, 3], [3, 3, 4, 1]
    logits = random_logits(0)
    expected = logits.astype(np.float64)
    for token, count in Counter(answer).items():
        expected[token] -= 0.7 + 0.4 * count
    np.testing.assert_allclose(adjusted(logits, prompt, answer, presence_penalty=0.7, frequency_penalty=0.4), expected, rtol=1e-5)


def test_bias_comes_before_penalties_and_penalties_before_the_processor() -> None:
    logits = np.full(VOCAB, -1.0, np.float32)
    found = adjusted(
        logits,
        [5],
        [5],
        logit_bias={5: 3.0, 6: 2.0},
        repetition_penalty=2.0,
        presence_penalty=0.25,
        logits_processor=lambda tokens, values: values * 10,
    )
    assert found[5] == 7.5  # ((-1 + 3) / 2 - 0.25) * 10
    assert found[6] == 10.0
    assert found[7] == -10.0


@pytest.mark.parametrize(
    "options", [{"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}, {"top_k": 20, "top_p": 0.9, "min_p": 0.05}, {"top_p": 1e-6}]
)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.8])
def test_filters_and_draw_follow_transformers_warpers(options: dict[str, Any], temperature: float) -> None:
    """The warped distribution's running sum, over tokens from the likeliest on, inverted at our uniform number."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    warpers = [transformers.TemperatureLogitsWarper(temperature)]
    if "top_k" in options:
        warpers.append(transformers.TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        warpers.append(transformers.TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        warpers.append(transformers.MinPLogitsWarper(options["min_p"]))
    for seed in range(40):
        scores = torch.tensor(random_logits(seed), dtype=torch.float64)[None]
        for warper in warpers:
            scores = warper(torch.zeros((1, 1), dtype=torch.long), scores)
        probabilities = torch.softmax(scores[0], 0).numpy()
        order = np.argsort(-random_logits(seed), kind="stable")
        position = 10
        draw = uniform(seed, 0, position)
        sums = np.cumsum(probabilities[order])
        if np.abs(sums - draw).min() < 1e-9:
            continue
        expected = int(order[np.searchsorted(sums, draw, side="right")])
        sampler = Sampler(ReferenceOps(), SamplingParams(temperature=temperature, **options), seed, 0, [1], [])
        assert sampler.next_token(random_logits(seed), [1] * position, position - 1) == expected


def test_extremes_still_choose() -> None:
    logits = random_logits(3)
    best = int(logits.argmax())
    for options in (
        {"temperature": 0.0},
        {"temperature": 1e-30},
        {"top_k": 1},
        {"top_p": 0.0},
        {"min_p": 1.0},
        {"top_k": 1, "temperature": 100.0},
    ):
        assert Sampler(ReferenceOps(), SamplingParams(**options), 1, 0, [1], []).next_token(logits, [1], 0) == best
    for options in ({"top_k": 10**30}, {"temperature": 100.0}, {"logit_bias": {4: -1e38}}):
        assert 0 <= Sampler(ReferenceOps(), SamplingParams(**options), 1, 0, [1], []).next_token(logits, [1], 0) < VOCAB


@pytest.mark.filterwarnings("error")
def test_a_bias_past_float32_is_infinite_without_a_word() -> None:
    logits = random_logits(3)
    best = int(logits.argmax())
    assert (
        Sampler(ReferenceOps(), SamplingParams(temperature=0.0, logit_bias={best: -1e300}), 1, 0, [1], []).next_token(logits, [1], 0)
        != best
    )


@pytest.mark.parametrize(
    ("given", "message"), [(None, "gave None"), ("text", "gave a str"), ([1.0, 2.0], r"shape \(2,\)"), ([["a"]], "gave a list")]
)
def test_what_a_logits_processor_must_give(given: Any, message: str) -> None:
    sampler = Sampler(ReferenceOps(), SamplingParams(logits_processor=lambda tokens, logits: given), 1, 0, [1], [])
    with pytest.raises(InvalidRequestError, match=message):
        sampler.next_token(random_logits(3), [1], 0)


def test_ties_go_to_the_smaller_id() -> None:
    logits = np.zeros(VOCAB, np.float32)
    logits[[80, 20, 50]] = 2.0
    assert Sampler(ReferenceOps(), SamplingParams(temperature=0.0), 1, 0, [1], []).next_token(logits, [1], 0) == 20
    assert largest(logits, 2).tolist() == [20, 50]
    assert largest(logits, 5).tolist() == [20, 50, 80, 0, 1]
    assert largest(logits, 1000).tolist() == [20, 50, 80, *(i for i in range(VOCAB) if i not in (20, 50, 80))]
    assert largest(logits, 0).tolist() == []


def test_logprob_of_extreme_logits() -> None:
    logits = np.array([0.0, 1000.0, -np.inf], np.float32)
    entry = token_logprob(logits, 0, 3)
    assert entry.logprob == -1000.0
    assert entry.top == ((1, 0.0), (0, -1000.0), (2, -np.inf))
    assert entry.entropy == 0.0


def test_entropy_is_that_of_torch_in_bits() -> None:
    torch = pytest.importorskip("torch")
    for logits in (random_logits(3), 5 * random_logits(4), np.zeros(VOCAB, np.float32), np.array([0, 3, -np.inf], np.float32)):
        expected = torch.distributions.Categorical(logits=torch.tensor(logits, dtype=torch.float64)).entropy() / np.log(2)
        assert token_logprob(logits, 1, 0).entropy == pytest.approx(expected.item(), abs=1e-9)


def test_penalty_state_grows_past_its_first_size() -> None:
    logits = np.zeros(1000, np.float32)
    sampler = Sampler(ReferenceOps(), SamplingParams(temperature=0.0, presence_penalty=1.0), 0, 0, [], [])
    tokens: list[int] = []
    for _ in range(1000):
        tokens.append(sampler.next_token(logits, tokens, len(tokens)))
    assert tokens == list(range(1000))
