"""Tokens drawn on the device: the same as by the reference's sampler, for any logits and options, with no logits brought to the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet import LLM, SamplingParams
from linnet.engine.sampling import Sampler
from linnet.errors import InvalidRequestError
from linnet.ops.reference import ReferenceOps
from linnet.ops.torch.draw import TorchLogits

VOCAB = 60
ENDS = (3, 41)

options = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([0, 1, 7, 2 * VOCAB]),
        "top_p": st.sampled_from([1.0, 0.9, 0.3, 1e-6]),
        "min_p": st.sampled_from([0.0, 0.1, 1.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "presence_penalty": st.sampled_from([0.0, 0.7]),
        "frequency_penalty": st.sampled_from([0.0, -0.4]),
        "no_repeat_ngram_size": st.sampled_from([0, 1, 2]),
        "logit_bias": st.sampled_from([{}, {5: 3.0, 3: -100.0}]),
        "min_tokens": st.sampled_from([0, 4]),
        "max_tokens": st.just(20),
    }
)


@settings(max_examples=40, deadline=None)
@given(given=st.lists(options, min_size=1, max_size=5), seed=st.integers(0, 2**32), coarse=st.booleans(), steps=st.integers(1, 5))
def test_tokens_are_those_of_the_reference(given: list[dict[str, Any]], seed: int, coarse: bool, steps: int) -> None:
    random = np.random.default_rng(seed)
    prompts = [random.integers(0, VOCAB, 6).tolist() for _ in given]

    def samplers() -> list[Sampler]:
        return [Sampler(ReferenceOps(), SamplingParams(**o), seed, i, prompts[i], ENDS) for i, o in enumerate(given)]  # type: ignore[arg-type]

    theirs, ours = samplers(), samplers()
    texts = [list(prompt) for prompt in prompts]
    for made in range(steps):
        logits = (3 * random.standard_normal((2 * len(given), VOCAB))).astype(np.float32)
        logits = logits.round() if coarse else logits  # whose ties go to the smaller id
        draws = [sampler.draw(len(text), made) for sampler, text in zip(ours, texts, strict=True)]
        rows = range(1, 2 * len(given), 2)
        drawn = TorchLogits(torch.from_numpy(logits.copy())).draw(rows, draws)  # type: ignore[arg-type]
        for sampler, text, row, token, own in zip(theirs, texts, rows, drawn, ours, strict=True):
            assert token == sampler.next_token(logits[row], text, made)
            text.append(own.take(token))


def test_what_cannot_be_drawn_from_is_said() -> None:
    plain = Sampler(ReferenceOps(), SamplingParams(temperature=0.8), 0, 0, [1], ENDS).draw(1, 0)
    assert plain is not None
    for bad in (float("nan"), float("inf")):
        logits = torch.randn(3, VOCAB)
        logits[1, 7] = bad
        assert [token >= 0 for token in TorchLogits(logits).draw([0, 1, 2], [plain] * 3)] == [True, False, True]
    with LLM("tiny", ops="torch") as llm:
        nothing = dict.fromkeys(range(llm.spec.vocab_size), -1e39)  # past float32
        with pytest.raises(InvalidRequestError, match=r"logit_bias.* left no token to choose from"):
            llm.generate("Once", SamplingParams(max_tokens=2, logit_bias=nothing))


PROMPTS = ["What is 3 + 4?", "The capital of", "Once upon a time there was"]
ASKED = [
    SamplingParams(max_tokens=20, temperature=0.0, repetition_penalty=1.2),
    SamplingParams(max_tokens=20, temperature=1.0, top_p=0.95, seed=5, n=2, frequency_penalty=0.2),
    SamplingParams(max_tokens=20, temperature=0.7, top_k=40, min_p=0.02, seed=6, min_tokens=15),
]


def test_logits_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM("tiny", kv_dtype="f32") as llm:
        expected = [[c.token_ids for c in llm.generate([prompt], params)] for prompt, params in zip(PROMPTS, ASKED, strict=True)]
    copied: list[int] = []
    host = TorchLogits.host
    monkeypatch.setattr(TorchLogits, "host", lambda self: copied.append(len(self)) or host(self))
    with LLM("tiny", ops="torch", kv_dtype="f32") as llm:
        handles = [llm.submit(prompt, params) for prompt, params in zip(PROMPTS, ASKED, strict=True)]
        assert [[c.token_ids for c in handle.result()] for handle in handles] == expected
        assert not copied
        llm.generate(PROMPTS[0], SamplingParams(max_tokens=5, temperature=0.0, logprobs=2, ignore_eos=True))
        assert copied == [1] * 5


def test_guesses_are_drawn_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "One two three four five six seven. " * 4
    params = SamplingParams(max_tokens=24, temperature=0.9, seed=2, ignore_eos=True)
    with LLM("tiny", ops="torch", kv_dtype="f32") as llm:
        [expected] = llm.generate(text, params)
        monkeypatch.setattr(llm.engine.speculator.costs, "is_known", lambda rows: True)
        monkeypatch.setattr(llm.engine.speculator.costs, "seconds", lambda rows: 1.0)
        monkeypatch.setattr(TorchLogits, "host", None)
        guessing = SamplingParams(**{**vars(params), "speculation": "lookup"})
        assert llm.generate(text, guessing)[0].token_ids == expected.token_ids
        assert llm.counters().drafted_tokens > 0
