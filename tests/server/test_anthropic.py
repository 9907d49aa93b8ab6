"""/v1/messages through Anthropic's own client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import anthropic
import httpx2
import pydantic
import pytest
from scripted import BROKEN, CALLING, SCHEMA, ScriptedService, ask
from server_process import Server

Client = anthropic.AsyncAnthropic
KEY = "a-key-of-this-server"
USER: Any = [{"role": "user", "content": "Weather?"}]
TOOLS: Any = [{"name": "get_weather", "description": "Tells.", "input_schema": SCHEMA}]


def by_schema(schema: Any) -> dict[str, Any]:
    return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}


def anthropic_ask(use: Callable[[Client, ScriptedService], Awaitable[Any]], answer: str = CALLING, **options: Any) -> Any:
    async def with_client(app: Any, service: ScriptedService) -> Any:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app)) as connection:
            return await use(Client(base_url="http://127.0.0.1", api_key=KEY, max_retries=0, http_client=connection), service)

    return ask(with_client, answer, **options)


def test_text_its_ends_and_its_usage() -> None:
    async def use(client: Client, service: ScriptedService) -> None:
        answer = await client.messages.create(model="tiny", max_tokens=50, system=[{"type": "text", "text": "Be brief."}], messages=USER)
        assert [block.type for block in answer.content] == ["text"]
        assert answer.content[0].text == "It rains. Always."  # type: ignore[union-attr]
        assert (answer.stop_reason, answer.stop_sequence, answer.role) == ("end_turn", None, "assistant")
        assert answer.usage.output_tokens > 3
        assert answer.usage.input_tokens > 3
        assert "Be brief." in service.prompts[-1]
        short = await client.messages.create(model="tiny", max_tokens=1, messages=USER)
        assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 1)
        stopped = await client.messages.create(model="tiny", max_tokens=50, stop_sequences=["never", "s."], messages=USER)
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "s.")
        assert stopped.content[0].text == "It rain"  # type: ignore[union-attr]

    anthropic_ask(use, "It rains. Always.")


def test_tools_are_used_and_their_results_read() -> None:
    async def use(client: Client, service: ScriptedService) -> None:
        asked = await client.messages.create(model="tiny", max_tokens=400, messages=USER, tools=TOOLS)
        assert asked.stop_reason == "tool_use"
        assert [block.type for block in asked.content] == ["text", "tool_use", "tool_use"]
        uses: Any = asked.content[1:]
        assert [(block.name, block.input) for block in uses] == [("get_weather", {"city": "Bern"})] * 2
        results = [
            {"type": "tool_result", "tool_use_id": uses[0].id, "content": "rain 0"},
            {"type": "tool_result", "tool_use_id": uses[1].id, "content": [{"type": "text", "text": "rain 1"}], "is_error": True},
            {"type": "text", "text": "And now?"},
        ]
        service.answer = "It rains."
        messages: Any = [*USER, {"role": "assistant", "content": asked.content}, {"role": "user", "content": results}]
        answer = await client.messages.create(model="tiny", max_tokens=50, messages=messages, tools=TOOLS)
        assert answer.content[0].text == "It rains."  # type: ignore[union-attr]
        assert "rain 0<|end|><|user|>Error: rain 1<|end|><|user|>And now?" in service.prompts[-1]

    anthropic_ask(use)


def test_half_a_character_in_a_call_is_read_as_a_replacement_character() -> None:
    """JSON can escape half of a surrogate pair, which no UTF-8 holds; a model that does so once must not end the conversation."""
    half = CALLING.replace("Bern", r"Bern \ud83d")

    async def use(client: Client, service: ScriptedService) -> None:
        asked = await client.messages.create(model="tiny", max_tokens=400, messages=USER, tools=TOOLS)
        uses: Any = asked.content[1:]
        assert [use.input for use in uses] == [{"city": "Bern \ufffd"}] * 2
        results = [{"type": "tool_result", "tool_use_id": use.id, "content": "rain"} for use in uses]
        messages: Any = [*USER, {"role": "assistant", "content": asked.content}, {"role": "user", "content": results}]
        await client.messages.create(model="tiny", max_tokens=400, messages=messages, tools=TOOLS)

    anthropic_ask(use, half)


def test_one_use_at_a_time() -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        choice: Any = {"type": "auto", "disable_parallel_tool_use": True}
        answer = await client.messages.create(model="tiny", max_tokens=400, messages=USER, tools=TOOLS, tool_choice=choice)
        assert [block.type for block in answer.content] == ["text", "tool_use"]
        assert answer.stop_reason == "tool_use"

    anthropic_ask(use)


@pytest.mark.parametrize(("answer", "types"), [(CALLING, ["text", "tool_use", "tool_use"]), ("It rains.", ["text"]), ("", [])])
def test_streams_add_up_to_the_whole(answer: str, types: list[str]) -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        whole = await client.messages.create(model="tiny", max_tokens=400, messages=USER, tools=TOOLS)
        async with client.messages.stream(model="tiny", max_tokens=400, messages=USER, tools=TOOLS) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_message()
        assert [block.type for block in final.content] == types
        contents = [[block.model_dump(exclude={"id", "parsed_output"}) for block in message.content] for message in (final, whole)]
        assert contents[0] == contents[1]
        assert final.stop_reason == whole.stop_reason
        assert final.usage.output_tokens == whole.usage.output_tokens
        assert [kinds[0], kinds[-1]] == ["message_start", "message_stop"]
        assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(types)

    anthropic_ask(use, answer)


def test_a_use_that_breaks_off_is_text() -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        whole = await client.messages.create(model="tiny", max_tokens=400, messages=USER, tools=TOOLS)
        assert [(block.type, block.text) for block in whole.content] == [("text", BROKEN)]  # type: ignore[union-attr]
        async with client.messages.stream(model="tiny", max_tokens=400, messages=USER, tools=TOOLS) as stream:
            final = await stream.get_final_message()
        assert [block.type for block in final.content] == ["tool_use", "text"]
        assert final.content[-1].text == BROKEN  # type: ignore[union-attr]
        assert final.stop_reason == "end_turn"

    anthropic_ask(use, BROKEN)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"system": "Be brief."},
        {"tools": TOOLS},
        {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "get_weather"}},
        {"tools": TOOLS, "tool_choice": {"type": "none"}},
        by_schema(SCHEMA),
    ],
)
def test_tokens_are_counted_as_they_are_read(options: dict[str, Any]) -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        counted = await client.messages.count_tokens(model="tiny", messages=USER, **options)
        answer = await client.messages.create(model="tiny", max_tokens=1, messages=USER, **options)
        assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)

    anthropic_ask(use, '{"city": "Bern"}')


def test_what_no_context_holds_is_counted() -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        long: Any = [{"role": "user", "content": "a" * 5000}]
        assert (await client.messages.count_tokens(model="tiny", messages=long)).input_tokens > 1024

    anthropic_ask(use)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"messages": []}, "messages"),
        ({"max_tokens": 9}, "unknown field 'max_tokens'"),
        ({"tools": TOOLS * 2}, "two tools called"),
        ({"tool_choice": {"type": "any"}}, "there are no tools"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "dependentRequired": {}}}}},
            "dependentRequired",
        ),
        ({"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}, "tools": TOOLS}, "leave one of them out"),
        ({"messages": [{"role": "user", "content": "a" * 3_000_000}]}, "bytes and this server takes 2097152"),
    ],
)
def test_what_is_not_counted(options: dict[str, Any], says: str) -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        body = {"model": "tiny", "messages": USER, **options}
        with pytest.raises(anthropic.BadRequestError, match=says) as raised:
            await client.post("/v1/messages/count_tokens", body=body, cast_to=object)
        assert raised.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]

    anthropic_ask(use)


def test_answers_by_a_schema(server: Server) -> None:
    """The client makes the schema of a class, and reads the answer as one."""

    class Answer(pydantic.BaseModel):
        city: Literal["Rome", "Paris"]
        sure: bool

    client = anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0)
    for seed in range(3):
        asked: Any = {"model": "tiny", "max_tokens": 60, "messages": USER, "extra_body": {"seed": seed}}
        assert isinstance(client.messages.parse(**asked, output_format=Answer).parsed_output, Answer)
        with client.messages.stream(**asked, output_format=Answer) as stream:
            assert isinstance(stream.get_final_message().parsed_output, Answer)


IMAGE = {"type": "image", "source": {"type": "url", "url": "http://169.254.169.254/"}}


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"model": "other"}, anthropic.NotFoundError, "there is no model 'other'"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens"),
        ({"messages": []}, anthropic.BadRequestError, "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, anthropic.BadRequestError, "image"),
        ({"messages": [{"role": "system", "content": "x"}]}, anthropic.BadRequestError, "role"),
        ({"messages": [{"role": "user", "content": "a" * 5000}]}, anthropic.BadRequestError, "context"),
        ({"messages": [*USER, {"role": "assistant", "content": "It"}]}, anthropic.BadRequestError, "does not go on from an answer"),
        ({"output_config": {"effort": "low"}}, anthropic.BadRequestError, "unknown field 'output_config.effort'"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "x"}}}}, anthropic.BadRequestError, "schema"),
        ({"output_config": {"format": {"type": "text"}}}, anthropic.BadRequestError, "output_config.format"),
        ({"thinking": {"type": "adaptive"}}, anthropic.BadRequestError, "thinking"),
        ({"service_tier": "auto"}, anthropic.BadRequestError, "unknown field 'service_tier'"),
        ({"tools": TOOLS * 2}, anthropic.BadRequestError, "two tools called"),
        ({"tool_choice": {"type": "any"}}, anthropic.BadRequestError, "there are no tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "x"}}, anthropic.BadRequestError, "or name one of get_weather"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, anthropic.BadRequestError, "thinking"),
        ({"extra_body": {"mcp_servers": []}}, anthropic.BadRequestError, "unknown field 'mcp_servers'"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_errors_of_the_client(options: dict[str, Any], error: type[anthropic.APIStatusError], says: str, stream: bool) -> None:
    async def use(client: Client, _: ScriptedService) -> None:
        with pytest.raises(error, match=says) as raised:
            await client.messages.create(**{"model": "tiny", "max_tokens": 9, "messages": USER, "stream": stream, **options})
        body: Any = raised.value.body
        assert body["type"] == "error"
        assert body["error"]["type"] in ("invalid_request_error", "not_found_error")
        assert raised.value.request_id  # under which the server's log has it

    anthropic_ask(use)


def test_keys_come_in_the_clients_own_header(tmp_path: Any) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")

    async def use(client: Client, _: ScriptedService) -> None:
        answer = await client.messages.create(model="tiny", max_tokens=9, messages=USER)
        assert answer.content
        with pytest.raises(anthropic.AuthenticationError, match="not one of this server's") as raised:
            await client.copy(api_key="another-key-than-that").messages.create(model="tiny", max_tokens=9, messages=USER)
        assert raised.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]

    anthropic_ask(use, "Yes.", api_keys_file=str(keys))


def test_what_fails_in_a_stream_is_an_error_of_the_client() -> None:
    async def use(client: Client, service: ScriptedService) -> None:
        service.fails = True
        texts: list[str] = []

        async def read() -> None:
            async with client.messages.stream(model="tiny", max_tokens=400, messages=USER) as stream:
                async for text in stream.text_stream:
                    texts.append(text)

        with pytest.raises(anthropic.APIStatusError, match="the server failed at this request"):
            await read()
        assert "".join(texts) == "It rains."

    anthropic_ask(use, "It rains.")
