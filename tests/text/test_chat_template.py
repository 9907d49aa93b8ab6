"""Chat templates of published models, rendered by transformers and by us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from text_inputs import SHARED, byte_level_metadata, save_folder

from linnet.errors import ChatTemplateError, InvalidRequestError, ModelFileError
from linnet.prompts import read_chat_template
from linnet.text import chat_template
from linnet.text.tokenizer import Tokenizer

TEMPLATES = sorted((SHARED / "data" / "templates").glob("*.jinja"))
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}

SYSTEM = {"role": "system", "content": "  You are terse.\n"}
USER = {"role": "user", "content": "What is 17 + 25? <b>&amp; 'quoted' \"twice\"</b>"}
ANSWER = {"role": "assistant", "content": "<think>\nadd\n</think>\n\n42"}
AGAIN = {"role": "user", "content": " et en français ? 你好 "}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "id": "abcdefghi", "function": {"name": "add", "arguments": {"a": 17, "b": "é<&>"}}}],
}
RESULT = {"role": "tool", "name": "add", "tool_call_id": "abcdefghi", "content": "42"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds <two> numbers & more",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer", "description": "é"}}, "required": ["a"]},
            "return": {"type": "integer", "description": "the sum"},
        },
    }
]
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one turn": ([USER], None),
    "system": ([SYSTEM, USER], None),
    "turns": ([SYSTEM, USER, ANSWER, AGAIN], None),
    "empty": ([{"role": "user", "content": ""}], None),
    "ends with the assistant": ([USER, ANSWER], None),
    "tools": ([SYSTEM, USER], TOOLS),
    "tool result": ([SYSTEM, USER, CALL, RESULT], TOOLS),
    "not alternating": ([USER, USER], None),
    "empty system": ([{"role": "system", "content": ""}, USER], None),
    "empty answer": ([USER, {"role": "assistant", "content": ""}, AGAIN], None),
    "many turns": ([SYSTEM, *[USER, ANSWER] * 4, AGAIN], None),
    "tools without system": ([USER], TOOLS),
    "no tools": ([SYSTEM, USER], []),
    "several calls": ([USER, {**CALL, "tool_calls": CALL["tool_calls"] * 2}, RESULT, RESULT], TOOLS),
    "an answer after a tool": ([SYSTEM, USER, CALL, RESULT, ANSWER, AGAIN], TOOLS),
    "an empty tool result": ([USER, CALL, {**RESULT, "content": ""}], TOOLS),
    "thoughts apart": ([USER, {**ANSWER, "reasoning_content": "add them"}, AGAIN], None),
    "system last": ([USER, SYSTEM], None),
}


def by_transformers(template: str, messages: list[dict[str, Any]], tools: Any, prompt: bool, **variables: Any) -> str | None:
    """None where the template refuses."""
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered: Any = render_jinja_template([messages], tools=tools, chat_template=template, add_generation_prompt=prompt, **variables)
    except (jinja2.TemplateError, TypeError):
        return None
    return str(rendered[0][0])


@pytest.mark.skipif(not TEMPLATES, reason="../shared/data/templates is not there")
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_published_templates_render_as_transformers_renders_them(path: Path, name: str, prompt: bool) -> None:
    template = path.read_text("utf-8")
    messages, tools = CONVERSATIONS[name]
    expected = by_transformers(template, messages, tools, prompt, **NAMED)
    conversation = chat_template.Conversation(messages, tools)
    # Two of them know nothing of tools: transformers' renders without a word what they leave out, ours refuses.
    lost = "tools" not in template and (bool(tools) or any(message.get("tool_calls") for message in messages))
    if expected is None or lost:
        with pytest.raises(ChatTemplateError):
            chat_template.render(template, conversation, prompt, NAMED)
    else:
        assert chat_template.render(template, conversation, prompt, NAMED) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}\n    {% if loop.first %}\n{{ m.content | tojson(indent=2) }}\n    {% endif %}\n{% endfor %}",
        "{{ messages | tojson(separators=(',', ':'), sort_keys=true) }}{{ '<é>' | tojson }}{{ '<é>' | tojson(ensure_ascii=true) }}",
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
        "{% generation %}{{ messages[0].content | upper }}{% endgeneration %}!",
        "{{ strftime_now('%Y') }}{{ documents[0].text }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}{{ enable_thinking }}",
        "{{ messages[0]['missing'] }}{{ undefined_name }}|{{ messages[0].content[:4] }}|{{ messages[0].items() | list | length }}",
    ],
)
def test_what_templates_rely_on_is_there(template: str) -> None:
    documents = [{"title": "one", "text": "ünï"}]
    variables = {"enable_thinking": False, **NAMED}
    expected = by_transformers(template, [USER, AGAIN], None, True, documents=documents, **variables)
    assert expected is not None
    assert chat_template.render(template, chat_template.Conversation([USER, AGAIN], None, documents), True, variables) == expected


def test_the_reason_a_template_gives_is_passed_on() -> None:
    with pytest.raises(ChatTemplateError, match="only <users> here"):
        chat_template.render("{{ raise_exception('only <users> here') }}", chat_template.Conversation([USER]), True, {})


def test_the_built_in_model_gives_the_ids_of_transformers(tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    peer, ours = AutoTokenizer.from_pretrained(tiny_folder), Tokenizer(tiny_folder)
    for messages in ([USER], [SYSTEM, USER], [SYSTEM, USER, ANSWER, AGAIN]):
        for prompt in (True, False):
            expected = peer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
            assert ours.apply_chat_template(messages, add_generation_prompt=prompt) == expected
            assert ours.render_chat_template(messages, add_generation_prompt=prompt) == peer.apply_chat_template(
                messages, add_generation_prompt=prompt, tokenize=False
            )


@pytest.mark.parametrize("writes_bos", [True, False])
@pytest.mark.parametrize("add_bos", [True, False])
def test_the_beginning_token_comes_once_and_only_where_it_is_wanted(byte_level: Any, writes_bos: bool, add_bos: bool) -> None:
    template = ("{{ bos_token }}" if writes_bos else "") + "<|user|>{{ messages[0].content }}"
    bos = byte_level.token_to_id("<|end|>")
    metadata = byte_level_metadata(byte_level, bos_token_id=bos, add_bos_token=add_bos)
    ours = Tokenizer.from_gguf_metadata({**metadata, "tokenizer.chat_template": template}, "test")
    rest = [byte_level.token_to_id("<|user|>"), *ours.encode("hello", bos=False)]
    wanted = [bos] if writes_bos or add_bos else []
    assert ours.apply_chat_template([{"role": "user", "content": "hello"}]) == [*wanted, *rest]
    hidden = ours.apply_chat_template([{"role": "user", "content": "<|end|>"}])
    assert hidden == [*wanted, rest[0], *ours.encode("<|end|>", bos=False)]


def test_there_is_no_template_of_ours(byte_level: Any) -> None:
    ours = Tokenizer.from_gguf_metadata(byte_level_metadata(byte_level), "plain.gguf")
    assert ours.chat_template is None
    with pytest.raises(ChatTemplateError, match=r"plain\.gguf has no chat template.*--chat-template FILE"):
        ours.apply_chat_template([USER])
    assert ours.render_chat_template([USER], chat_template="{{ messages[0].role }}") == "user"


def test_templates_are_found_where_models_keep_them(tmp_path: Path, byte_level: Any) -> None:
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T{# tools #}"}, {"name": "rag", "template": "R"}]
    folder = save_folder(tmp_path / "named", byte_level, chat_template=named)
    ours = Tokenizer(folder)
    assert ours.render_chat_template([USER]) == "D"
    assert ours.render_chat_template([USER], tools=TOOLS) == "T"
    assert ours.render_chat_template([USER], chat_template="rag") == "R"
    (folder / "chat_template.jinja").write_text("file beside", "utf-8")
    assert Tokenizer(folder).render_chat_template([USER]) == "file beside"
    (folder / "chat_template.jinja").unlink()
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("newer{# tools #}", "utf-8")
    assert Tokenizer(folder).render_chat_template([USER], tools=TOOLS) == "newer"
    metadata = {**byte_level_metadata(byte_level), "tokenizer.chat_template": "G", "tokenizer.chat_template.tool_use": "GT{# tools #}"}
    gguf = Tokenizer.from_gguf_metadata(metadata, "gguf")
    assert (gguf.render_chat_template([USER]), gguf.render_chat_template([USER], tools=TOOLS)) == ("G", "GT")


def test_templates_in_one_file_and_the_object_form(tmp_path: Path, byte_level: Any) -> None:
    folder = save_folder(tmp_path / "object", byte_level, chat_template={"default": "D", "tool_use": "T{# tools #}"})
    ours = Tokenizer(folder)
    assert (ours.render_chat_template([USER]), ours.render_chat_template([USER], tools=TOOLS)) == ("D", "T")
    (tmp_path / "one.jinja").write_text("{{ messages[0].role }}!", "utf-8")
    (tmp_path / "several.json").write_text(
        json.dumps({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t{# tools #}"}]})
    )
    one, several = (read_chat_template(str(tmp_path / name), ours) for name in ("one.jinja", "several.json"))
    assert ours.render_chat_template([USER], chat_template=one) == "user!"
    assert ours.render_chat_template([USER], chat_template=several) == "d"
    assert ours.render_chat_template([USER], tools=TOOLS, chat_template=several) == "t"
    assert read_chat_template("tool_use", ours) == "tool_use"
    assert read_chat_template("{{ x }}", ours) == "{{ x }}"
    with pytest.raises(InvalidRequestError, match=r"tool_us' is neither a template nor a file.*default, tool_use"):
        read_chat_template("tool_us", ours)
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(InvalidRequestError, match="has no chat_template"):
        read_chat_template(str(tmp_path / "none.json"), ours)


@pytest.mark.parametrize("found", [5, [1], [{"name": "x"}], {"default": 3}])
def test_a_config_whose_templates_are_none_is_refused(tmp_path: Path, byte_level: Any, found: Any) -> None:
    with pytest.raises(ModelFileError, match=r"tokenizer_config\.json.*chat_template"):
        Tokenizer(save_folder(tmp_path, byte_level, chat_template=found))


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    conversation = chat_template.Conversation([{"role": "user", "content": parts}])
    assert conversation.messages == [{"role": "user", "content": "one two"}]


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "at least one"),
        ("hello", "must be a list"),
        ({"role": "user", "content": "x"}, "must be a list"),
        (["hello"], r"messages\[0\] must be a mapping"),
        ([{"content": "x"}], r"messages\[0\]: role"),
        ([{"role": "user|><|system", "content": "x"}], r"messages\[0\]: role"),
        ([USER, {"role": "user"}], r"messages\[1\] \(user\) has no content"),
        ([{"role": "user", "content": None}], r"messages\[0\]: content"),
        ([{"role": "user", "content": 5}], r"messages\[0\]: content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "image_url"),
        ([{"role": "user", "content": "\ud800"}], r"messages\[0\]\['content'\] has a lone surrogate"),
        ([{"role": "user", "content": "x", "extra": object()}], "object"),
    ],
)
def test_messages_that_are_none_are_refused_by_place(messages: Any, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        chat_template.Conversation(messages)


def test_the_callers_messages_are_never_changed() -> None:
    messages = [{"role": "user", "content": ["a", "b"], "list": [1, {"x": "<"}]}]
    before = repr(messages)
    conversation = chat_template.Conversation(messages)
    chat_template.Disguise("<", conversation, {}, "", lambda text: [(text, True)])
    conversation.messages[0]["list"][1]["x"] = "changed"
    assert repr(messages) == before


def test_data_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidRequestError, match="nest too deeply"):
        chat_template.Conversation([{"role": "user", "content": "x", "extra": endless}])
