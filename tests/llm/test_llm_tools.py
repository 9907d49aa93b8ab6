"""Tools through the whole of `LLM`: what the model is told, and the calls that it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from llm_cases import pool_is_whole
from tool_cases import ANSWERS, CALL, TEMPLATES, USER, WEATHER, forced

from linnet import LLM, ChatTemplateError, InvalidRequestError, SamplingParams
from linnet.text.tool_calls.events import ArgumentsDelta, CallBegun, CallBroken, CallEnded, TextDelta


@pytest.fixture(scope="module", params=TEMPLATES)
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    with LLM("tiny", chat_template=TEMPLATES[request.param]) as model:
        model.format = request.param  # type: ignore[attr-defined]
        yield model


@pytest.fixture(scope="module")
def hermes() -> Iterator[LLM]:
    with LLM("tiny", chat_template=TEMPLATES["hermes"]) as model:
        yield model


def get_weather(city: str) -> str:
    """Tells the weather.

    Args:
        city: Where.
    """
    return f"rain in {city}"


def test_calls_come_whole_and_streamed(llm: LLM) -> None:
    answer = ANSWERS[llm.format]  # type: ignore[attr-defined]
    completion = llm.chat(USER, forced(llm, answer), tools=[WEATHER])
    assert [(call.name, call.arguments) for call in completion.tool_calls] == [("get_weather", {"city": "Bern"})] * 2
    assert completion.finish_reason == "tool_calls"
    assert completion.text == answer[: answer.find("<tool_call>") - 1 if "Let" in answer else 0]
    assert len({call.id for call in completion.tool_calls}) == 2

    chunks = list(llm.chat(USER, forced(llm, answer), stream=True, tools=[WEATHER]))
    events = [event for chunk in chunks for event in chunk.events]
    assert "".join(chunk.text for chunk in chunks) == completion.text
    assert [type(event) for event in events if isinstance(event, (CallBegun, CallEnded))] == [CallBegun, CallEnded] * 2
    for index in (0, 1):
        pieces = [event.text for event in events if isinstance(event, ArgumentsDelta) and event.index == index]
        assert "".join(pieces) == completion.tool_calls[index].arguments_json
        assert len(pieces) > 3, "arguments stream"
    assert chunks[-1].finish_reason == "tool_calls"


def test_one_call_at_a_time_ends_the_answer(llm: LLM) -> None:
    """Whatever of a second call the token brings that ends the first: none of it is in the answer, whole or streamed."""
    answer = ANSWERS[llm.format]  # type: ignore[attr-defined]
    both = llm.chat(USER, forced(llm, answer), tools=[WEATHER])
    one = llm.chat(USER, forced(llm, answer), tools=[WEATHER], parallel_tool_calls=False)
    assert [(call.name, call.arguments) for call in one.tool_calls] == [("get_weather", {"city": "Bern"})]
    assert (one.finish_reason, one.text) == ("tool_calls", both.text)
    assert one.usage.completion_tokens < both.usage.completion_tokens
    chunks = list(llm.chat(USER, forced(llm, answer), stream=True, tools=[WEATHER], parallel_tool_calls=False))
    kinds = [type(event) for chunk in chunks for event in chunk.events if not isinstance(event, (TextDelta, ArgumentsDelta))]
    assert kinds == [CallBegun, CallEnded]
    assert "".join(chunk.text for chunk in chunks) == one.text
    plain = llm.chat(USER, forced(llm, "It rains."), tools=[WEATHER], parallel_tool_calls=False)
    assert (plain.text, plain.finish_reason) == ("It rains.", "stop")
    assert pool_is_whole(llm)
    with pytest.raises(InvalidRequestError, match="parallel_tool_calls is 'no'"):
        llm.chat(USER, tools=[WEATHER], parallel_tool_calls="no")  # type: ignore[arg-type]


def test_functions_are_told_of_and_called_and_their_results_read(llm: LLM) -> None:
    asked = llm.chat(USER, forced(llm, ANSWERS[llm.format]), tools=[get_weather])  # type: ignore[attr-defined]
    assert "Tells the weather." in llm.tokenizer.decode(asked.prompt_token_ids)  # type: ignore[union-attr]
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": {"get_weather": get_weather}[call.name](**call.arguments)}
        for call in asked.tool_calls
    ]
    answer = llm.chat([*USER, asked.message, *results], SamplingParams(max_tokens=3), tools=[get_weather])
    assert "rain in Bern" in llm.tokenizer.decode(answer.prompt_token_ids)  # type: ignore[union-attr]


def test_an_answer_without_calls_is_as_without_tools(llm: LLM) -> None:
    plain = llm.chat(USER, forced(llm, "It rains <b>."))
    assert (plain.text, plain.tool_calls, plain.finish_reason) == ("It rains <b>.", [], "stop")
    with_tools = llm.chat(USER, forced(llm, "It rains <b>."), tools=[WEATHER])
    assert (with_tools.text, with_tools.tool_calls, with_tools.finish_reason) == ("It rains <b>.", [], "stop")
    unread = llm.chat(USER, forced(llm, ANSWERS[llm.format]))  # type: ignore[attr-defined]
    assert unread.text == ANSWERS[llm.format], "without tools, text is text"  # type: ignore[attr-defined]


def test_none_means_that_the_model_is_not_told(hermes: LLM) -> None:
    assert hermes.tokenize("x", tool_choice="none") == hermes.tokenize("x")
    found = hermes.chat(USER, forced(hermes, ANSWERS["hermes"]), tools=[WEATHER], tool_choice="none")
    assert found.tool_calls == []
    assert found.prompt_token_ids == hermes.tokenize(USER)


def test_a_call_that_is_cut_off_is_text(hermes: LLM) -> None:
    cut = f"<tool_call>{CALL[:-3]}"
    chunks = list(hermes.chat(USER, forced(hermes, cut), stream=True, tools=[WEATHER]))
    events = [event for chunk in chunks for event in chunk.events]
    assert isinstance(events[0], CallBegun)
    assert [type(event) for event in events[-2:]] == [CallBroken, TextDelta]
    completion = chunks[-1].completion
    assert completion is not None
    assert (completion.text, completion.tool_calls, completion.finish_reason) == (cut, [], "stop")


def test_samples_and_handles_have_calls_of_their_own(hermes: LLM) -> None:
    assert hermes.tokenizer is not None
    tokens = hermes.tokenizer.encode(f"<tool_call>{CALL}</tool_call>", bos=False)
    bias = SamplingParams(max_tokens=len(tokens), n=2, logits_processor=lambda ids, logits: logits)
    handle = hermes.submit(USER, forced(hermes, f"<tool_call>{CALL}</tool_call>"), tools=[WEATHER])
    [completion] = handle.result()
    assert [call.name for call in completion.tool_calls] == ["get_weather"]
    assert [sample.tool_calls for sample in hermes.submit(USER, bias, tools=[WEATHER]).result()] == [[], []]
    assert pool_is_whole(hermes)


def test_control_tokens_reach_the_parser_and_no_text(hermes: LLM) -> None:
    """The built-in model has no marker of its own; its <|user|>, which no text shows, plays one."""
    from linnet.answer import Answer
    from linnet.text.tool_calls.formats import Format, read_hermes
    from linnet.text.tool_calls.use import ToolUse

    tokenizer = hermes.tokenizer
    assert tokenizer is not None
    marker = tokenizer.token_to_id("<|user|>")
    assert marker is not None
    assert marker in tokenizer.special_ids
    use = ToolUse([WEATHER], Format("test", "<|user|>", ("<|user|>",), (), read_hermes), frozenset({marker}))
    script = iter([marker, *tokenizer.encode(CALL, bos=False), tokenizer.eos_id])
    answer = Answer(
        [5], SamplingParams(choose=lambda logits: next(script)), frozenset({tokenizer.eos_id or 0}), tokenizer, True, tool_use=use
    )
    hermes.engine.submit(answer.request)
    completion = list(answer.chunks(hermes.engine.outputs(answer.request)))[-1].completion
    assert completion is not None
    assert (completion.text, [call.name for call in completion.tool_calls]) == ("", ["get_weather"])


def test_what_cannot_be_is_refused_before_work() -> None:
    with LLM("tiny") as plain:
        with pytest.raises(InvalidRequestError, match=r"how this model writes tool calls is not known.*tool_format="):
            plain.chat(USER, tools=[WEATHER])
        with pytest.raises(InvalidRequestError, match="there are no tools"):
            plain.chat(USER, tool_choice="required")
        with pytest.raises(InvalidRequestError, match="tools go with messages"):
            plain.submit("Hello", tools=[WEATHER])
        with pytest.raises(ChatTemplateError, match=r"no place for the tool_calls of messages\[1\]"):
            plain.chat([*USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, *USER])
        assert plain.chat(USER, SamplingParams(max_tokens=2), tools=[]).tool_calls == []
    with LLM("tiny", tool_format="mistral") as given, pytest.raises(ChatTemplateError, match="has no place for tools"):
        given.chat(USER, tools=[WEATHER])
    with pytest.raises(InvalidRequestError, match="must be one of auto, hermes, llama3, mistral"):
        LLM("tiny", tool_format="other")


NAMED = {"type": "function", "function": {"name": "get_weather"}}
COUNT = {
    "type": "function",
    "function": {
        "name": "count",
        "parameters": {
            "$defs": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
            "properties": {"steps": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1, "maxItems": 3}},
            "required": ["steps"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize("choice", ["required", "count", NAMED, "get_weather"])
def test_a_call_can_be_demanded(llm: LLM, choice: Any) -> None:
    """Of a model that knows nothing of tools, whatever it would rather say."""
    jsonschema = pytest.importorskip("jsonschema")
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (WEATHER, COUNT)}
    for seed in range(6):
        params = SamplingParams(max_tokens=300, temperature=2.0, seed=seed)
        completion = llm.chat(USER, params, tools=[WEATHER, COUNT], tool_choice=choice)
        assert completion.finish_reason == "tool_calls"
        assert completion.text == ""
        [call] = completion.tool_calls
        assert choice == "required" or call.name == ("count" if choice == "count" else "get_weather")
        jsonschema.validate(call.arguments, schemas[call.name])
        chunks = list(llm.chat(USER, params, stream=True, tools=[WEATHER, COUNT], tool_choice=choice))
        assert [c.arguments_json for c in chunks[-1].completion.tool_calls] == [call.arguments_json]  # type: ignore[union-attr]
        assert "".join(chunk.text for chunk in chunks) == ""


def test_a_demanded_call_that_is_cut_off_is_text(hermes: LLM) -> None:
    completion = hermes.chat(USER, SamplingParams(max_tokens=9, seed=0), tools=[WEATHER], tool_choice="required")
    assert (completion.finish_reason, completion.tool_calls) == ("length", [])
    assert completion.text.startswith('<tool_call>\n{"na')


def test_functions_whose_arguments_may_be_none_can_be_demanded(hermes: LLM) -> None:
    def pick(size: int | None, colour: str | None = None) -> None:
        """Picks.

        Args:
            size: one
            colour: two (choices: ["red", "blue"])
        """

    ends = SamplingParams(max_tokens=300, temperature=0.7)
    for seed in range(5):
        [call] = hermes.chat(USER, replace(ends, seed=seed), tools=[pick], tool_choice="required").tool_calls
        assert isinstance(call.arguments["size"], (int, type(None)))
        assert call.arguments.get("colour") in (None, "red", "blue")


def test_demands_that_cannot_be_kept_are_refused(hermes: LLM) -> None:
    odd = {"type": "function", "function": {"name": "odd", "parameters": {"not": {"type": "string"}}}}
    with pytest.raises(InvalidRequestError, match=r"tool odd: .*'not'"):
        hermes.chat(USER, tools=[odd], tool_choice="odd")
    with pytest.raises(InvalidRequestError, match="json_object constrains the answer, and a call of a tool would not follow it"):
        hermes.chat(USER, SamplingParams(json_object=True), tools=[WEATHER])


def test_strict_tools_are_called_by_their_schemas(hermes: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the model calls by itself, and nowhere else. Its <|user|> plays the token that opens a call."""
    import jsonschema

    from linnet.text.tool_calls import formats, use

    tokenizer = hermes.tokenizer
    assert tokenizer is not None
    marker = tokenizer.token_to_id("<|user|>")
    played = replace(formats.HERMES, opening="<|user|>", markers=("<|user|>",))
    monkeypatch.setitem(use.FORMATS, "hermes", played)
    monkeypatch.setattr(use, "format_of", lambda *_: played)
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}

    def opens(ids: list[int], logits: Any) -> Any:
        logits[marker] = 1e4 if len(ids) % 40 == 0 and ids[-1] != marker else -1e4
        return logits

    params = SamplingParams(max_tokens=300, temperature=1.5, logits_processor=opens, ignore_eos=True)
    found = [hermes.chat(USER, replace(params, seed=seed), tools=[strict, COUNT]) for seed in range(3)]
    calls = [call for completion in found for call in completion.tool_calls]
    assert len(calls) > 3
    for call in calls:
        if call.name == "get_weather":
            jsonschema.validate(call.arguments, WEATHER["function"]["parameters"])
    assert all(completion.text for completion in found), "what is no call is free"
    monkeypatch.undo()
    with pytest.raises(InvalidRequestError, match="get_weather: strict needs a model whose calls begin with a token of their own"):
        hermes.chat(USER, tools=[strict])
