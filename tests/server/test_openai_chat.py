"""/v1/chat/completions through OpenAI's own client, against what `LLM` itself answers."""

from __future__ import annotations

from collections.abc import Iterator

import openai
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


def test_the_same_answer_as_the_library(client: openai.OpenAI, llm: LLM) -> None:
    expected = llm.chat(MESSAGES, GREEDY)
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == expected.usage.completion_tokens


def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI, llm: LLM) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == llm.chat(MESSAGES, GREEDY).text
    assert chunks[-1].usage.total_tokens > 0


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="there are: tiny"):
        client.models.retrieve("none")
