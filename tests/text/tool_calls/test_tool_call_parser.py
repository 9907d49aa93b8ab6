"""The streaming parser: any way of cutting an answer gives the same text and calls, what models write well is read, and nothing of
what they write otherwise is lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.text.tool_calls.events import ArgumentsDelta, CallBegun, CallBroken, CallEnded, TextDelta
from linnet.text.tool_calls.formats import FORMATS, GEMMA, HERMES, LLAMA, MISTRAL, Format
from linnet.text.tool_calls.parser import ToolCallParser

NAMES = ("get_weather", "f")


@dataclass
class Read:
    """What a client makes of the events."""

    text: str = ""
    calls: dict[int, tuple[str, str]] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)

    @property
    def complete(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(text)) for i, (name, text) in self.calls.items() if i in self.ended]


def read(format: Format, pieces: Sequence[str], names: Sequence[str] = NAMES) -> Read:
    parser, found = ToolCallParser(format, names), Read()
    for events in [*map(parser.push, pieces), parser.finish()]:
        for event in events:
            match event:
                case TextDelta(text):
                    assert text
                    found.text += text
                case CallBegun(index, id, name):
                    assert index == len(found.calls)
                    assert len(id) == 9
                    found.calls[index] = (name, "")
                case ArgumentsDelta(index, text):
                    assert index == len(found.calls) - 1
                    assert index not in found.ended
                    found.calls[index] = (found.calls[index][0], found.calls[index][1] + text)
                case CallEnded(index):
                    found.ended.append(index)
                case CallBroken(index):
                    assert index not in found.ended
                    found.broken.append(index)
    return found


CALL = '{"name": "get_weather", "arguments": {"city": "Zürich \\"}</tool_call>", "days": [1, 2.5e3, null]}}'
GIVEN = ("get_weather", {"city": 'Zürich "}</tool_call>', "days": [1, 2500.0, None]})
GEMMA_CALL = 'call:get_weather{city:<|"|>Zürich "}</tool_call><|"|>,days:[1,2.5e3,null]}'
LLAMA_CALL = CALL.replace("arguments", "parameters")

WELL_FORMED = [
    (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", "", 1),
    (HERMES, f"Let me see.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>\n", "Let me see.", 2),
    (HERMES, f"<think>\n\n</think>\n\n<tool_call>\n{CALL}", "<think>\n\n</think>", 1),  # the end token stands for the end marker
    (HERMES, f"<tool_call>{CALL}</tool_", "", 1),
    (HERMES, f"a <tool_call>{CALL}</tool_call> b", "ab", 1),
    (HERMES, f"<tool_call>{CALL} and more", "and more", 1),
    (LLAMA, LLAMA_CALL, "", 1),
    (LLAMA, f"\n {LLAMA_CALL}; {LLAMA_CALL}\n{LLAMA_CALL};", "", 3),
    (LLAMA, f"<|python_tag|>{LLAMA_CALL}", "", 1),
    (LLAMA, f"Sure:<|python_tag|>{LLAMA_CALL}; {CALL}", "Sure:", 2),
    (LLAMA, '{"type": "function", "name": "f", "parameters": {}}', "", 1),
    (MISTRAL, f"[TOOL_CALLS][{CALL}]", "", 1),
    (MISTRAL, f"[TOOL_CALLS] [{CALL}, {CALL[:-1]}, " + '"id": "abc"}]', "", 2),
    (MISTRAL, f"[TOOL_CALLS][{CALL}", "", 1),
    (MISTRAL, '[TOOL_CALLS]f{"x": 1}[TOOL_CALLS]f[ARGS]{"x": 1}', "", 2),
    (GEMMA, f"<|tool_call>{GEMMA_CALL}<tool_call|>", "", 1),
    (GEMMA, f"Well.<|tool_call>{GEMMA_CALL}<tool_call|><|tool_call>{GEMMA_CALL}<tool_call|>", "Well.", 2),
    (GEMMA, f"<|tool_call>{GEMMA_CALL}", "", 1),
    (GEMMA, '<|tool_call>call:f { "x" : 1 }<tool_call|>', "", 1),
    (GEMMA, "<|tool_call>call:f{}<tool_call|>", "", 1),
    (MISTRAL, 'Well.[TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS]{"x": 1}', "Well.", 1),
]

MALFORMED = [
    (HERMES, "<tool_call>get_weather(city)</tool_call>"),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": 1,}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": \'1\'}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": "a\nb"}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": 01}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": 1}'),  # cut off
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": "unf'),
    (HERMES, '<tool_call>{"arguments": {"x": 1}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "a b", "arguments": {"x": 1}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "name": "g", "arguments": {"x": 1}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": ' + "[" * 5000 + "]" * 5000 + "}}</tool_call>"),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}</tool_call>"),
    (HERMES, "<tool_call"),
    (HERMES, "<tool_call> "),
    (LLAMA, '{"name": "John", "parameters": {"age": 3}}'),  # JSON, but no tool of ours
    (LLAMA, '{"title": "f"}'),
    (LLAMA, f"The call is {LLAMA_CALL}"),
    (LLAMA, '<|python_tag|>print("hello")'),
    (GEMMA, "<|tool_call>f{}"),
    (GEMMA, "<|tool_call>call:a b{}"),
    (GEMMA, "<|tool_call>call:f{x}"),
    (GEMMA, "<|tool_call>call:f[1]"),
    (GEMMA, "<|tool_call>call:f{x:}"),
    (GEMMA, "<|tool_call>call:f{x:1,}"),
    (GEMMA, "<|tool_call>call:f{x:1 2}"),
    (GEMMA, "<|tool_call>call:f{x:01}"),
    (GEMMA, '<|tool_call>call:f{x:<|"|>unf'),
    (GEMMA, "<|tool_call>call:f{{x:1}:1}"),
    (GEMMA, "<|tool_call>call:f{x:" + "[" * 5000),
    (MISTRAL, "[TOOL_CALLS] none"),
    (MISTRAL, "[TOOL_CALLS][]"),
    (MISTRAL, '[TOOL_CALLS]f[ARGS]["x"]'),
    (MISTRAL, '[TOOL_CALLS]f[OTHER]{"x": 1}'),
    (MISTRAL, "[TOOL_CALLS]"),
]


@pytest.mark.parametrize(("format", "answer", "text", "count"), WELL_FORMED)
def test_calls_are_read_whole_or_in_characters(format: Format, answer: str, text: str, count: int) -> None:
    for pieces in ([answer], list(answer)):
        found = read(format, pieces)
        assert found.text == text
        assert len(found.complete) == count
        assert all(call in (GIVEN, ("f", {}), ("f", {"x": 1})) for call in found.complete)
        assert not found.broken
        assert not any(marker in found.text for marker in format.markers)


@pytest.mark.parametrize(("format", "answer"), MALFORMED)
def test_what_is_no_call_is_text(format: Format, answer: str) -> None:
    for pieces in ([answer], list(answer)):
        found = read(format, pieces)
        assert found.text == answer
        assert found.complete == []
        assert found.broken == list(found.calls)


def test_a_broken_call_does_not_take_the_next_with_it() -> None:
    broken = '<tool_call>{"name": "f", "arguments": {"x": '
    found = read(HERMES, [f"{broken}<tool_call>{CALL}</tool_call>"])
    assert (found.text, found.complete, found.broken) == (broken.rstrip(), [GIVEN], [0])
    found = read(MISTRAL, [f"[TOOL_CALLS][{CALL}, nothing]"])
    assert (found.text, found.complete) == (", nothing]", [GIVEN])


def test_arguments_stream_as_they_come() -> None:
    """After every character, what has been given out is all that is certain."""
    parser = ToolCallParser(HERMES, NAMES)
    opening = '<tool_call>{"name": "f", "arguments": '
    assert [event for c in opening for event in parser.push(c)] == []
    [begun, delta] = parser.push("{")
    assert isinstance(begun, CallBegun)
    assert delta == ArgumentsDelta(0, "{")
    for c in '"x": "</tool_call>"}':
        assert parser.push(c) == [ArgumentsDelta(0, c)]
    assert parser.push("}") == [CallEnded(0)]
    assert parser.push("</tool_call>") + parser.finish() == []


def test_arguments_before_the_name_wait_for_it() -> None:
    parser = ToolCallParser(HERMES, NAMES)
    assert parser.push('<tool_call>{"arguments": {"x": 1}, "name": ') == []
    kinds = [type(event) for event in parser.push('"f"}')]
    assert kinds == [CallBegun, ArgumentsDelta, CallEnded]


def test_text_is_held_back_no_longer_than_it_may_become_a_call() -> None:
    parser = ToolCallParser(HERMES, NAMES)
    assert parser.push("a <tool") == [TextDelta("a")]
    assert parser.push("box> ") == [TextDelta(" <toolbox>")]
    assert parser.push("b") == [TextDelta(" b")]


def cut(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def answers(draw: st.DrawFn) -> tuple[Format, str, list[str]]:
    """Any mixture of well-formed and broken calls, markers and text, whole and cut."""
    format = draw(st.sampled_from(list(FORMATS.values())))
    of_format = [case[1] for case in [*WELL_FORMED, *MALFORMED] if case[0] is format and len(case[1]) < 1000]
    parts = st.one_of(
        st.sampled_from(of_format),
        st.sampled_from(
            [*format.markers, '{"name": "f", ', '"arguments": {"x"', ": 1}", "}", "]", ",", ";", " ", "\n", "[", "{", '"', "\\"]
        ),
        st.text(max_size=6),
    )
    text = "".join(draw(st.lists(parts, max_size=8)))
    if draw(st.booleans()) and text:
        text = text[: draw(st.integers(0, len(text)))]
    return format, text, cut(draw, text)


@settings(max_examples=1500, deadline=None)
@given(answers())
def test_any_cut_gives_the_same(case: tuple[Format, str, list[str]]) -> None:
    format, text, pieces = case
    whole = read(format, [text])
    assert read(format, pieces) == whole
    assert read(format, list(text)) == whole
    assert all(isinstance(arguments, dict) for _, arguments in whole.complete)
    assert set(whole.ended) | set(whole.broken) == set(whole.calls)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


CALLS = st.tuples(st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True), st.dictionaries(st.text(max_size=5), JSON, max_size=3))


@settings(max_examples=400, deadline=None)
@given(
    calls=st.lists(CALLS, min_size=1, max_size=4),
    text=st.text(alphabet="ab <[{|", max_size=20),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    data=st.data(),
)
def test_calls_of_any_content_come_back(
    calls: list[tuple[str, dict[str, Any]]], text: str, ascii_only: bool, indent: int | None, data: st.DataObject
) -> None:
    def written(name: str, arguments: Any, key: str) -> str:
        return json.dumps({"name": name, key: arguments}, ensure_ascii=ascii_only, indent=indent)

    def native(value: Any) -> str:
        if isinstance(value, str):
            return f'<|"|>{value}<|"|>'
        if isinstance(value, list):
            return f"[{','.join(map(native, value))}]"
        if isinstance(value, dict):
            return "{" + ",".join(f"{native(key)}:{native(own)}" for key, own in value.items()) + "}"
        return str(value) if value is None else json.dumps(value)

    whole = {
        GEMMA.name: text + "".join(f"<|tool_call>call:{name}{native(arguments)}<tool_call|>" for name, arguments in calls),
        HERMES.name: text + "\n".join(f"<tool_call>\n{written(*call, 'arguments')}\n</tool_call>" for call in calls),
        LLAMA.name: f"{text}<|python_tag|>" + "; ".join(written(*call, "parameters") for call in calls),
        MISTRAL.name: f"{text}[TOOL_CALLS][" + ", ".join(written(*call, "arguments") for call in calls) + "]",
    }
    for name, answer in whole.items():
        found = read(FORMATS[name], cut(data.draw, answer), [name for name, _ in calls])
        assert found.text == text.rstrip()
        assert found.complete == calls
