"""What people use: OpenAI's own client, sync, async and streaming, against what `LLM` itself answers."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import openai
import pydantic
import pytest
from server_process import Server

from linnet import LLM, SamplingParams

MESSAGES = [{"role": "user", "content": "What is 17 + 25?"}]
GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny") as llm:
        yield llm


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_beams_are_the_librarys(client: openai.OpenAI, llm: LLM) -> None:
    options = {"num_beams": 4, "length_penalty": 0.5, "early_stopping": "never"}
    expected = llm.generate("Once upon a", SamplingParams(temperature=0.0, n=3, max_tokens=12, **options))  # type: ignore[arg-type]
    answer = client.completions.create(model="tiny", prompt="Once upon a", temperature=0, n=3, max_tokens=12, extra_body=options)
    assert [choice.text for choice in answer.choices] == [completion.text for completion in expected]
    with pytest.raises(openai.BadRequestError, match="num_beams is 4, and a stream gives tokens as they come"):
        client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, extra_body=options)  # type: ignore[call-overload]


def test_the_same_answer_as_the_library(client: openai.OpenAI, llm: LLM) -> None:
    expected = llm.chat(MESSAGES, GREEDY)
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == expected.usage.completion_tokens
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens


def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI, llm: LLM) -> None:
    asked = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "stream": True}
    chunks = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == llm.chat(MESSAGES, GREEDY).text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (chunks[-1].choices, chunks[-2].choices[0].finish_reason) == ([], "stop")
    assert chunks[-1].usage.completion_tokens == client.chat.completions.create(**{**asked, "stream": False}).usage.completion_tokens
    assert all(chunk.usage is None for chunk in client.chat.completions.create(**asked))


def test_options_do_what_they_do_in_the_library(client: openai.OpenAI, llm: LLM) -> None:
    """Each of them alone, and Linnet's own beside OpenAI's."""
    own = {"top_k": 20, "min_p": 0.02, "repetition_penalty": 1.3, "ignore_eos": True, "min_tokens": 4, "stop_token_ids": [40]}
    cases = [
        {"seed": 7, "temperature": 0.9, "top_p": 0.8},
        {"seed": 7, "presence_penalty": 1.5, "frequency_penalty": -0.5},
        {"seed": 7, "stop": ["5", "="]},
        {"seed": 7, "stop": "1"},
        {"seed": 7, "logit_bias": {"27": -100.0, "30": 3.0}},
        {"seed": 7, "n": 3},
        {"seed": 2**63, **own},
    ]
    for case in cases:
        params = dict(case)
        if "logit_bias" in params:
            params["logit_bias"] = {int(token): bias for token, bias in params["logit_bias"].items()}
        expected = llm.generate([MESSAGES], SamplingParams(max_tokens=24, **params))
        extra = {name: value for name, value in case.items() if name in own}
        usual = {name: value for name, value in case.items() if name not in own}
        answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=24, **usual, extra_body=extra)
        assert [choice.message.content for choice in answer.choices] == [completion.text for completion in expected], case
        assert [choice.finish_reason for choice in answer.choices] == [completion.finish_reason for completion in expected]


def test_log_probabilities(client: openai.OpenAI, llm: LLM) -> None:
    expected = llm.chat(MESSAGES, SamplingParams(temperature=0, logprobs=3))
    asked = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**asked).choices[0].logprobs.content
    pieces = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(**asked, stream=True)]
    assert whole == [entry for piece in pieces if piece is not None for entry in piece.content]
    assert [entry.logprob for entry in whole] == [entry.logprob for entry in expected.logprobs]
    assert [[top.logprob for top in entry.top_logprobs] for entry in whole] == [[p for _, p in entry.top] for entry in expected.logprobs]
    assert b"".join(bytes(entry.bytes) for entry in whole).decode().startswith(expected.text)


def test_a_text_is_completed_and_echoed(client: openai.OpenAI, llm: LLM) -> None:
    text = "The capital of Italy is Rome."
    expected = llm.generate(text, SamplingParams(temperature=0, max_tokens=3, logprobs=2, prompt_logprobs=2))[0]
    asked = {"model": "tiny", "prompt": text, "temperature": 0, "max_tokens": 3, "logprobs": 2, "echo": True}
    choice = client.completions.create(**asked).choices[0]
    assert choice.text == text + expected.text
    wanted = [entry and entry.logprob for entry in expected.prompt_logprobs] + [entry.logprob for entry in expected.logprobs]
    assert choice.logprobs.token_logprobs == wanted
    for token, offset in zip(choice.logprobs.tokens[:-1], choice.logprobs.text_offset, strict=False):
        assert choice.text[offset:].startswith(token) or token == "<|end|>"
    chunks = [chunk.choices[0] for chunk in client.completions.create(**asked, stream=True)]
    assert "".join(chunk.text for chunk in chunks) == choice.text
    assert [p for chunk in chunks if chunk.logprobs for p in chunk.logprobs.token_logprobs] == wanted


def test_many_prompts_and_samples_at_once(client: openai.OpenAI, llm: LLM) -> None:
    prompts = ["The capital of Italy", "1 + 1 =", llm.tokenizer.encode("Once upon a time")]
    expected = [completion.text for completion in llm.generate(prompts, SamplingParams(seed=3, n=2, max_tokens=6))]
    as_ids = [llm.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    asked = {"model": "tiny", "prompt": as_ids, "seed": 3, "n": 2, "max_tokens": 6}
    answer = client.completions.create(**asked)
    assert [choice.text for choice in answer.choices] == expected
    assert [choice.index for choice in answer.choices] == list(range(6))
    texts = [""] * 6
    for chunk in client.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == expected
    assert client.completions.create(model="tiny", prompt="Once upon a time", seed=1).usage.completion_tokens <= 16


def test_a_prompt_that_was_seen_is_cached(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "prompt": "A story that nobody has told before: " + "a bird, " * 60, "max_tokens": 1}
    first, second = (client.completions.create(**asked).usage for _ in range(2))
    assert first.prompt_tokens_details.cached_tokens == 0
    assert 0 < second.prompt_tokens_details.cached_tokens < second.prompt_tokens


def test_sixty_four_streams_at_once_are_each_as_alone(server: Server, llm: LLM) -> None:
    prompts = [f"Item {i}: " + "a word, " * (i % 9) for i in range(64)]
    params = [SamplingParams(seed=i, max_tokens=4 + i % 20) for i in range(64)]
    expected = [completion.text for completion in llm.generate(prompts, params)]

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def ask(i: int) -> str:
                asked = {"model": "tiny", "prompt": prompts[i], "seed": i, "max_tokens": 4 + i % 20}
                if i % 2:
                    return (await client.completions.create(**asked)).choices[0].text
                return "".join([chunk.choices[0].text async for chunk in await client.completions.create(**asked, stream=True)])

            return list(await asyncio.gather(*map(ask, range(64))))

    assert asyncio.run(ask_all()) == expected


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="there are: tiny"):
        client.models.retrieve("none")


def test_answers_by_a_schema(client: openai.OpenAI) -> None:
    class Answer(pydantic.BaseModel):
        city: Literal["Rome", "Paris"]
        sure: bool

    question = [{"role": "user", "content": "What is the capital of Italy?"}]
    found = client.chat.completions.parse(model="tiny", messages=question, response_format=Answer, seed=1)
    assert isinstance(found.choices[0].message.parsed, Answer)
    asked = {"model": "tiny", "messages": question, "response_format": {"type": "json_object"}, "seed": 1, "max_tokens": 500}
    text = client.chat.completions.create(**asked)
    assert text.choices[0].finish_reason == "length" or isinstance(json.loads(text.choices[0].message.content), dict)
    forced = client.completions.create(model="tiny", prompt="x", extra_body={"regex": "[ab]{3}c"}).choices[0].text
    assert re.fullmatch("[ab]{3}c", forced)
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**{**asked, "response_format": bad})


def test_the_readme_works_as_printed(server: Server) -> None:
    section = (Path(__file__).parents[2] / "README.md").read_text().split("## Over HTTP")[1].split("\n## ")[0]
    section = section.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    curl = next(line.strip() for line in section.splitlines() if line.strip().startswith("curl "))
    code = section.split("```")[1].removeprefix("python")
    for command in (["sh", "-c", curl + " --silent"], [sys.executable, "-c", code]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert "17 + 25 = 42" in done.stdout, done.stderr
