"""A server whose model transformers runs."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("transformers")

import httpx

from linnet import InvalidRequestError
from linnet.server.app import create_app
from linnet.server.service import Service
from linnet.server.settings import read_settings


def test_a_server_answers_streams_and_refuses(folders):
    settings = read_settings([f"t5={folders('t5')}"], {"backend": "transformers", "max_batch": 4})
    service = Service(settings)

    async def talk():
        transport = httpx.ASGITransport(create_app(service))
        async with service.running(), httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
            body = {"model": "t5", "prompt": "the linnet", "max_tokens": 6, "temperature": 0}
            whole, again, refused, odd = await asyncio.gather(
                http.post("/v1/completions", json=body),
                http.post("/v1/completions", json={**body, "stream": True}),
                http.post("/v1/completions", json={**body, "presence_penalty": 1.0}),
                http.post("/v1/completions", json={**body, "trust_remote_code": True}),
            )
            embedded = await http.post("/v1/embeddings", json={"model": "t5", "input": "a"})
            health = await http.get("/health")
            return whole, again, refused, odd, embedded, health

    whole, again, refused, odd, embedded, health = asyncio.run(talk())
    assert whole.status_code == health.status_code == 200, whole.text
    events = [json.loads(line[6:]) for line in again.text.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events if event["choices"]) == whole.json()["choices"][0]["text"]
    assert (refused.status_code, odd.status_code, embedded.status_code) == (400, 400, 400)
    assert "presence_penalty is not there" in refused.text
    assert "trust_remote_code" in odd.text
    assert "another backend" in embedded.text


def test_a_budget_of_memory_is_refused(folders):
    with pytest.raises(InvalidRequestError, match="--memory is for Linnet's own engine"):
        read_settings([str(folders("t5"))], {"backend": "transformers", "memory": 10**9})
