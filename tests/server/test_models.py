"""The models of a server: opened, closed, within a budget, sampled as their publishers advise."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx
import pytest
import yaml
from server_process import COMMAND, running

from linnet import LLM, LinnetError, OutOfMemoryError, SamplingParams
from linnet.load.checkpoint import open_checkpoint
from linnet.load.hub import locate
from linnet.model_options import ModelOptions
from linnet.op_set import open_op_set
from linnet.server import models
from linnet.server.app import create_app
from linnet.server.models import needs
from linnet.server.routes.completions import CompletionBody
from linnet.server.service import Service
from linnet.server.settings import ModelSettings, read_settings

ASKED = {"prompt": "What is 17 + 25?", "temperature": 0}
MESSAGES = [{"role": "user", "content": "hello"}]
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 12}),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 12}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 12}),
    ("/api/chat", {"prompt": "hello", "max_tokens": 12}),
    ("/api/trace", {"prompt": "hello", "max_tokens": 12}),
]

T = TypeVar("T")


def with_server(folder: Path, flags: dict[str, Any], use: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    """What `use` makes of a server of this model, in this process."""

    async def run() -> T:
        service = Service(read_settings([f"m={folder}"], flags))
        transport = httpx.ASGITransport(create_app(service))
        async with service.running(), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=120) as http:
            return await use(http)

    return asyncio.run(run())


def test_several_models_within_a_budget(tmp_path: Path) -> None:
    """Two fit at once: the third takes the place of the one that was used longest ago, and idle ones are closed."""
    file = tmp_path / "linnet.yaml"
    small = {"path": "tiny", "context": 256, "max_batch": 4}
    models = {**dict.fromkeys("abc", small), "broken": {**small, "chat_template": str(tmp_path / "none.jinja")}}
    file.write_text(yaml.safe_dump({"memory": 24_000_000, "idle_unload": 1, "models": models}))
    with running(tmp_path, "--config", str(file)) as server, server.client() as http:
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == sorted(models)
        refused = http.post("/api/chat", json={**ASKED, "model": "broken"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "model_unusable")
        assert "none.jinja" not in refused.text
        assert "none.jinja" in server.log.read_text()
        texts = {http.post("/api/chat", json={**ASKED, "model": name}).json()["response"] for name in "abca"}
        assert len(texts) == 1
        log = [json.loads(line)["message"] for line in server.log.read_text().splitlines() if '"model ' in line]
        events = [tuple(message.split()[1:3]) for message in log]
        assert events[:4] == [("a", "opened"), ("b", "opened"), ("a", "closed"), ("c", "opened")]
        until = time.monotonic() + 30
        while "model=" in http.get("/metrics").text and time.monotonic() < until:
            time.sleep(0.1)
        assert "model=" not in http.get("/metrics").text
        assert http.post("/api/chat", json=ASKED).json()["response"] in texts


def test_a_model_without_memory_ends_the_server(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "tiny", "--memory", "100000", "--port", "0"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "and --memory is 100000; raise it" in done.stderr
    assert "choose smaller weights" not in done.stderr  # none would do
    assert "unexpected" not in done.stderr


@pytest.mark.parametrize("extra", [0, 1000])
def test_a_model_larger_than_the_budget_is_told_what_helps(extra: int) -> None:
    weights, _ = needs(ModelSettings("m", "tiny"))
    page = needs(ModelSettings("m", "tiny", {"context": 1, "max_batch": 1}))[1]
    said = f"takes at least {weights + page} bytes of weights and KV cache, and --memory is {weights + extra}; raise it, or choose smaller"
    with pytest.raises(OutOfMemoryError, match=f"{said} weights: --weights q8_0 or q4_0"):
        answers(Path("tiny"), {"memory": weights + extra})


def test_a_model_that_does_not_open_ends_the_server(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    done = subprocess.run([*COMMAND, str(tmp_path / "model.gguf"), "--port", "0"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "model.gguf" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_time_in_which_a_model_opens_is_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every route, and streamed; what is left of it holds for the answer."""
    go, opened = threading.Event(), models._opened
    monkeypatch.setattr(models, "_opened", lambda *arguments: go.wait() and opened(*arguments))
    asked = [*BODIES, *((path, {**body, "stream": True}) for path, body in BODIES if path != "/api/trace")]
    asked += [("/v1/completions", {"prompt": "x"}), ("/v1/embeddings", {"input": "x"}), ("/tokenize", {"prompt": "x"})]

    async def run() -> None:
        service = Service(read_settings(["m=tiny", "other=tiny"], {"request_timeout": 0.1}))
        transport = httpx.ASGITransport(create_app(service))
        async with service.running(), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=120) as http:
            for path, body in asked:
                late = await http.post(path, json={**body, "model": "m"})
                assert late.status_code == 504, late.text
                assert "not opened within the request's timeout of 0.1 seconds" in late.text
            go.set()
            service.options = replace(service.options, request_timeout=600)
            body = CompletionBody(model="other", prompt="x", timeout=500)
            clock = iter([1000.0, 1400.0])  # when it is asked for, and when it is open
            monkeypatch.setattr("linnet.server.service.time", SimpleNamespace(monotonic=lambda: next(clock)))
            for left in (100, 500):
                async with service.using(body, body.model) as llm:
                    assert service.sampling(llm, body, body.params).timeout == left
                body = CompletionBody(model="other", prompt="x", timeout=500)

    try:
        asyncio.run(run())
    finally:
        go.set()


# ---- memory
@pytest.mark.parametrize("options", [{}, {"context": 100, "max_batch": 3, "kv_dtype": "q8_0"}, {"low_memory": True}, {"ops": "reference"}])
def test_a_draft_model_counts_against_the_budget(options: dict[str, Any]) -> None:
    """Weights and pages as often as they are taken: of a model that guesses for itself, twice."""
    weights, cache = needs(ModelSettings("alone", "tiny", options))
    assert needs(ModelSettings("both", "tiny", {**options, "draft": "tiny"})) == (2 * weights, 2 * cache)
    with LLM("tiny", **{**options, "draft": "tiny", "kv_memory": 2 * cache}) as llm:
        assert llm.context == options.get("context", llm.spec.context)
        pages = llm.counters().pages
    with LLM("tiny", **{**options, "kv_memory": cache}) as alone:
        assert alone.counters().pages == pages


@pytest.mark.parametrize("options", [{}, {"weights": "q4_0"}, {"low_memory": True}, {"ops": "torch"}, {"ops": "torch", "weights": "q4_0"}])
def test_weights_are_counted_as_they_are_taken(options: dict[str, Any]) -> None:
    asked = ModelOptions(**options)
    with closing(open_checkpoint("tiny")) as checkpoint, closing(open_op_set(asked, checkpoint)) as op_set:
        assert needs(ModelSettings("m", "tiny", options))[0] == op_set.weight_bytes


def test_a_batch_is_counted_by_the_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linnet.ops.torch.devices.usual_device", lambda: "cpu")
    assert needs(ModelSettings("m", "tiny", {"ops": "torch"})) == needs(ModelSettings("m", "tiny", {"ops": "torch", "device": "cpu"}))


def test_what_may_go_to_a_gpu_is_counted_as_it_would_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is not known yet, the larger figure holds."""
    here = needs(ModelSettings("m", "tiny"))[0]
    monkeypatch.setattr("linnet.choosing.SMALL", 0)
    monkeypatch.setattr("linnet.choosing.accelerators", lambda: ["cuda:0"])
    monkeypatch.setattr("linnet.choosing.open_device", lambda name: name)
    monkeypatch.setattr("linnet.choosing.free_memory", lambda device: 2**30)
    monkeypatch.setattr("linnet.choosing.torch_bytes", lambda *_: ([here], 1000, 0))
    monkeypatch.setattr("linnet.choosing.dtype_of", lambda device, wanted: None)
    assert needs(ModelSettings("m", "tiny"))[0] == here + 1000
    assert needs(ModelSettings("m", "tiny", {"device": "cpu"}))[0] == here


def test_a_draft_that_is_not_there_ends_the_server_at_once(tmp_path: Path) -> None:
    with pytest.raises(LinnetError, match=r"none/such.gguf.*no such file"):
        read_settings(["tiny"], {"draft": "none/such.gguf"})


# ---- what nobody need know
@pytest.mark.parametrize("without", [["chat_template.jinja"], ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"], []])
def test_no_refusal_tells_where_the_model_lies(tmp_path: Path, without: list[str]) -> None:
    folder = Path(shutil.copytree(locate("tiny"), tmp_path / "model"))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no messages') }}")
    for name in without:
        (folder / name).unlink()
    tools = [{"type": "function", "function": {"name": "f", "description": "f", "parameters": {"type": "object", "properties": {}}}}]
    bodies = [(path, {**body, **more}) for path, body in BODIES for more in ({}, {"regex": "a"}, {"stop": ["x"]})]
    bodies += [("/v1/chat/completions", {"messages": MESSAGES, "tools": tools}), ("/tokenize", {"messages": MESSAGES})]
    bodies += [("/v1/embeddings", {"input": "x"}), ("/v1/completions", {"prompt": "x"}), ("/detokenize", {"tokens": [5]})]

    async def use(http: httpx.AsyncClient) -> list[httpx.Response]:
        posted = [await http.post(path, json={"model": "m", **body}) for path, body in bodies]
        return posted + [await http.get(path) for path in ("/api/model_info", "/tokenizer_info", "/v1/models", "/metrics")]

    found = with_server(folder, {}, use)
    assert [answer for answer in found if answer.status_code == 400]
    for answer in found:
        assert answer.status_code in (200, 400), answer.text
        assert str(tmp_path) not in answer.text


# ---- what the publishers advise
ADVICE = {"do_sample": True, "temperature": 1.7, "top_k": 40, "top_p": 0.95, "repetition_penalty": 1.2}


@pytest.fixture
def advised(tmp_path: Path) -> Path:
    """The built-in model, with advice."""
    folder = Path(shutil.copytree(locate("tiny"), tmp_path / "advised"))
    (folder / "generation_config.json").write_text(json.dumps({**ADVICE, "eos_token_id": 4}))
    return folder


def answers(folder: Path, flags: dict[str, Any], *asked: tuple[str, dict[str, Any]]) -> list[Any]:
    """What a server of this model says to each."""

    async def use(http: httpx.AsyncClient) -> list[httpx.Response]:
        return [await http.post(path, json={"model": "m", "seed": 5, **body}) for path, body in asked]

    found = with_server(folder, flags, use)
    assert [answer.status_code for answer in found] == [200] * len(asked), [answer.text for answer in found]
    return [answer.json() for answer in found]


def text_of(answer: dict[str, Any]) -> str:
    if "choices" in answer:
        [choice] = answer["choices"]
        return str(choice["text"] if "text" in choice else choice["message"]["content"])
    if "output" in answer:
        return str(answer["output"][0]["content"][0]["text"])
    return str(answer["response"] if "response" in answer else answer["content"][0]["text"])


def test_what_a_request_leaves_out_is_as_the_publishers_advise(advised: Path) -> None:
    advice = {name: value for name, value in ADVICE.items() if name != "do_sample"}
    with LLM("tiny") as llm:

        def expected(**options: Any) -> str:
            return llm.chat(MESSAGES, SamplingParams(seed=5, max_tokens=12, **options)).text

        plain, followed = expected(), expected(**advice)
        given = expected(**{**advice, "temperature": 0.4, "top_k": 0})
        completed = llm.generate("hello", SamplingParams(seed=5, max_tokens=12, **advice))[0].text
    assert len({plain, followed, given}) == 3
    own = {"temperature": 0.4, "top_k": 0}
    completion = ("/v1/completions", {"prompt": "hello", "max_tokens": 12})
    found = answers(advised, {}, *BODIES, *((path, {**body, **own}) for path, body in BODIES), completion)
    assert [text_of(answer) for answer in found] == [followed] * len(BODIES) + [given] * len(BODIES) + [completed]
    assert (found[1]["temperature"], found[1]["top_p"]) == (1.7, 0.95)
    assert found[1 + len(BODIES)]["temperature"] == 0.4
    assert {text_of(answer) for answer in answers(advised, {"generation_config": "linnet"}, *BODIES)} == {plain}


def test_what_they_advise_is_told(advised: Path) -> None:
    async def use(http: httpx.AsyncClient) -> Any:
        return (await http.get("/api/model_info")).json()["sampling"]

    assert with_server(advised, {}, use) == {name: value for name, value in ADVICE.items() if name != "do_sample"}
    assert with_server(advised, {"generation_config": "linnet"}, use) == {}


def test_a_stream_follows_it_too(advised: Path) -> None:
    [whole] = answers(advised, {}, ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 12}))

    async def use(http: httpx.AsyncClient) -> str:
        body = {"model": "m", "seed": 5, "messages": MESSAGES, "max_tokens": 12, "stream": True}
        lines = (await http.post("/v1/chat/completions", json=body)).text.split("\n\n")
        deltas = [json.loads(line.removeprefix("data: "))["choices"][0]["delta"] for line in lines[:-2]]
        return "".join(delta.get("content") or "" for delta in deltas)

    assert with_server(advised, {}, use) == text_of(whole)


@pytest.mark.parametrize("advice", [{"temperature": "hot"}, {"top_p": 7}, {"top_k": -1}, {"repetition_penalty": float("inf")}])
def test_advice_that_nobody_could_follow_ends_the_server(advised: Path, advice: dict[str, Any]) -> None:
    (advised / "generation_config.json").write_text(json.dumps(advice))
    [name] = advice
    with pytest.raises(LinnetError, match=rf"generation_config.json.*{name}.*--generation-config linnet"):
        answers(advised, {}, BODIES[0])
    assert answers(advised, {"generation_config": "linnet"}, BODIES[0])
