"""Promise 1 from the outside: the same tokens, however they are asked for."""

from __future__ import annotations

import threading
from typing import Any

from llm_cases import QUESTION, pool_is_whole

from linnet import LLM, Completion, SamplingParams

PROMPTS: list[Any] = [
    "The capital of France is",
    QUESTION,
    [5],
    list(range(5, 45)),
    [{"role": "user", "content": "Repeat these words: " + "apple drum lantern " * 8}],
    "x",
    [
        {"role": "user", "content": "Hello! My name is Ada."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Who am I?"},
    ],
    [7] * 100,
]


def samplings(count: int = len(PROMPTS)) -> list[SamplingParams]:
    """Greedy and random, with and without penalties, of different lengths."""
    return [
        SamplingParams(
            max_tokens=8 + 3 * i,
            temperature=0.6 * (i % 3),
            top_p=0.95,
            top_k=50 * (i % 2),
            seed=i,
            ignore_eos=i % 4 == 3,
            repetition_penalty=1.0 + 0.1 * (i % 2),
        )
        for i in range(count)
    ]


def solo(llm: LLM) -> list[Completion]:
    return [llm.generate([prompt], params)[0] for prompt, params in zip(PROMPTS, samplings(), strict=True)]


def test_a_batch_of_mixed_lengths_gives_the_tokens_of_solo_runs(llm: LLM) -> None:
    alone = solo(llm)
    together = llm.generate(PROMPTS, samplings())
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    assert [c.text for c in together] == [c.text for c in alone]
    assert pool_is_whole(llm)


def test_streams_equal_generate(llm: LLM) -> None:
    for prompt, params, whole in zip(PROMPTS, samplings(), solo(llm), strict=True):
        chunks = list(llm.stream(prompt, params))
        assert [t for c in chunks for t in c.token_ids] == whole.token_ids
        assert "".join(c.text for c in chunks) == whole.text
        assert [c.finish_reason for c in chunks if c.finish_reason] == [whole.finish_reason]
        last = chunks[-1].completion
        assert last is not None
        assert (last.text, last.token_ids, last.usage) == (whole.text, whole.token_ids, whole.usage)


def test_interleaved_streams_equal_generate(native: LLM) -> None:
    expected = [c.token_ids for c in solo(native)]
    streams = {i: native.stream(p, s) for i, (p, s) in enumerate(zip(PROMPTS, samplings(), strict=True))}
    found: list[list[int]] = [[] for _ in PROMPTS]
    while streams:
        for i, stream in list(streams.items()):
            chunk = next(stream, None)
            if chunk is None:
                del streams[i]
            else:
                found[i] += chunk.token_ids
    assert found == expected


def test_threads_chunks_batches_and_recomputation_change_nothing(native: LLM) -> None:
    expected = [c.token_ids for c in solo(native)]
    for options in ({"prefill_chunk": 7}, {"threads": 1}, {"threads": 2, "max_batch": 3}, {"kv_memory": 2**20}):
        with LLM("tiny", **options) as other:  # type: ignore[arg-type]
            assert [c.token_ids for c in other.generate(PROMPTS, samplings())] == expected, options
    assert [c.token_ids for c in native.generate(PROMPTS, samplings(), cache=False)] == expected


def test_callers_in_threads_do_not_disturb_each_other(native: LLM) -> None:
    expected = [c.token_ids for c in solo(native)]
    found: dict[int, list[list[int]]] = {}

    def work(me: int) -> None:
        found[me] = [[t for c in native.stream(p, s) for t in c.token_ids] for p, s in zip(PROMPTS, samplings(), strict=True)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == dict.fromkeys(range(4), expected)
    assert pool_is_whole(native)


def test_the_seed_is_reported_and_reproduces(native: LLM) -> None:
    free = SamplingParams(max_tokens=20, temperature=1.5, ignore_eos=True)
    first, second = native.generate(["Hello", "Hello"], free)
    assert first.seed != second.seed
    assert first.token_ids != second.token_ids
    again = native.generate("Hello", SamplingParams(max_tokens=20, temperature=1.5, ignore_eos=True, seed=first.seed))[0]
    assert again.token_ids == first.token_ids


def test_samples_come_in_order_and_differ(llm: LLM) -> None:
    params = SamplingParams(max_tokens=12, temperature=1.5, n=3, seed=1, ignore_eos=True)
    completions = llm.generate(["One", "Two"], params)
    assert [c.index for c in completions] == [0, 1, 2, 0, 1, 2]
    for samples in (completions[:3], completions[3:]):
        assert len({tuple(c.token_ids) for c in samples}) == 3
    single = llm.generate("One", SamplingParams(max_tokens=12, temperature=1.5, seed=1, ignore_eos=True))[0]
    assert completions[0].token_ids == single.token_ids
