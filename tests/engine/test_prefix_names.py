"""What the prefix cache calls its pages: by all that their keys and values follow from, so that nobody gets another's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mock_model import mock_engine, request, run

from linnet.arch.config import Config
from linnet.arch.registry import build
from linnet.engine.pages import PagePool
from linnet.engine.prefix_cache import PrefixCache
from linnet.engine.request import Sequence
from linnet.ops.base import PAGE_SIZE

STRETCHED = {"rope_type": "dynamic", "factor": 4.0}
SHAPE = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 50}
SPEC, _ = build(Config({"model_type": "llama", "max_position_embeddings": 128, "rope_scaling": STRETCHED, **SHAPE}, "config"))


def sequence(tokens: list[int], adapter: str | None = None) -> Sequence:
    asked = request(tokens, max_tokens=1)
    object.__setattr__(asked.params, "adapter", adapter)  # adapters are not built yet; that they part prompts is
    return Sequence(asked, 0, list(tokens), limit=1, need=[4], sampler=None)  # type: ignore[arg-type]


def new_cache() -> PrefixCache:
    return PrefixCache(PagePool([16]), SPEC)


def filled(cache: PrefixCache, tokens: list[int], adapter: str | None, length: int) -> Sequence:
    """A sequence whose pages are computed and named."""
    done = sequence(tokens, adapter)
    done.pages, done.computed = [cache.pool.groups[0].allocate(len(tokens) // PAGE_SIZE + 1)], len(tokens)
    cache.store(done, length)
    return done


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(1, 4 * PAGE_SIZE),
    kept=st.integers(0, 4 * PAGE_SIZE),
    changed=st.integers(1, 2**31 - 1),
    more=st.integers(0, 2 * PAGE_SIZE),
    adapters=st.tuples(*[st.sampled_from([None, None, "a", "b"])] * 2),
    lengths=st.tuples(*[st.sampled_from([1, 127, 128, 129, 200])] * 2),
)
def test_pages_are_shared_by_equal_beginnings_alone(
    length: int, kept: int, changed: int, more: int, adapters: tuple[str | None, ...], lengths: tuple[int, ...]
) -> None:
    """One token tells prompts apart; and so do adapters, and lengths to which the ropes turn otherwise: past their context, each."""
    first = np.random.default_rng(length).integers(0, 2**31, length).tolist()
    second = [*first[:kept], *[token ^ changed for token in first[kept : kept + 1]], *first[kept + 1 :], *[1] * more]
    cache = new_cache()
    done = filled(cache, first, adapters[0], lengths[0])
    pages, count = cache.find(sequence(second, adapters[1]), lengths[1])
    suits = adapters[0] == adapters[1] and (max(lengths) <= 128 or lengths[0] == lengths[1])
    assert count == (min(kept, length, len(second) - 1) // PAGE_SIZE if suits else 0)
    assert pages == [done.pages[0][:count]]
    assert new_cache().find(sequence(first, adapters[0]), lengths[0])[1] == 0  # nor from one model to another


def test_a_name_is_the_digest_of_everything_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []

    def sha256(data: bytes) -> Any:
        seen.append(data)
        return hashlib.sha256(data)

    monkeypatch.setattr("linnet.engine.prefix_cache.hashlib", SimpleNamespace(sha256=sha256))
    text = list(range(3 * PAGE_SIZE))
    done = filled(new_cache(), text, "a", 200)
    pages = [np.array(text[start : start + PAGE_SIZE], "<i4").tobytes() for start in range(0, len(text), PAGE_SIZE)]
    secret, rest = seen[0][:32], seen[0][32:]
    assert len(set(secret)) > 8  # random, so that nobody can look for collisions beforehand
    assert rest == b"('a', [200])" + pages[0]
    assert seen[1:] == [hashlib.sha256(before).digest() + page for before, page in zip(seen, pages[1:], strict=False)]
    assert done.names == [hashlib.sha256(data).digest() for data in seen]


PAGE = 4 * PAGE_SIZE  # bytes of the tokens of a page
A, B, C = (np.random.default_rng(seed).integers(0, 50, PAGE_SIZE).tolist() for seed in range(3))
WEAKER: list[tuple[str, Callable[[bytes], bytes], list[int], list[int]]] = [
    # what a name forgets, and two prompts that it then takes for one
    ("everything", lambda data: b"", A, B),
    ("the tokens", lambda data: data[:-PAGE], A, B),
    ("their order", lambda data: data[:-PAGE] + bytes(sorted(data[-PAGE:])), A, A[::-1]),
    ("all but their sum", lambda data: bytes([sum(data[-PAGE:]) % 256]), A, A[1:] + A[:1]),
    ("what is before", lambda data: data[-PAGE:], [*A, *B], [*B, *A]),
    ("the end", lambda data: data[: -PAGE // 2], A, [*A[: PAGE_SIZE // 2], *B[PAGE_SIZE // 2 :]]),
]


@pytest.mark.parametrize(("forgets", "weaker", "first", "second"), WEAKER, ids=[case[0] for case in WEAKER])
def test_prompts_that_a_weaker_name_confuses(
    forgets: str, weaker: Callable[[bytes], bytes], first: list[int], second: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the real name each is answered as alone; under the weaker one, which collides, the second gets the first one's pages."""
    prompts = [[*first, *C], [*second, *C]]
    alone = [run(mock_engine(), request(prompt, max_tokens=8))[0] for prompt in prompts]

    def together() -> tuple[list[list[int]], int]:
        engine, asked = mock_engine(), [request(prompt, max_tokens=8) for prompt in prompts]
        return [run(engine, one)[0] for one in asked], asked[1].cached_tokens

    assert together() == (alone, 0)
    named = SimpleNamespace(sha256=lambda data: hashlib.sha256(weaker(data)))
    monkeypatch.setattr("linnet.engine.prefix_cache.hashlib", named)
    answers, cached = together()
    assert cached > 0
    assert answers[1] != alone[1] or forgets == "what is before"  # of which this model's pages, unlike real ones, hold nothing
