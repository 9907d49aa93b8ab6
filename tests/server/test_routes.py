"""Simple routes, the WebSocket, tokens, and what those who run the server ask."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
import sentencepiece
import yaml
from prometheus_client.parser import text_string_to_metric_families
from server_process import Server, running
from websockets.sync.client import connect

import linnet.server
from linnet import LLM, LinnetError, SamplingParams
from linnet.server.settings import model_name, read_settings

TINY = Path(__file__).parents[2] / "models" / "tiny"
ASKED = {"prompt": "What is 17 + 25?", "temperature": 0}


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny") as llm:
        yield llm


def test_one_question_one_answer(http: httpx.Client, llm: LLM) -> None:
    expected = llm.chat([{"role": "user", "content": ASKED["prompt"]}], SamplingParams(temperature=0))
    answer = http.post("/api/chat", json=ASKED).json()
    assert answer["response"] == expected.text
    assert answer["tokens_generated"] == expected.usage.completion_tokens
    assert answer["generation_time"] > 0
    assert answer["tokens_per_second"] > 0
    same = http.post("/api/chat", json={"messages": [{"role": "user", "content": ASKED["prompt"]}], "temperature": 0, "model": "tiny"})
    assert same.json()["response"] == expected.text
    lines = http.post("/api/chat", json={**ASKED, "stream": True}).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert "".join(event.get("text", "") for event in events) == expected.text
    assert events[-1]["done"]
    assert events[-1]["response"] == expected.text
    assert http.post("/api/chat", json={**ASKED, "messages": []}).status_code == 400
    assert http.post("/api/chat", json={"temperature": 0}).status_code == 400
    assert "top needs stream" in http.post("/api/chat", json={**ASKED, "top": 2}).text


def test_a_trace_is_that_of_the_library(http: httpx.Client, llm: LLM) -> None:
    expected = llm.trace([{"role": "user", "content": ASKED["prompt"]}], 3, SamplingParams(temperature=0, max_tokens=5))
    found = http.post("/api/trace", json={**ASKED, "top": 3, "max_tokens": 5}).json()
    assert [step["chosen"]["token_id"] for step in found["steps"]] == [step.chosen.token_id for step in expected]
    assert [[c["logprob"] for c in step["candidates"]] for step in found["steps"]] == [[c.logprob for c in s.candidates] for s in expected]
    assert found["response"] == expected[-1].completion.text


def test_what_the_model_is(http: httpx.Client, llm: LLM) -> None:
    found = http.get("/api/model_info").json()
    assert (found["name"], found["family"], found["context"]) == ("tiny", llm.spec.family, llm.context)
    assert 3e6 < found["parameters"] < 4e6
    assert found["sampling"] == {}  # nothing is advised
    assert http.get("/api/model_info?model=none").status_code == 404


def test_a_web_socket_answers_and_cancels(server: Server, http: httpx.Client) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/api/ws") as socket:

        def ask(message: object) -> list[dict[str, object]]:
            socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))
            found = [json.loads(socket.recv(30))]
            while "error" not in found[-1] and not found[-1].get("done"):
                found.append(json.loads(socket.recv(30)))
            return found

        expected = http.post("/api/chat", json=ASKED).json()["response"]
        assert ask(ASKED)[-1]["response"] == expected
        assert "".join(str(event.get("text", "")) for event in ask(ASKED)) == expected
        options = {**ASKED, "top": 2, "begin": http.post("/tokenize", json={"prompt": "So", "add_special_tokens": False}).json()["tokens"]}
        lines = http.post("/api/chat", json={**options, "stream": True}).text.split("\n\n")
        events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
        assert [event for event in ask(options) if "text" in event] == events[:-1]
        assert events[0] == {"text": "So"}
        assert len(events[1]["tokens"][0]["top"]) == 2
        assert "leave stream out" in str(ask({**ASKED, "stream": False}))
        socket.send(json.dumps({"prompt": "Once", "max_tokens": 1000, "ignore_eos": True}))
        assert "text" in json.loads(socket.recv(30))
        assert "an answer runs" in str(ask_busy(socket))
        assert ask({"cancel": True})[-1] == {"done": True, "cancelled": True}
        for bad in ({"foo": 1}, "{", b"\xff", "[" * 1000, {"prompt": ""}, {"prompt": "x", "max_tokens": 10**6}, "3"):
            assert ask(bad)[-1]["error"]["type"] == "invalid_request_error"
        assert ask(ASKED)[-1]["response"] == expected
        socket.send(json.dumps({"prompt": "Once", "max_tokens": 1000, "ignore_eos": True}))  # and leaves


def ask_busy(socket: object) -> dict[str, object]:
    socket.send(json.dumps(ASKED))
    while "error" not in (message := json.loads(socket.recv(30))):
        pass
    return message["error"]


def test_tokens_there_and_back(http: httpx.Client, llm: LLM) -> None:
    text = "Grüße, 17 + 25!"
    found = http.post("/tokenize", json={"prompt": text}).json()
    assert found == {"tokens": llm.tokenize(text), "count": len(llm.tokenize(text)), "max_model_len": 1024}
    assert http.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": text}
    assert "token id 9999 is outside" in http.post("/detokenize", json={"tokens": [9999]}).text
    messages = [{"role": "user", "content": "Hi"}]
    assert http.post("/tokenize", json={"messages": messages}).json()["tokens"] == llm.tokenize(messages)
    assert http.post("/tokenize", json={"messages": messages, "add_special_tokens": False}).json()["tokens"] == llm.tokenize(messages)
    refused = http.post("/tokenize", json={"messages": messages, "add_special_tokens": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "add_special_tokens")
    assert http.get("/tokenizer_info").json()["eos_token"] == "<|end|>"


def test_metrics_add_up(http: httpx.Client, server: Server) -> None:
    def values() -> dict[str, float]:
        families = text_string_to_metric_families(http.get("/metrics").text)
        return {f"{sample.name}{sorted(sample.labels.items())}": sample.value for family in families for sample in family.samples}

    before = values()
    answers = [http.post("/v1/completions", json={"model": "tiny", "prompt": f"{i} and", "max_tokens": 5, "n": 2}).json() for i in range(4)]
    http.get("/no/such/route/1")
    http.get("/no/such/route/2")
    grown = {name: value - before.get(name, 0) for name, value in values().items()}
    model = [("model", "tiny")]
    assert grown[f"linnet_submitted_total{model}"] == 4
    assert grown[f"linnet_prompt_tokens_total{model}"] == sum(answer["usage"]["prompt_tokens"] for answer in answers)
    assert grown[f"linnet_generated_tokens_total{model}"] == sum(answer["usage"]["completion_tokens"] for answer in answers)
    assert grown[f"linnet_first_token_seconds_count{model}"] == 8
    labels = [("method", "POST"), ("route", "/v1/completions"), ("status", "200")]
    assert grown[f"linnet_http_requests_total{labels}"] == 4
    assert not [name for name in grown if "such" in name]
    for method in ("MADEUP", "OTHER"):
        assert http.request(method, "/v1/models").status_code == 405
    assert "MADEUP" not in http.get("/metrics").text
    page = Path(linnet.server.__file__).with_name("web") / "monitor.js"
    asked = set(re.findall(r"found\.(linnet_\w+)", page.read_text()))
    assert {f"{name}{model}" for name in asked} <= values().keys()
    assert asked
    if sys.platform == "linux":
        resident = next(line for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
        assert values()["process_resident_memory_bytes[]"] == pytest.approx(int(resident.split()[1]) * 1024, rel=0.5)


def test_every_request_has_an_id_and_a_line(http: httpx.Client, server: Server) -> None:
    given = http.get("/v1/models", headers={"x-request-id": "mine-1"}).headers["x-request-id"]
    odd = http.get("/v1/models", headers={"x-request-id": "x" * 100}).headers["x-request-id"]
    assert given == "mine-1"
    assert len(odd) == 32
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    found = next(line for line in lines if line.get("request_id") == "mine-1")
    assert (found["method"], found["path"], found["status"]) == ("GET", "/v1/models", 200)


def test_who_asks_is_written_to_the_log(http: httpx.Client, server: Server) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "user": "ann"}
    assert http.post("/v1/chat/completions", json=body, headers={"x-request-id": "ann-1"}).status_code == 200
    del body["user"]
    asked = {**body, "metadata": {"user_id": "bob"}}
    assert http.post("/v1/messages", json=asked, headers={"x-request-id": "bob-1"}).status_code == 200
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    for name in ("ann", "bob"):
        assert next(line for line in lines if line.get("request_id") == f"{name}-1")["user"] == name


def test_health_and_readiness(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/api/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ok"}


def test_a_file_then_the_environment_then_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "linnet.yaml"
    models = {"a": "tiny", "b": {"path": "tiny", "weights": "q8_0"}}
    file.write_text(yaml.safe_dump({"port": 1, "max-n": 2, "allowed_hosts": ["x"], "context": 100, "models": models}))
    monkeypatch.setenv("LINNET_MAX_N", "3")
    monkeypatch.setenv("LINNET_ALLOWED_ORIGINS", "https://a.example,https://b.example")
    settings = read_settings([], {"port": 4}, file)
    assert (settings.server.port, settings.server.max_n, settings.server.allowed_hosts) == (4, 3, ("x",))
    assert settings.server.allowed_origins == ("https://a.example", "https://b.example")
    assert [(model.name, model.options["context"]) for model in settings.models] == [("a", 100), ("b", 100)]
    assert settings.models[1].options["weights"] == "q8_0"
    assert [model.name for model in read_settings(["c=tiny"], {}, file).models] == ["c"]
    assert model_name(str(tmp_path)) == tmp_path.name
    assert model_name("owner/name") == "owner/name"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("portt: 1", "portt"),
        ("port: x", "port"),
        ("port: 70000", "between 0 and 65535"),
        ("[1, 2]", "must hold options by name"),
        ("{", "not a YAML file"),
        ("models: {a: {path: tiny, contextt: 1}}", "models.a.contextt"),
        ("models: {a: {context: 1}}", "has no path"),
        ("models: {a: {path: tiny, context: 0}}", "model a: context"),
        ("models: {'a b': tiny}", "model name"),
        ("models: {a: none/such/path}", "no such file"),
        ("trust_remote_code: true", "trust_remote_code"),
        ("models: {a: {path: tiny, trust_remote_code: true}}", "models.a.trust_remote_code: there is no such option"),
        ("port: 1", "no model to serve"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "linnet.yaml"
    file.write_text(content)
    with pytest.raises(LinnetError, match=message):
        read_settings([], {}, file)


def test_a_text_that_is_gone_on_with_keeps_its_spaces(tmp_path: Path) -> None:
    """Tokens of SentencePiece begin with the space before a word, which a text by itself does not begin with."""
    folder = tmp_path / "pieces"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("tokenizer*", "*.jinja", "*.py", "README.md"))
    words = "the fox and the owl lived near the river and the forest"
    with (folder / "tokenizer.model").open("wb") as file:
        options = {"vocab_size": 40, "model_type": "bpe", "minloglevel": 2}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter([words] * 20), model_writer=file, **options)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    bias = {str(id): 100 for id in pieces.encode("the fox and owl")}
    asked = {"model": "pieces", "prompt": "the owl", "max_tokens": 5, "temperature": 0, "logit_bias": bias, "ignore_eos": True}
    with running(tmp_path, f"pieces={folder}") as server, server.client() as http:
        found = http.post("/v1/completions", json={**asked, "echo": True, "logprobs": 0}).json()["choices"][0]
        ids = [pieces.piece_to_id(token.replace(" ", "▁")) for token in found["logprobs"]["tokens"]][-5:]
        assert found["text"] == pieces.decode([*pieces.encode("the owl"), *ids])
        offsets = [*found["logprobs"]["text_offset"][-5:], len(found["text"])]
        assert [found["text"][start:end] for start, end in pairwise(offsets)] == found["logprobs"]["tokens"][-5:]
        chosen = http.post("/v1/completions", json={**asked, "echo": True, "logprobs": 0, "choice": ["the fox"], "max_tokens": 50})
        chosen = chosen.json()["choices"][0]
        assert chosen["text"] == "the owlthe fox"  # an answer by a rule is a text by itself
        tokens, offsets = chosen["logprobs"]["tokens"], chosen["logprobs"]["text_offset"]
        own = offsets.index(len("the owl"))
        parts = [chosen["text"][start:end] for start, end in pairwise([*offsets[own:], len(chosen["text"])])]
        assert parts == [tokens[own].removeprefix(" "), *(token.replace("</s>", "") for token in tokens[own + 1 :])]
        empty = http.post("/v1/completions", json={**asked, "prompt": "", "echo": True, "logprobs": 0}).json()["choices"][0]
        assert empty["text"] == pieces.decode([pieces.piece_to_id(token.replace(" ", "▁")) for token in empty["logprobs"]["tokens"][1:]])
        assert empty["logprobs"]["text_offset"][:2] == [0, 0]
        prompt = [pieces.bos_id(), *pieces.encode("the owl")]
        assert http.post("/v1/completions", json={**asked, "prompt": prompt, "echo": True}).json()["choices"][0]["text"] == found["text"]
        whole = http.post("/api/chat", json=asked).json()["response"]
        assert whole == found["text"].removeprefix("the owl")
        rest = http.post("/api/chat", json={**asked, "begin": ids[:2], "max_tokens": 3}).json()["response"]
        assert rest == whole.removeprefix(" ")  # what an answer begins with is a text by itself
