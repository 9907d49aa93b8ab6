"""Beams and text: stop texts as in transformers, constraints in every beam, and by name what does not go with them."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from llm_cases import TINY, pool_is_whole
from tool_cases import ANSWERS, TEMPLATES, USER, WEATHER
from transformers import AutoModelForCausalLM, AutoTokenizer

from linnet import LLM, InvalidRequestError, SamplingParams

PROMPTS = ["The capital of Italy is", "Once upon a time", "17 + 25 = ", "A list: one, two,"]
BEAMS = SamplingParams(temperature=0.0, num_beams=4, n=2, max_tokens=24)


@pytest.mark.parametrize(("prompt", "stop"), list(zip(PROMPTS, (["."], ["e t", "\n"], ["an", ","], [" a"]), strict=True)))
def test_stop_texts_end_beams_as_in_transformers(prompt: str, stop: list[str], native: LLM) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(TINY)
    ids = native.tokenize(prompt)
    options: dict[str, Any] = {"num_beams": 4, "length_penalty": 0.3, "early_stopping": "never"}
    with torch.no_grad():
        found = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            do_sample=False,
            num_return_sequences=2,
            max_new_tokens=24,
            stop_strings=stop,
            tokenizer=tokenizer,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    mine = native.generate(ids, SamplingParams(temperature=0.0, n=2, max_tokens=24, stop=stop, **options))
    for answer, row, score in zip(mine, found.sequences[:, len(ids) :].tolist(), found.sequences_scores.tolist(), strict=True):
        assert answer.token_ids == row[: len(answer.token_ids)]
        assert answer.beam_score == pytest.approx(score, abs=5e-3)
        assert (answer.stop_text in stop) == (answer.finish_reason == "stop" and answer.token_ids[-1] != 4)
        assert not any(text in answer.text for text in stop)


def test_answers_are_whole_and_best_first(llm: LLM) -> None:
    answers = llm.generate(PROMPTS, BEAMS)
    assert len(answers) == 2 * len(PROMPTS)
    for first, second in zip(answers[::2], answers[1::2], strict=True):
        assert first.beam_score is not None
        assert second.beam_score is not None
        assert first.beam_score >= second.beam_score
        assert (first.index, second.index) == (0, 1)
        assert first.token_ids != second.token_ids
        assert llm.tokenizer is not None
        for answer in (first, second):
            ended = answer.finish_reason == "stop"
            assert answer.text == llm.tokenizer.decode(answer.token_ids[: len(answer.token_ids) - ended])
    [chat] = llm.generate([[{"role": "user", "content": "What is 17 + 25?"}]], SamplingParams(temperature=0.0, num_beams=4))
    assert llm.chat([{"role": "user", "content": "What is 17 + 25?"}], SamplingParams(temperature=0.0, num_beams=4)).text == chat.text
    assert chat.text.endswith("17 + 25 = 42")
    assert pool_is_whole(llm)


def test_handles_have_all_at_the_end(native: LLM) -> None:
    expected = [answer.token_ids for answer in native.generate(PROMPTS[0], BEAMS)]
    handle = native.submit(PROMPTS[0], BEAMS)
    chunks = list(handle)
    assert [[token for chunk in chunks if chunk.index == index for token in chunk.token_ids] for index in (0, 1)] == expected
    assert [answer.token_ids for answer in handle.result()] == expected
    assert [answer.token_ids for answer in asyncio.run(native.submit(PROMPTS[0], BEAMS).aresult())] == expected
    native.submit(PROMPTS[1], BEAMS).cancel()
    assert pool_is_whole(native)


def test_every_beam_keeps_to_a_constraint(native: LLM) -> None:
    pytest.importorskip("llguidance", reason="pip install '.[constraints]'")
    choices = ["yes", "no", "maybe", "no idea"]
    for temperature in (0.0, 1.5):
        params = SamplingParams(temperature=temperature, num_beams=6, n=6, seed=1, choice=choices, early_stopping="never")
        answers = native.generate("Is the sky blue? ", params)
        assert 2 <= len(answers) <= 6
        assert {answer.text for answer in answers} <= set(choices)
        assert len({tuple(answer.token_ids) for answer in answers}) == len(answers)
    pattern = SamplingParams(temperature=0.0, num_beams=3, n=3, regex="[a-z]{3} [0-9]{2}!", length_penalty=0.0)
    answers = native.generate("It says ", pattern)
    assert answers
    assert all(re.fullmatch("[a-z]{3} [0-9]{2}!", answer.text) for answer in answers)
    greedy = native.generate("It says ", SamplingParams(temperature=0.0, regex="[a-z]{3} [0-9]{2}!", logprobs=0))[0]
    assert greedy.logprobs is not None
    assert answers[0].beam_score >= sum(entry.logprob for entry in greedy.logprobs) - 1e-4  # type: ignore[operator]
    assert pool_is_whole(native)


def test_answers_differ_by_tokens_and_not_by_text(native: LLM) -> None:
    pytest.importorskip("llguidance", reason="pip install '.[constraints]'")
    params = SamplingParams(temperature=0.0, num_beams=4, n=4, choice=["Rome", "Paris"], early_stopping="never")
    answers = native.generate(PROMPTS[0], params)
    assert len({tuple(answer.token_ids) for answer in answers}) == len(answers) == 4
    assert len({answer.text for answer in answers}) <= 2


@pytest.mark.parametrize("format", TEMPLATES)
def test_the_first_call_ends_a_beam(format: str) -> None:
    with LLM("tiny", chat_template=TEMPLATES[format]) as llm:
        assert llm.tokenizer is not None
        script = [*llm.tokenizer.encode(ANSWERS[format], bos=False), *[llm.tokenizer.eos_id] * 9]
        start = len(llm.chat(USER, SamplingParams(max_tokens=1), tools=[WEATHER]).prompt_token_ids)

        def follow(tokens: list[int], logits: Any) -> Any:
            logits[script[len(tokens) - start]] = 1e4
            return logits

        asked = partial(llm.chat, USER, tools=[WEATHER])
        greedy = SamplingParams(temperature=0.0, max_tokens=len(script), logits_processor=follow)
        beams = replace(greedy, num_beams=2)
        assert len(asked(beams).tool_calls) == 2
        alone, first = (asked(params, parallel_tool_calls=False) for params in (greedy, beams))
        assert [(call.name, call.arguments) for call in first.tool_calls] == [("get_weather", {"city": "Bern"})]
        assert (first.token_ids, first.text, first.finish_reason) == (alone.token_ids, alone.text, "tool_calls")
        stopped = asked(replace(beams, stop="Bern"), parallel_tool_calls=False)
        assert (stopped.tool_calls, stopped.stop_text) == ([], "Bern")
        assert pool_is_whole(llm)


def test_what_gives_tokens_as_they_come_refuses_beams(native: LLM) -> None:
    message = "num_beams is 4, and a {} gives tokens as they come: beams are known at the end; leave num_beams out, or {}"
    one = SamplingParams(num_beams=4)
    for refused, named in (
        (lambda: native.stream("a", BEAMS), ("stream", "ask without stream")),
        (lambda: native.chat([{"role": "user", "content": "a"}], one, stream=True), ("stream", "ask without stream")),
        (lambda: native.trace("a", 3, one), ("trace", "call generate with logprobs")),
    ):
        with pytest.raises(InvalidRequestError, match=message.format(*named)):
            refused()
    with pytest.raises(InvalidRequestError, match="num_beams is 17 and max_batch 16"):
        native.generate("a", SamplingParams(num_beams=17))
