"""Promise 1 in full: whatever else runs, and however, a request that finishes has the tokens of its run alone at the same seed.

Bit for bit on the native and reference op sets; on torch, whose kernels may round otherwise in a batch of another size, greedy tokens are
compared, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from family import VOCABULARY
from harness import random_tokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linnet import LLM, Chunk, Completion, Handle, SamplingParams
from linnet.engine.page_plan import page_bytes
from linnet.engine.prefix_cache import PrefixCache
from linnet.engine.step_costs import StepCosts
from models import NAMED, Draw

NAMES = ["llama-dynamic", "mistral-window", "gemma2-window", "chatglm-plain", "deepseek_v2-plain", "gpt_oss-plain", "nanochat-plain"]
NAMES += ["gpt_neo-untied", "lfm2-plain", "qwen3_5-plain"]
"""What differs in how keys, values and positions come about: ropes that depend on a request's length, windows, prompts that are seen
both ways, latent attention, sinks, tokens before one's own; a window in texts that slide past the context; and states in their place."""
RECURRENT = ("lfm2", "qwen3_5")
"""They guess nothing: a state cannot be taken back."""
DRAWS = [draw for draw in NAMED if str(draw) in NAMES]
SLIDES = "gpt_neo"
[OTHER] = (draw for draw in NAMED if str(draw) == "llama-plain")
"""A model that seldom says what another does: as a draft model it is mostly wrong."""
LONGEST = 90
CONTEXT, SHORT = 128, 40
"""The context; and that of the model that slides, past which most answers go."""
TEXTS = [random_tokens(LONGEST, VOCABULARY, seed) for seed in range(3)]

Saved = Callable[[Draw], Path]


@dataclass(frozen=True)
class Asked:
    """A request: the beginning of which text, when it comes, and after how many tokens it is cancelled, if at all."""

    text: int
    length: int
    arrival: int
    cancelled: int | None
    cache: bool
    options: dict[str, Any]

    @property
    def prompt(self) -> list[int]:
        return TEXTS[self.text][: self.length]

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(**self.options)


asked = st.builds(
    Asked,
    text=st.integers(0, 2),
    length=st.integers(1, LONGEST),
    arrival=st.integers(0, 20),
    cancelled=st.one_of(st.none(), st.none(), st.integers(1, 12)),
    cache=st.sampled_from([True, True, True, False]),
    options=st.fixed_dictionaries(
        {
            "max_tokens": st.integers(0, 30),
            "temperature": st.sampled_from([0.0, 0.8]),
            "seed": st.integers(0, 3),
            "n": st.sampled_from([1, 1, 1, 3]),
            "top_k": st.sampled_from([0, 20]),
            "top_p": st.sampled_from([1.0, 0.9]),
            "min_p": st.sampled_from([0.0, 0.05]),
            "repetition_penalty": st.sampled_from([1.0, 1.2]),
            "logprobs": st.sampled_from([None, None, 2]),
            "prompt_logprobs": st.sampled_from([None, None, None, 0]),
            "ignore_eos": st.booleans(),
            "priority": st.sampled_from([0, 0, 1]),
            "speculation": st.sampled_from(["auto", "lookup", "off"]),
            "num_beams": st.sampled_from([1, 1, 1, 2, 3]),
        }
    ),
)

engines = st.fixed_dictionaries(
    {
        "prefill_chunk": st.sampled_from([1, 5, 32, 70, 512]),
        "max_batch": st.integers(1, 6),
        "pages": st.sampled_from([4, 5, 8, 24]),  # one request may come to four
        "prefix_cache": st.booleans(),
        "kv_dtype": st.sampled_from(["f16", "q8_0"]),
        "guesses": st.booleans(),
        "draft": st.sampled_from([None, None, "itself", "another"]),
    }
)


class FreeGuesses(StepCosts):
    """Whatever may be guessed pays: no clock decides what is tested."""

    def is_known(self, rows: int) -> bool:
        return True

    def seconds(self, rows: int) -> float:
        return 1.0


def shape_of(draw: Draw) -> dict[str, Any]:
    return {"context": SHORT, "overflow": "slide"} if draw.family == SLIDES else {"context": CONTEXT}


@lru_cache(maxsize=6)
def alone(saved: Saved, draw: Draw, ops: str, kv_dtype: str, max_batch: int = 1) -> LLM:
    return LLM(saved(draw), ops=ops, max_batch=max_batch, prefix_cache=False, kv_dtype=kv_dtype, **shape_of(draw))


def crowded(saved: Saved, draw: Draw, ops: str, options: dict[str, Any]) -> LLM:
    itself = draw if PrefixCache.suits(alone(saved, draw, ops, options["kv_dtype"]).spec) else OTHER  # else it reads prompts both ways
    guessing = {None: [], "itself": [itself], "another": [OTHER]}[options["draft"]]
    each = sum(page_bytes(alone(saved, model, ops, options["kv_dtype"]).spec, options["kv_dtype"]) for model in (draw, *guessing))
    others = {name: value for name, value in options.items() if name not in ("pages", "guesses", "draft")}
    draft = next(map(saved, guessing), None)
    llm = LLM(saved(draw), ops=ops, kv_memory=options["pages"] * each, draft=draft, **shape_of(draw), **others)
    if options["guesses"]:
        llm.engine.speculator.costs = FreeGuesses()
    return llm


def play(llm: LLM, requests: list[Asked]) -> Iterator[tuple[Asked, Handle, list[Chunk]]]:
    """Every request in its time, and what was read of it: all streams are read in turn, a chunk at a time."""
    streams: dict[int, tuple[Handle, Iterator[Chunk], list[Chunk]]] = {}
    reading: list[int] = []
    step = 0
    while reading or len(streams) < len(requests):
        for index, a in enumerate(requests):
            if a.arrival == step:
                handle = llm.submit(a.prompt, a.params, cache=a.cache)
                streams[index] = handle, iter(handle), []
                reading.append(index)
        for index in tuple(reading):
            handle, chunks, read = streams[index]
            chunk = next(chunks, None)
            if chunk is not None:
                read.append(chunk)
            if chunk is None or len(read) == requests[index].cancelled:
                handle.cancel()
                reading.remove(index)
        step += 1
    for index, (handle, _, read) in streams.items():
        yield requests[index], handle, read


def spoken(completions: list[Completion]) -> list[tuple[Any, ...]]:
    return [(c.token_ids, c.finish_reason) for c in completions]


def everything(completions: list[Completion]) -> list[tuple[Any, ...]]:
    return [(c.token_ids, c.finish_reason, c.logprobs, c.prompt_logprobs) for c in completions]


def fitted(asked: Asked, draw: Draw, engine: dict[str, Any]) -> Asked:
    """A request with no more beams than an engine takes, without what beams do not go with, nor what no prompt past the context does."""
    options, beams = asked.options, min(asked.options["num_beams"], engine["max_batch"], engine["pages"] // 4)
    if draw.family == SLIDES and asked.length > SHORT:
        options = options | {"prompt_logprobs": None, "max_tokens": max(1, options["max_tokens"])}
    if beams > 1:
        return replace(asked, options=options | {"num_beams": beams, "n": min(options["n"], beams), "speculation": "auto"})
    guessed_by = {"auto": "draft"} if engine["draft"] and engine["guesses"] else {}
    guessed_by = {"lookup": "auto"} if draw.family in RECURRENT else guessed_by
    return replace(asked, options=options | {"num_beams": 1, "speculation": guessed_by.get(options["speculation"], options["speculation"])})


def check(saved: Saved, draw: Draw, ops: str, options: dict[str, Any], requests: list[Asked]) -> None:
    greedy = ops == "torch"
    said, same = (spoken, {"temperature": 0.0, "num_beams": 1}) if greedy else (everything, {})
    options = {**options, "kv_dtype": "f32"} if greedy else options
    options = {**options, "draft": None} if draw.family in RECURRENT else options
    requests = [fitted(replace(a, options=a.options | same), draw, options) for a in requests]
    with crowded(saved, draw, ops, options) as llm:
        for a, handle, read in play(llm, requests):
            solo = alone(saved, draw, ops, options["kv_dtype"], a.params.num_beams)
            expected = solo.generate([a.prompt], replace(a.params, speculation="off"))
            if a.cancelled is None:
                assert said(handle.result()) == said(expected)
            for sample, whole in enumerate(expected):
                tokens = [token for chunk in read if chunk.index == sample for token in chunk.token_ids]
                assert tokens == whole.token_ids[: len(tokens)]
        counters = llm.counters()
        assert counters.pages_used == 0
        assert sum(counters.outcomes.values()) == len(requests)


quick = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
long = settings(quick, max_examples=150)


CASES = [pytest.param(draw, ops, id=f"{draw}-{ops}") for draw in DRAWS for ops in ("native", "reference", "torch")]
FEW = ("llama-dynamic-reference", "mistral-window-reference", "mistral-window-torch", "gpt_oss-plain-torch")
QUICK = [case for case in CASES if case.id in FEW or case.id.endswith("native")]


@pytest.mark.parametrize(("draw", "ops"), QUICK)
def test_any_company_gives_the_tokens_of_solo_runs(draw: Draw, ops: str, saved: Saved) -> None:
    @settings(quick, max_examples={"reference": 2, "torch": 4}.get(ops, 8))
    @given(options=engines, requests=st.lists(asked, min_size=2, max_size=6))
    def holds(options: dict[str, Any], requests: list[Asked]) -> None:
        check(saved, draw, ops, options, requests)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "ops"), CASES)
def test_any_company_at_length(draw: Draw, ops: str, saved: Saved) -> None:
    @long
    @given(options=engines, requests=st.lists(asked, min_size=2, max_size=12))
    def holds(options: dict[str, Any], requests: list[Asked]) -> None:
        check(saved, draw, ops, options, requests)

    holds()


def test_64_streams_of_mixed_length_in_one_run() -> None:
    prompts = [TEXTS[index % 3][: 1 + (37 * index) % LONGEST] for index in range(64)]
    params = [SamplingParams(max_tokens=2 + 29 * i % 45, temperature=0.7 * (i % 2), seed=i, ignore_eos=True) for i in range(64)]
    with LLM("tiny", max_batch=1, prefix_cache=False) as solo:
        expected = [solo.generate([prompt], p)[0].token_ids for prompt, p in zip(prompts, params, strict=True)]
    for options in ({"max_batch": 64}, {"max_batch": 16, "prefill_chunk": 48}):
        with LLM("tiny", **options) as llm:  # type: ignore[arg-type]
            handles = [llm.submit(prompt, p) for prompt, p in zip(prompts, params, strict=True)]
            chunks = [iter(handle) for handle in handles]
            found: list[list[int]] = [[] for _ in handles]
            while not all(handle.done for handle in handles):
                for tokens, stream in zip(found, chunks, strict=True):
                    tokens += next((chunk.token_ids for chunk in stream), [])
            assert [handle.result()[0].token_ids for handle in handles] == expected
            assert llm.counters().generated_tokens == sum(map(len, expected))
