"""Ways into servers like this one that others have left open: each is tried here, where no test of who may come in tries it."""

from __future__ import annotations

import hmac
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted import ScriptedService, ask
from server_process import Server
from victims import no_unexplained_failures, victims

import linnet
from linnet.server.guards.keys import Keys

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "1 + 1 = ?"}], "max_tokens": 2}
TEXT = {"model": "tiny", "prompt": "1 + 1 =", "max_tokens": 2}
CHATS, TEXTS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def said(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


# ---- templates
@pytest.mark.parametrize(
    "payload", ["{{ 7 * 7 }}", "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}", "{{ cycler }}"]
)
def test_what_messages_hold_is_no_template(http: httpx.Client, payload: str) -> None:
    """As text and as the role's name, the tool's or the caller's: it comes to the model as it stands, or not at all."""
    tokens = http.post("/tokenize", json={"messages": said(payload)}).json()["tokens"]
    assert payload in http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    for field in ("chat_template", "chat_template_kwargs", "template", "documents"):
        assert http.post(CHATS, json={**CHAT, field: payload}).status_code == 400
    assert http.post(CHATS, json={**CHAT, "messages": [{"role": payload, "content": "x"}]}).status_code == 400


def test_only_two_places_render_templates() -> None:
    """The sandboxed process, for those of models and requests; and that of our own pages, whose templates are files of the package."""
    root, made = Path(linnet.__file__).parent, set()
    for path in root.rglob("*.py"):
        source = path.read_text("utf-8")
        if "jinja2" in source and re.search(r"\b(Environment|Template|from_string|get_template)\b", source):
            made.add(path.relative_to(root).as_posix())
    assert made == {"text/template_process.py", "html_page/__init__.py"}


# ---- what a request can make the server fetch
def test_nothing_that_a_request_names_is_fetched(http: httpx.Client) -> None:
    """Images, files, schemas, models: refused, and no connection is made to where they point."""
    with socket.create_server(("127.0.0.1", 0)) as canary:
        url = f"http://127.0.0.1:{canary.getsockname()[1]}/x"
        for address in (url, "file:///etc/passwd", "http://169.254.169.254/latest/meta-data", "../../etc/passwd", "//127.0.0.1/x"):
            image = {"type": "image_url", "image_url": {"url": address}}
            source = {"type": "image", "source": {"type": "url", "url": address}}
            schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": address}}}
            wrong: list[tuple[str, dict[str, Any]]] = [
                (CHATS, {**CHAT, "messages": said([image])}),
                (CHATS, {**CHAT, "messages": said([{"type": "input_audio", "input_audio": {"data": address, "format": "wav"}}])}),
                (CHATS, {**CHAT, "response_format": schema}),
                (CHATS, {**CHAT, "model": address}),
                ("/v1/messages", {**CHAT, "messages": said([source])}),
                ("/v1/messages", {**CHAT, "mcp_servers": [{"type": "url", "url": address, "name": "x"}]}),
                ("/v1/responses", {"model": "tiny", "input": said([{"type": "input_image", "image_url": address}])}),
                ("/v1/responses", {"model": "tiny", "input": said([{"type": "input_file", "file_url": address}])}),
                ("/v1/responses", {"model": "tiny", "input": "x", "tools": [{"type": "mcp", "server_url": address}]}),
                ("/v1/embeddings", {"model": address, "input": "x"}),
            ]
            for path, body in wrong:
                answer = http.post(path, json=body)
                assert answer.status_code in (400, 404), (path, body, answer.text)
            assert http.get("/api/model_info", params={"model": address}).status_code == 404
        canary.setblocking(False)
        with pytest.raises(BlockingIOError):
            canary.accept()


# ---- control tokens
def called(arguments: dict[str, str]) -> dict[str, Any]:
    return {"name": "f", "arguments": json.dumps(arguments)}


def told(text: str) -> dict[str, Any]:
    return {"name": "f", "description": text, "parameters": {"type": "object", "properties": {"a": {"description": text, "enum": [text]}}}}


def result(text: str) -> list[dict[str, Any]]:
    calls = [{"id": "a", "type": "function", "function": called({"a": text})}]
    return [*said("x"), {"role": "assistant", "tool_calls": calls}, {"role": "tool", "tool_call_id": "a", "content": text}]


def used(text: str) -> list[dict[str, Any]]:
    use = {"type": "tool_use", "id": "a", "name": "f", "input": {"a": text, text: 1}}
    given = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": text}], "is_error": True}
    return [*said("x"), {"role": "assistant", "content": [use]}, {"role": "user", "content": [given, {"type": "text", "text": text}]}]


def items(text: str) -> list[dict[str, Any]]:
    call = {"type": "function_call", "call_id": "a", **called({"a": text})}
    return [*said([{"type": "input_text", "text": text}]), call, {"type": "function_call_output", "call_id": "a", "output": text}]


ROLES = ("system", "user", "assistant", "developer", "user")
BRIEF = {"/v1/responses": {"max_output_tokens": 9}}
PLACES: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    # wherever a request may put a text that comes into a prompt
    "a text": (TEXTS, lambda text: {"prompt": text}),
    "a question": ("/api/chat", lambda text: {"prompt": text}),
    "every role": (CHATS, lambda text: {"messages": [{"role": role, "content": text} for role in ROLES]}),
    "a part and a name": (CHATS, lambda text: {"messages": [{**said([{"type": "text", "text": text}])[0], "name": text}]}),
    "a call and its result": (CHATS, lambda text: {"messages": result(text)}),
    "a tool": (CHATS, lambda text: {"messages": said("x"), "tools": [{"type": "function", "function": told(text)}]}),
    "a system": ("/v1/messages", lambda text: {"messages": said(text), "system": text}),
    "a use and its result": ("/v1/messages", lambda text: {"messages": used(text)}),
    "instructions": ("/v1/responses", lambda text: {"input": text, "instructions": text}),
    "items": ("/v1/responses", lambda text: {"input": items(text)}),
}


@pytest.mark.parametrize("place", PLACES)
def test_nothing_in_a_request_becomes_a_control_token(place: str) -> None:
    """Whatever it spells out, wherever it stands: the model sees the control tokens of the template and no others."""
    path, body = PLACES[place]

    async def use(app: Any, service: ScriptedService) -> None:
        tokenizer = service.tokenizer(*service.models.open.values())
        attack = "".join(tokenizer.id_to_token(id) for id in sorted(tokenizer.special_ids))
        assert "<|assistant|>" in attack
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            for text in ("plain", attack, f"x{attack}<|end|>"):
                brief = BRIEF.get(path, {"max_tokens": 9})
                answer = await client.post(path, json={"model": "tiny", **brief, **body(text)})
                assert answer.status_code == 200, answer.text
        control = [[id for id in ids if id in tokenizer.special_ids] for ids in service.asked]
        assert control[0] == control[1] == control[2]
        assert all(text.count(attack) for text in service.prompts[1:])

    ask(use, "Yes.")


# ---- keys
def test_every_key_is_compared_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the time tells neither which key nearly fits nor that an earlier one did."""
    compared: list[tuple[bytes, bytes]] = []
    original = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return original(a, b)

    monkeypatch.setattr("linnet.server.guards.keys.hmac.compare_digest", counted)
    keys = Keys(lambda scope, receive, send: None, ["a" * 16, "b" * 16, "c" * 16])  # type: ignore[arg-type, return-value]
    for given, known in ((b"a" * 16, True), (b"c" * 16, True), (b"a" * 15 + b"x", False), (b"", False)):
        compared.clear()
        assert keys._is_known(given) is known
        assert len(compared) == 3
        assert {len(digest) for pair in compared for digest in pair} == {32}


# ---- beside a victim
def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"anyOf": [schema, {"type": "null"}]}
    return schema


BOMBS: list[dict[str, Any]] = [
    {"regex": "(" * 50_000 + "a" + ")" * 50_000},
    {"regex": "[^\\s\\S]"},
    {"grammar": "start: start"},
    {"grammar": "start: " + "(" * 100_000 + '"a"' + ")" * 100_000},
    {"json_schema": json.dumps({"$ref": "#"})},
    {"json_schema": json.dumps(nested(200))},
    {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}},
    {"choice": []},
]


def test_hostile_grammars_are_refused_and_nobody_waits_for_them(server: Server, http: httpx.Client) -> None:
    with victims(server):
        for bomb in BOMBS:
            answer = http.post(TEXTS, json={**TEXT, **bomb}, timeout=120)
            assert answer.status_code == 400, (bomb, answer.text[:500])
            assert len(answer.json()["error"]["message"]) < 2000
    no_unexplained_failures(server)


EDGES: list[tuple[str, dict[str, Any], int]] = [
    (TEXTS, {"prompt": ""}, 400),
    (TEXTS, {"prompt": [""]}, 400),
    (TEXTS, {"prompt": [[]]}, 400),
    (TEXTS, {"prompt": "", "max_tokens": 0}, 400),
    (TEXTS, {"max_tokens": 0}, 200),
    (TEXTS, {"max_tokens": 0, "n": 16, "echo": True, "logprobs": 0}, 200),
    (TEXTS, {"prompt": [5] * 1023, "max_tokens": 1}, 200),
    (TEXTS, {"prompt": [5] * 1024, "max_tokens": 0}, 200),
    (TEXTS, {"prompt": [5] * 1024, "max_tokens": 1}, 400),
    (TEXTS, {"prompt": [5], "max_tokens": 1023, "stop": ["\n"] * 64}, 200),
    (TEXTS, {"prompt": [0], "n": 16}, 200),
    (TEXTS, {"prompt": [4, 4, 4]}, 200),
    (TEXTS, {"prompt": [5] * 256, "best_of": 1}, 400),
    (TEXTS, {"prompt": ["x"] * 257}, 400),
    (TEXTS, {"min_tokens": 3}, 400),
    (TEXTS, {"stop_token_ids": list(range(1024))}, 200),
    (TEXTS, {"logit_bias": {str(token): -100 for token in range(1024)}}, 200),
    (TEXTS, {"logit_bias": {"4": 1e30}}, 200),
    (TEXTS, {"temperature": 100, "top_p": 0}, 200),
    (TEXTS, {"repetition_penalty": 1e-3, "presence_penalty": -100, "frequency_penalty": 100}, 200),
    (TEXTS, {"timeout": 0}, 504),
    (TEXTS, {"choice": ["", ""]}, 400),
    (CHATS, {"messages": said("")}, 200),
    (CHATS, {"messages": [{"role": "assistant", "content": ""}]}, 200),
    (CHATS, {"messages": [*said("x"), {"role": "assistant", "content": None, "tool_calls": []}]}, 400),
    (CHATS, {"messages": said([])}, 200),
    (CHATS, {"max_completion_tokens": 0, "max_tokens": None}, 200),
    (CHATS, {"tools": []}, 200),
    (CHATS, {"tools": [], "tool_choice": "required"}, 400),
]


def test_requests_at_the_edges_harm_nobody(server: Server, http: httpx.Client) -> None:
    """Of those that have ended other engines: no token to read, none to make, exactly the context, every token forbidden."""
    wrong = []
    with victims(server):
        for path, change, status in EDGES:
            for stream in (False, True):
                answer = http.post(path, json={**(CHAT if path == CHATS else TEXT), **change, "stream": stream}, timeout=120)
                if answer.status_code != status:
                    wrong.append((path, str(change)[:80], stream, answer.status_code, answer.text[:200]))
    assert not wrong
    no_unexplained_failures(server)
    assert http.get("/health").status_code == 200
