"""What `LLM` answers, on the built-in model."""

from __future__ import annotations

import numpy as np
import pytest
from llm_cases import GREEDY, QUESTION, TINY, pool_is_whole

from linnet import LLM, InvalidRequestError, SamplingParams


def test_the_built_in_model_adds(llm: LLM) -> None:
    completion = llm.chat(QUESTION, GREEDY)
    assert completion.text.endswith("17 + 25 = 42")
    assert completion.finish_reason == "stop"
    assert completion.token_ids[-1] == 4
    assert completion.usage.prompt_tokens == len(completion.prompt_token_ids) == 12
    assert completion.usage.completion_tokens == len(completion.token_ids)
    assert completion.timings.first_token_s is not None
    assert 0 < completion.timings.first_token_s <= completion.timings.total_s
    assert completion.timings.tokens_per_s is not None
    assert "".join(c.text for c in llm.chat(QUESTION, GREEDY, stream=True)) == completion.text


def test_logits_scores_and_greedy_tokens_are_transformers(llm: LLM) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    ids = llm.chat(QUESTION, GREEDY)
    tokens = ids.prompt_token_ids + ids.token_ids
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].double().numpy()
    found = llm.logits(tokens)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    log_softmax = expected - np.log(np.exp(expected).sum(axis=1, keepdims=True))
    scores = llm.score(tokens)
    assert [s.token_id for s in scores] == tokens[1:]
    np.testing.assert_allclose([s.logprob for s in scores], log_softmax[np.arange(len(tokens) - 1), tokens[1:]], atol=5e-3)
    generated = model.generate(torch.tensor([ids.prompt_token_ids]), do_sample=False, max_new_tokens=60)[0].tolist()
    assert generated == tokens


def test_logprobs_agree_between_prompt_and_answer(llm: LLM) -> None:
    answer = llm.generate("The capital of", SamplingParams(max_tokens=8, temperature=0.7, seed=3, logprobs=4, ignore_eos=True))[0]
    scored = llm.generate([answer.prompt_token_ids + answer.token_ids], SamplingParams(max_tokens=0, prompt_logprobs=4))[0]
    assert (scored.text, scored.token_ids, scored.finish_reason) == ("", [], "length")
    assert scored.prompt_logprobs is not None
    assert scored.prompt_logprobs[0] is None
    assert scored.prompt_logprobs[len(answer.prompt_token_ids) :] == answer.logprobs
    chunks = list(llm.stream("The capital of", SamplingParams(max_tokens=8, temperature=0.7, seed=3, logprobs=4, ignore_eos=True)))
    assert [entry for c in chunks for entry in c.logprobs or []] == answer.logprobs


def test_trace_tells_candidates_and_choice(llm: LLM) -> None:
    steps = llm.trace(QUESTION, top=3, params=GREEDY)
    completion = llm.chat(QUESTION, GREEDY)
    assert [s.chosen.token_id for s in steps] == completion.token_ids
    assert [s.position for s in steps] == list(range(12, 12 + len(steps)))
    assert all(s.candidates[0] == s.chosen and len(s.candidates) == 3 for s in steps)
    assert "".join(s.chosen.text for s in steps[:-1]) == completion.text
    assert "".join(s.text for s in steps) == completion.text
    assert [s.completion is not None for s in steps] == [False] * (len(steps) - 1) + [True]
    assert list(llm.trace(QUESTION, top=3, params=GREEDY, stream=True))[-1].text == steps[-1].text


def test_trace_tells_what_the_prompt_might_have_been(llm: LLM) -> None:
    tokens = llm.tokenize("The capital of Italy is")
    params = SamplingParams(max_tokens=2, temperature=0.0, prompt_logprobs=4, logprobs=4)
    completion = llm.generate([tokens], params)[0]
    steps = llm.trace(tokens, top=4, params=params)
    assert completion.prompt_logprobs is not None
    assert completion.logprobs is not None
    told = [*completion.prompt_logprobs[1:], *completion.logprobs]
    assert [s.position for s in steps] == list(range(1, len(tokens) + 2))
    assert [s.in_prompt for s in steps] == [True] * (len(tokens) - 1) + [False, False]
    assert [(s.chosen.token_id, s.chosen.logprob, s.entropy) for s in steps] == [(e.token_id, e.logprob, e.entropy) for e in told if e]
    assert [[(c.token_id, c.logprob) for c in s.candidates] for s in steps] == [list(e.top) for e in told if e]
    scored = llm.trace(tokens, params=SamplingParams(max_tokens=0, prompt_logprobs=4))
    assert [s.chosen for s in scored] == [s.chosen for s in steps[:-2]]
    assert scored[-1].completion is not None
    assert llm.trace(tokens, params=SamplingParams(max_tokens=0)) == []


@pytest.mark.parametrize(("top", "options"), [(-1, {}), (1025, {}), (2.0, {}), (True, {}), (5, {"n": 2}), (5, {"logprobs": 3})])
def test_trace_refuses(native: LLM, top: int, options: dict[str, int]) -> None:
    with pytest.raises(InvalidRequestError, match=r"top is .* from 0 to 1024|n is 2, and trace follows|logprobs is 3, and a trace"):
        native.trace("x", top, SamplingParams(**options))  # type: ignore[arg-type]


def test_scoring_the_prompt_gives_one_completion_a_sample(native: LLM) -> None:
    completions = native.generate("Some text here", SamplingParams(max_tokens=0, n=2))
    assert [c.index for c in completions] == [0, 1]
    assert completions[0].prompt_logprobs == completions[1].prompt_logprobs
    assert [e.token_id for e in native.score("Some text here")] == completions[0].prompt_token_ids[1:]


def test_stop_texts_cut_everywhere_alike(llm: LLM) -> None:
    whole = llm.chat(QUESTION, GREEDY).text
    for stop in (" = 12", "so 17 +", "4, s", "42", whole[0]):
        params = SamplingParams(temperature=0.0, max_tokens=60, stop=[stop, "never"])
        cut = llm.chat(QUESTION, params)
        assert cut.text == whole[: whole.index(stop)]
        assert cut.finish_reason == "stop"
        assert "".join(c.text for c in llm.chat(QUESTION, params, stream=True)) == cut.text
    late = llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=60, stop="=", min_tokens=20))
    position = whole.index("=", len(llm.tokenizer.decode(late.token_ids[:20])))  # type: ignore[union-attr]
    assert late.text == whole[:position]


def test_min_tokens_stop_ids_and_ignored_end(llm: LLM) -> None:
    plain = llm.chat(QUESTION, GREEDY)
    longer = llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=60, min_tokens=50))
    assert len(longer.token_ids) >= 50
    assert 4 not in longer.token_ids[:50]
    ignored = llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True))
    assert ignored.token_ids[: len(plain.token_ids)] == plain.token_ids
    assert len(ignored.token_ids) == 60
    stop_id = plain.token_ids[10]
    stopped = llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=60, stop_token_ids=[stop_id]))
    assert stopped.token_ids == plain.token_ids[: plain.token_ids.index(stop_id) + 1]
    assert stopped.text == llm.tokenizer.decode(stopped.token_ids[:-1])  # type: ignore[union-attr]


def test_own_sampling_functions(llm: LLM) -> None:
    plain = llm.chat(QUESTION, GREEDY)
    assert llm.chat(QUESTION, SamplingParams(max_tokens=60, choose=lambda logits: logits.argmax())).token_ids == plain.token_ids
    banned = plain.token_ids[0]

    def ban(token_ids: list[int], logits: np.ndarray) -> np.ndarray:
        assert token_ids[:12] == plain.prompt_token_ids
        logits[banned] = -np.inf
        return logits

    assert banned not in llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=60, logits_processor=ban)).token_ids


def test_a_closed_stream_frees_its_pages(native: LLM) -> None:
    stream = native.stream("Hello", SamplingParams(max_tokens=500, ignore_eos=True))
    next(stream)
    assert not pool_is_whole(native)
    stream.close()
    assert pool_is_whole(native)
    dropped = native.stream("Hello", SamplingParams(max_tokens=500, ignore_eos=True))
    next(dropped)
    del dropped
    assert pool_is_whole(native)
    native.stream("Hello")  # never started: never submitted
    assert pool_is_whole(native)


def test_a_failing_prompt_gives_the_others_up(native: LLM) -> None:
    def boom(token_ids: list[int], logits: np.ndarray) -> np.ndarray:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        native.generate(["a", "b"], [SamplingParams(max_tokens=500, ignore_eos=True), SamplingParams(logits_processor=boom)])
    assert pool_is_whole(native)
