"""lm-eval's `local-completions`: the same log-probabilities as scoring through the Python API, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from server_process import Server

from linnet import LLM

lm_eval = pytest.importorskip("lm_eval")

PAIRS = [
    ("The capital of Italy is", " Rome."),
    ("What is 2 + 2?", "\n2 + 2 = 4"),
    ("Once upon a time there was", " a little girl called Anna."),
    ("Ünïcode", " und ein langes Wort: Donaudampfschifffahrt"),
]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny") as llm:
        yield llm


@pytest.fixture(scope="module")
def harness(server: Server) -> Any:
    """With the server's own tokenizer, which it finds by itself."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    url = f"{server.url}/v1/completions"
    return LocalCompletionsAPI(model="tiny", base_url=url, tokenizer_backend="remote", max_length=1024, num_concurrent=1, max_retries=1)


def test_log_likelihoods_are_those_of_the_library(harness: Any, llm: LLM) -> None:
    from lm_eval.api.instance import Instance

    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(PAIRS)]
    found = harness.loglikelihood(requests)
    for (context, continuation), (total, greedy) in zip(PAIRS, found, strict=True):
        whole, head = llm.tokenizer.encode(context + continuation), llm.tokenizer.encode(context)
        entries = llm.score(whole)[len(head) - 1 :]
        assert total == pytest.approx(sum(entry.logprob for entry in entries), abs=1e-12)
        likeliest = [int(row.argmax()) for row in llm.logits(whole)[len(head) - 1 : -1]]
        assert greedy == (likeliest == whole[len(head) :])


def test_every_token_is_scored_alike(server: Server, llm: LLM) -> None:
    import httpx

    for context, continuation in PAIRS:
        text = context + continuation
        body = {"model": "tiny", "prompt": text, "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
        choice = httpx.post(f"{server.url}/v1/completions", json=body).json()["choices"][0]
        assert choice["logprobs"]["token_logprobs"][1:-1] == [entry.logprob for entry in llm.score(text)]


def test_answers_until_a_stop(harness: Any, llm: LLM) -> None:
    from lm_eval.api.instance import Instance

    from linnet import SamplingParams

    prompt, options = "What is 17 + 25?", {"until": ["=", "\n"], "max_gen_toks": 20, "temperature": 0}
    [found] = harness.generate_until([Instance(request_type="generate_until", doc={}, arguments=(prompt, options), idx=0)])
    expected = llm.generate(prompt, SamplingParams(temperature=0, max_tokens=20, stop=["=", "\n", "<|end|>"]))[0].text
    assert found == expected
