"""What real chat templates write of tools and calls: our parser reads it back, and what a template has no place for is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from text_inputs import SHARED

from linnet import ChatTemplateError, InvalidRequestError, Tokenizer
from linnet.text.tool_calls.events import ArgumentsDelta, CallBegun, TextDelta
from linnet.text.tool_calls.formats import format_of
from linnet.text.tool_calls.history import with_calls_read
from linnet.text.tool_calls.parser import ToolCallParser
from linnet.text.tool_calls.tools import ToolCall, read_tools

TEMPLATES = SHARED / "data" / "templates"
FORMATS = {
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "meta-llama-Llama-3.2-3B-Instruct": "llama3",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
}
TOOLS = read_tools([{"type": "function", "function": {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}}}}}])
USER = {"role": "user", "content": "How is the weather?"}
ARGUMENTS = '{"city": "Zürich \\"old\\" town", "days": [1, 2.5, null]}'


def call(id: str, arguments: Any = ARGUMENTS) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


CALLING = {"role": "assistant", "content": None, "tool_calls": [call("abcdefghi")]}
RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": "rain, 12°"}


def template(name: str) -> str:
    path = TEMPLATES / f"{name}.jinja"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(Path(__file__).parents[3] / "models" / "tiny")


@pytest.mark.parametrize("name", FORMATS)
def test_what_templates_write_is_read_back(tokenizer: Tokenizer, name: str) -> None:
    source = template(name)
    format = format_of(source, ())
    assert format is not None
    assert format.name == FORMATS[name]
    several = name != "meta-llama-Llama-3.2-3B-Instruct"  # which takes one call a message
    calling = {**CALLING, "tool_calls": [call("abcdefghi"), call("ABCDEFGHI", {"city": "Bern"})][: 1 + several]}
    messages = with_calls_read([USER, calling])

    def render(turns: Any) -> str:
        return tokenizer.render_chat_template(turns, add_generation_prompt=len(turns) == 1, tools=TOOLS, chat_template=source, eos_token="")

    before, whole = render(messages[:1]), render(messages)
    assert "get_weather" in before
    assert whole.startswith(before)
    answer = whole[len(before) :].removesuffix("\n").removesuffix("<|im_end|>").removesuffix("<|eot_id|>")
    parser = ToolCallParser(format, ["get_weather"])
    events = parser.push(answer) + parser.finish()
    thoughts = ["<think>\n\n</think>"] if "Qwen3" in name else []
    assert [event.text for event in events if isinstance(event, TextDelta)] == thoughts
    assert [event.name for event in events if isinstance(event, CallBegun)] == ["get_weather"] * len(calling["tool_calls"])
    texts = [event.text for event in events if isinstance(event, ArgumentsDelta)]
    assert texts == [ARGUMENTS, '{"city": "Bern"}'][: 1 + several]


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_exchange_fits(tokenizer: Tokenizer, name: str) -> None:
    messages = with_calls_read([USER, CALLING, RESULT, {"role": "assistant", "content": "It rains."}, USER])
    text = tokenizer.render_chat_template(messages, tools=TOOLS, chat_template=template(name))
    assert "rain, 12" in text
    assert "It rains." in text


@pytest.mark.parametrize("name", ["google-gemma-2-2b-it", "microsoft-Phi-3.5-mini-instruct"])
def test_templates_that_know_no_tools_say_so(tokenizer: Tokenizer, name: str) -> None:
    source = template(name)
    assert format_of(source, ()) is None
    for messages, tools, says in (
        ([USER], TOOLS, "has no place for tools"),
        ([USER, CALLING], None, r"has no place for the tool_calls of messages\[1\]|no"),
        ([USER, {"role": "assistant", "content": "x"}, RESULT], None, r"has no place for messages\[2\], a tool's|alternate"),
    ):
        with pytest.raises(ChatTemplateError, match=says):
            tokenizer.apply_chat_template(messages, tools=tools, chat_template=source)


def test_a_template_that_refuses_the_history_says_why(tokenizer: Tokenizer) -> None:
    long_id = [USER, {**CALLING, "tool_calls": [call("call_0123456789")]}]
    with pytest.raises(ChatTemplateError, match="length 9"):
        tokenizer.apply_chat_template(with_calls_read(long_id), chat_template=template("mistralai-Mistral-Nemo-Instruct-2407"))
    two = [USER, {**CALLING, "tool_calls": [call("a"), call("b")]}]
    with pytest.raises(ChatTemplateError, match="single tool-calls"):
        tokenizer.apply_chat_template(with_calls_read(two), chat_template=template("meta-llama-Llama-3.2-3B-Instruct"))


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([USER, RESULT], r"messages\[1\] is a tool's, and no message with tool_calls stands before it"),
        ([USER, CALLING, USER, RESULT], r"messages\[3\] is a tool's, and no message with tool_calls"),
        ([USER, CALLING, {**RESULT, "tool_call_id": "other"}], r"messages\[2\]: no call before it has the id 'other'"),
        (
            [USER, {**CALLING, "tool_calls": [call("a", '{"city": "Zü')]}],
            r"tool_calls\[0\] \(get_weather\): its arguments are no JSON object",
        ),
        ([USER, {**CALLING, "tool_calls": [call("a", "[1]")]}], "its arguments are no JSON object"),
        ([USER, {**CALLING, "tool_calls": [call("a", '{"x": NaN}')]}], "its arguments are no JSON object"),
        ([USER, {**CALLING, "tool_calls": [call("a", "[" * 10**5)]}], "its arguments are no JSON object"),
        ([USER, {**CALLING, "tool_calls": "x"}], "tool_calls must be a list"),
        ([USER, {**CALLING, "tool_calls": ["x"]}], r"tool_calls\[0\] must be"),
        ([USER, {**CALLING, "tool_calls": [{"type": "custom", "function": {"name": "f"}}]}], r"tool_calls\[0\] must be"),
        ([USER, {**CALLING, "tool_calls": [call(["a"])]}], r"tool_calls\[0\] \(get_weather\): its id must be a text"),  # type: ignore[arg-type]
        ([USER, CALLING, {**RESULT, "tool_call_id": ["a"]}], r"messages\[2\]: no call before it has the id \"\['a'\]\""),
        ([{**USER, "tool_calls": [call("a")]}], r"messages\[0\]: only an assistant's message has tool_calls"),
    ],
)
def test_a_history_that_does_not_hang_together_is_refused(messages: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        with_calls_read(messages)


def test_half_a_character_in_arguments_is_read_as_a_replacement_character() -> None:
    """As models may write it, and clients send it back: no template could take it otherwise."""
    arguments = r'{"x\udfff": ["\ud83d\ude00", "\ud83d"]}'
    expected = {"x\ufffd": ["😀", "\ufffd"]}
    assert ToolCall("abcdefghi", "f", arguments).arguments == expected
    [_, message] = with_calls_read([USER, {**CALLING, "tool_calls": [call("abcdefghi", arguments)]}])
    assert message["tool_calls"][0]["function"]["arguments"] == expected


def test_messages_without_calls_are_as_they_were() -> None:
    messages = [USER, {"role": "assistant", "content": "x", "tool_calls": None}, {"role": "assistant", "content": "y", "tool_calls": []}]
    assert with_calls_read(messages) == [USER, {"role": "assistant", "content": "x"}, {"role": "assistant", "content": "y"}]


def test_other_formats_with_the_same_markers_are_none_of_ours() -> None:
    assert format_of("<tool_call>\n<function=f>", ["<tool_call>"]) is None
    assert format_of("<tool_call>{name}\n<arg_key>", ["<tool_call>"]) is None
    assert format_of("{{ tools }}", ["[TOOL_CALLS]"]) is not None
    assert format_of("{{ tools }}", ["[TOOL_CALLS]", "<tool_call>"]) is None
    assert format_of("{{ tools }}", []) is None
