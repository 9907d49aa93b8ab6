"""Many requests with random cancellations: memory stays flat, all pages come back, counters add up."""

from __future__ import annotations

import asyncio
import gc
import random
from pathlib import Path

import pytest

from linnet import LLM, CancelledError, DeadlineError, InvalidRequestError, QueueFullError, SamplingParams

AT_ONCE = 24


def resident() -> int:
    """Bytes of memory that this process has in use."""
    gc.collect()
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))


async def one(llm: LLM, draw: random.Random) -> str:
    """A request that is read, awaited, cancelled in one of three ways, late, or wrong; says which outcome is to be counted."""
    kind = draw.choice(["read", "await", "cancel", "abandon", "task", "late", "wrong", "fails"])
    prompt = [draw.randrange(5, 250) for _ in range(draw.randrange(1, 200))]
    prompt[: draw.choice([0, 96])] = range(5, 5 + 96)  # some begin alike
    options = {"max_tokens": draw.randrange(1, 40), "n": draw.choice([1, 1, 2]), "temperature": draw.choice([0.0, 1.0])}
    if kind == "wrong":
        with pytest.raises(InvalidRequestError):
            llm.submit([10**9], SamplingParams(**options))
        return ""
    if kind == "late":
        options["timeout"] = 0.0
    if kind == "fails":
        options["choose"] = lambda logits: 1 // 0
    while True:
        try:
            handle = llm.submit(prompt, SamplingParams(**options))
            break
        except QueueFullError:
            await asyncio.sleep(0.01)
    try:
        if kind == "task":
            task = asyncio.create_task(handle.aresult())
            await asyncio.sleep(draw.random() * 0.02)
            task.cancel()
            await asyncio.wait([task])
            return "cancelled" if task.cancelled() else "finished"
        async for chunk in handle:
            if kind == "cancel" and draw.random() < 0.3:
                handle.cancel()
            if kind == "abandon":
                del chunk
                return "?"
    except (CancelledError, DeadlineError, ZeroDivisionError) as error:
        return {"CancelledError": "cancelled", "DeadlineError": "timed_out"}.get(type(error).__name__, "failed")
    return "finished"


def soak(count: int) -> None:
    draw = random.Random(count)
    with LLM("tiny", max_batch=8, max_queue=16, kv_memory=3_000_000, context=512, prefill_chunk=64) as llm:

        async def some(total: int) -> list[str]:
            left = iter(range(total))

            async def worker() -> list[str]:
                return [await one(llm, draw) for _ in left]

            return [outcome for each in await asyncio.gather(*(worker() for _ in range(AT_ONCE))) for outcome in each]

        outcomes = asyncio.run(some(count // 4))
        before = resident()
        outcomes += asyncio.run(some(count - count // 4))
        llm.drain()
        gc.collect()
        assert resident() - before < 3 * 2**20
        counters = llm.counters()
    assert counters.pages_used == counters.running == counters.waiting == 0
    taken = [outcome for outcome in outcomes if outcome]
    assert counters.submitted == sum(counters.outcomes.values()) == len(taken)
    unsure = taken.count("?")
    for outcome, found in counters.outcomes.items():
        assert taken.count(outcome) <= found <= taken.count(outcome) + (unsure if outcome in ("finished", "cancelled") else 0)
    assert counters.generated_tokens == counters.first_token_seconds.count + counters.inter_token_seconds.count
    assert counters.cached_tokens > 0
    assert sum(counters.finish_reasons.values()) >= counters.outcomes["finished"]


def test_two_hundred_requests() -> None:
    soak(200)


@pytest.mark.slow
def test_a_thousand_requests() -> None:
    soak(1000)
