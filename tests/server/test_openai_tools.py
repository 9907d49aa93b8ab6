"""Tools in /v1/chat/completions and /v1/responses, and /v1/embeddings, through OpenAI's own client."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from scripted import BROKEN, CALLING, SCHEMA, ScriptedService, ask

from linnet import LLM

Client = openai.AsyncOpenAI
USER: Any = [{"role": "user", "content": "Weather?"}]
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "description": "Tells.", "parameters": SCHEMA}}]
FLAT_TOOLS: Any = [{"type": "function", "name": "get_weather", "description": "Tells.", "parameters": SCHEMA, "strict": None}]


def openai_ask(use: Callable[[Client, ScriptedService], Awaitable[Any]], answer: str = CALLING, **options: Any) -> Any:
    async def with_client(app: Any, service: ScriptedService) -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as connection:
            return await use(Client(base_url="http://127.0.0.1/v1", api_key="none", max_retries=0, http_client=connection), service)

    return ask(with_client, answer, **options)


# ---- chat completions
def test_chat_calls_tools_and_reads_their_results() -> None:
    async def use(client: Client, service: ScriptedService) -> None:
        asked = await client.chat.completions.create(model="tiny", messages=USER, tools=TOOLS)
        [choice] = asked.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me see."
        calls = choice.message.tool_calls or []
        assert [(call.type, call.function.name, json.loads(call.function.arguments)) for call in calls] == [  # type: ignore[union-attr]
            ("function", "get_weather", {"city": "Bern"})
        ] * 2
        results: Any = [{"role": "tool", "tool_call_id": call.id, "content": f"rain {i}"} for i, call in enumerate(calls)]
        service.answer = "It rains."
        answer = await client.chat.completions.create(model="tiny", messages=[*USER, choice.message, *results], tools=TOOLS)
        assert answer.choices[0].message.content == "It rains."
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].finish_reason == "stop"
        assert "rain 0" in service.prompts[-1]
        assert "rain 1" in service.prompts[-1]
        assert '"arguments": {"city": "Bern"}' in service.prompts[-1]

    openai_ask(use)


def test_chat_streams_calls() -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        async with client.chat.completions.stream(model="tiny", messages=USER, tools=TOOLS) as stream:
            kinds = [event.type async for event in stream]
            whole = await stream.get_final_completion()
        assert kinds.count("tool_calls.function.arguments.done") == 2
        assert kinds.count("tool_calls.function.arguments.delta") > 6
        message = whole.choices[0].message
        assert message.content == "Let me see."
        assert [json.loads(call.function.arguments) for call in message.tool_calls or []] == [{"city": "Bern"}] * 2
        assert whole.choices[0].finish_reason == "tool_calls"

    openai_ask(use)


def test_one_call_at_a_time() -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        chat = await client.chat.completions.create(model="tiny", messages=USER, tools=TOOLS, parallel_tool_calls=False)
        assert chat.choices[0].finish_reason == "tool_calls"
        assert len(chat.choices[0].message.tool_calls or []) == 1
        response = await client.responses.create(model="tiny", input="Weather?", tools=FLAT_TOOLS, parallel_tool_calls=False)
        assert [item.type for item in response.output] == ["message", "function_call"]
        assert response.parallel_tool_calls is False
        assert response.status == "completed"

    openai_ask(use)


def test_chat_without_calls_and_with_one_that_breaks_off() -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        answer = await client.chat.completions.create(model="tiny", messages=USER, tools=TOOLS)
        assert (answer.choices[0].message.content, answer.choices[0].message.tool_calls) == (BROKEN, None)
        assert answer.choices[0].finish_reason == "stop"

    openai_ask(use, BROKEN)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "or name one of get_weather"),
        ({"tools": [{"type": "web_search"}]}, r"tools\[0\] must be"),
        ({"tools": TOOLS * 2}, "two tools called 'get_weather'"),
        ({"messages": [*USER, {"role": "tool", "tool_call_id": "x", "content": "y"}]}, "no message with tool_calls stands before it"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_chat_refuses(options: dict[str, Any], says: str, stream: bool) -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        with pytest.raises(openai.BadRequestError, match=says):
            await client.chat.completions.create(**{"model": "tiny", "messages": USER, "stream": stream, **options})

    openai_ask(use)


def test_a_history_whose_arguments_are_cut_off_is_refused_and_the_next_request_runs() -> None:
    cut = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Be'}}

    async def use(client: Client, _: ScriptedService) -> None:
        messages = [*USER, {"role": "assistant", "tool_calls": [cut]}, {"role": "tool", "tool_call_id": "a", "content": "x"}]
        with pytest.raises(openai.BadRequestError, match="its arguments are no JSON object"):
            await client.chat.completions.create(model="tiny", messages=messages)
        assert (await client.chat.completions.create(model="tiny", messages=USER)).choices

    openai_ask(use, "Yes.")


# ---- responses
def test_responses_text() -> None:
    async def use(client: Client, service: ScriptedService) -> None:
        answer = await client.responses.create(model="tiny", input="Hello", instructions="Be brief.", metadata={"a": "b"})
        assert answer.output_text == "It rains."
        assert (answer.status, answer.error, answer.metadata, answer.instructions) == ("completed", None, {"a": "b"}, "Be brief.")
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
        assert "Be brief." in service.prompts[-1]
        again: Any = [
            {"role": "user", "content": "Hello"},
            *answer.output,
            {"role": "user", "content": [{"type": "input_text", "text": "Go on"}]},
        ]
        await client.responses.create(model="tiny", input=again)
        assert "It rains.<|end|><|user|>Go on" in service.prompts[-1]
        short = await client.responses.create(model="tiny", input="Hello", max_output_tokens=2)
        assert short.status == "incomplete"
        assert short.incomplete_details is not None
        assert short.incomplete_details.reason == "max_output_tokens"

    openai_ask(use, "It rains.")


def test_responses_call_functions_and_read_their_results() -> None:
    async def use(client: Client, service: ScriptedService) -> None:
        asked = await client.responses.create(model="tiny", input=USER, tools=FLAT_TOOLS)
        assert [item.type for item in asked.output] == ["message", "function_call", "function_call"]
        calls: Any = [item for item in asked.output if item.type == "function_call"]
        assert [(call.name, json.loads(call.arguments), call.status) for call in calls] == [
            ("get_weather", {"city": "Bern"}, "completed")
        ] * 2
        results: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": f"rain {i}"} for i, call in enumerate(calls)]
        service.answer = "It rains."
        answer = await client.responses.create(model="tiny", input=[*USER, *asked.output, *results], tools=FLAT_TOOLS)
        assert answer.output_text == "It rains."
        assert "rain 1" in service.prompts[-1]
        assert service.prompts[-1].count("Let me see.") == 1

    openai_ask(use)


@pytest.mark.parametrize(("answer", "types"), [(CALLING, ["message", "function_call", "function_call"]), ("It rains.", ["message"])])
def test_responses_stream(answer: str, types: list[str]) -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        whole = await client.responses.create(model="tiny", input=USER, tools=FLAT_TOOLS)
        async with client.responses.stream(model="tiny", input=USER, tools=FLAT_TOOLS) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        assert [event.sequence_number for event in events if hasattr(event, "sequence_number")] == list(range(len(events)))
        assert [events[0].type, events[1].type, events[-1].type] == ["response.created", "response.in_progress", "response.completed"]
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == final.output_text == whole.output_text
        assert [item.type for item in final.output] == types
        for kind in ("response.output_item.added", "response.output_item.done"):
            assert [event.item.type for event in events if event.type == kind] == types  # type: ignore[union-attr]
        arguments = [event.arguments for event in events if event.type == "response.function_call_arguments.done"]
        assert arguments == ['{"city": "Bern"}'] * types.count("function_call")

    openai_ask(use, answer)


def test_responses_say_of_a_call_that_broke_off() -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        answer = await client.responses.create(model="tiny", input=USER, tools=FLAT_TOOLS)
        assert [item.type for item in answer.output] == ["message"]
        assert answer.output_text == BROKEN
        stream = await client.responses.create(model="tiny", input=USER, tools=FLAT_TOOLS, stream=True)
        final = [event async for event in stream][-1].response  # type: ignore[union-attr]
        assert [(item.type, item.status) for item in final.output] == [("function_call", "incomplete"), ("message", "completed")]
        assert final.output_text == BROKEN

    openai_ask(use, BROKEN)


@pytest.mark.parametrize(("answer", "kind"), [("It rains.", "message"), (BROKEN, "function_call")])
def test_a_response_that_fails_midway(answer: str, kind: str) -> None:
    """OpenAI's client takes the event for one of its own, and gives what came until then."""

    async def use(client: Client, service: ScriptedService) -> None:
        service.fails = True
        stream = await client.responses.create(model="tiny", input=USER, tools=FLAT_TOOLS, stream=True)
        events = [event async for event in stream]
        last: Any = events[-1]
        assert [event.sequence_number for event in events] == list(range(len(events)))  # type: ignore[union-attr]
        assert (last.type, last.response.status, last.response.error.code) == ("response.failed", "failed", "server_error")
        assert last.response.error.message.startswith("the server failed at this request")
        assert [(item.type, item.status) for item in last.response.output] == [(kind, "incomplete")]
        assert last.response.output_text == (answer if kind == "message" else "")
        with pytest.raises(openai.InternalServerError):
            await client.responses.create(model="tiny", input=USER, tools=FLAT_TOOLS)

    openai_ask(use, answer)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"store": True}, "keeps nothing between requests"),
        ({"previous_response_id": "resp_1"}, "send the whole conversation"),
        ({"background": True}, "background: Input should be False"),
        ({"input": []}, "input"),
        ({"input": [{"type": "reasoning", "id": "x", "summary": []}]}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "no message with tool_calls stands before it"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"truncation": "auto"}, "truncation"),
        ({"model": "other"}, "there is no model 'other'"),
    ],
)
def test_responses_refuse(options: dict[str, Any], says: str) -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        with pytest.raises(openai.APIStatusError, match=says) as raised:
            await client.responses.create(**{"model": "tiny", "input": "Hello", **options})
        assert raised.value.status_code in (400, 404)

    openai_ask(use)


# ---- embeddings
def test_embeddings_are_those_of_the_library() -> None:
    texts = ["What is 17 + 25?", "The capital of Italy"]
    with LLM("tiny") as llm:
        expected, ids = llm.embed(texts), [llm.tokenize(text) for text in texts]

    async def use(client: Client, _: ScriptedService) -> None:
        answer = await client.embeddings.create(model="tiny", input=texts)  # which asks for base64, and reads it
        np.testing.assert_array_equal(np.array([entry.embedding for entry in answer.data], np.float32), expected)
        assert [entry.index for entry in answer.data] == [0, 1]
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, ids))
        for given in (texts[0], ids[0], [ids[0]]):
            one = await client.embeddings.create(model="tiny", input=given, encoding_format="float", dimensions=expected.shape[1])
            np.testing.assert_array_equal(np.array(one.data[0].embedding, np.float32), expected[0])
        raw = await client.embeddings.with_raw_response.create(model="tiny", input=texts, encoding_format="base64")
        first = json.loads(raw.content)["data"][0]["embedding"]
        assert np.array_equal(np.frombuffer(base64.b64decode(first), "<f4"), expected[0])

    openai_ask(use)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dimensions": 5}, "dimensions is 5 and this model's vectors have"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", 5]}, "input"),
        ({"input": [10**6]}, "is outside the model's"),
        ({"input": "a" * 5000}, "the context holds"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"extra_body": {"truncate": True}}, "unknown field 'truncate'"),
    ],
)
def test_embeddings_refuse(options: dict[str, Any], says: str) -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        with pytest.raises(openai.BadRequestError, match=says):
            await client.embeddings.create(**{"model": "tiny", "input": "x", **options})

    openai_ask(use)
