"""Answers in an event loop, beside others, and what a server does before it ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from linnet import LLM, SamplingParams
from linnet.errors import CancelledError, ClosedError, DeadlineError

PROMPTS = ["Hello", "Once upon a time", "1 + 1 = ", "The capital of Italy is"]
SHORT = SamplingParams(max_tokens=12, seed=5, ignore_eos=True)
LONG = SamplingParams(max_tokens=400, seed=5, ignore_eos=True)


@pytest.fixture
def llm() -> LLM:
    with LLM("tiny", max_batch=8) as opened:
        yield opened


def test_streams_share_the_loop_and_give_the_tokens_of_solo_runs(llm: LLM) -> None:
    async def text_of(prompt: str) -> str:
        return "".join([chunk.text async for chunk in llm.submit(prompt, SHORT)])

    async def all_of_them() -> list[str]:
        return list(await asyncio.gather(*map(text_of, PROMPTS * 3)))

    assert asyncio.run(all_of_them()) == [completion.text for completion in llm.generate(PROMPTS, SHORT)] * 3
    assert not [thread for thread in threading.enumerate() if thread.name == "linnet engine"]  # nothing left to drive


def test_the_loop_goes_on_while_a_step_runs(llm: LLM) -> None:
    """A caller's callable that sleeps stands for a long step: the loop's own clock must tick on."""
    ticks = 0

    async def count() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    async def main() -> None:
        counting = asyncio.create_task(count())
        await llm.submit("Hello", SamplingParams(max_tokens=4, choose=lambda logits: time.sleep(0.1) or 5)).aresult()
        counting.cancel()

    asyncio.run(main())
    assert ticks > 5  # 80 in an idle loop, none in one that is held up


def test_results_threads_and_coroutines_may_be_mixed(llm: LLM) -> None:
    expected = [completion.token_ids for completion in llm.generate(PROMPTS, SHORT)]

    async def main() -> None:
        handles = [llm.submit(prompt, SHORT) for prompt in PROMPTS]
        in_thread = asyncio.to_thread(handles[0].result)
        twice = [handles[1].aresult(), handles[1].aresult(timeout=60)]
        found = await asyncio.gather(in_thread, *twice, handles[2].aresult(), asyncio.to_thread(handles[3].result))
        assert [result[0].token_ids for result in found] == [expected[i] for i in (0, 1, 1, 2, 3)]
        assert [chunk.token_ids async for chunk in handles[0]] == [[token] for token in expected[0]]

    asyncio.run(main())


def test_cancelling_a_task_cancels_its_request_and_frees_its_pages(llm: LLM) -> None:
    pool = llm.engine.pool

    async def main() -> None:
        victim, other = llm.submit("Hello", LONG), llm.submit("Once upon", SHORT)
        task = asyncio.create_task(victim.aresult())
        async for _ in other:
            if not task.cancelled():
                task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert victim.done
        with pytest.raises(CancelledError):
            await victim.aresult()

    asyncio.run(main())
    assert pool.free_count == pool.count


def test_an_answer_that_takes_too_long_goes_on(llm: LLM) -> None:
    async def main() -> None:
        handle = llm.submit("Hello", LONG)
        with pytest.raises(DeadlineError, match="it goes on"):
            await handle.aresult(timeout=0.001)
        assert len((await handle.aresult())[0].token_ids) == 400

    asyncio.run(main())


def test_a_reader_that_leaves_its_loop_does_not_stop_the_next(llm: LLM) -> None:
    async def first() -> object:
        handle = llm.submit("Hello", LONG)
        async for _ in handle:
            break
        return handle

    handle = asyncio.run(first())  # the request goes on without a loop
    assert asyncio.run(llm.submit("Hello", SHORT).aresult())[0].token_ids == llm.generate("Hello", SHORT)[0].token_ids
    assert len(handle.result()[0].token_ids) == 400  # type: ignore[attr-defined]


def test_closing_ends_coroutines_that_wait(llm: LLM) -> None:
    async def main() -> None:
        waiting = asyncio.create_task(llm.submit("Hello", LONG).aresult())
        await asyncio.sleep(0.01)
        await asyncio.to_thread(llm.close)
        with pytest.raises(ClosedError):
            await waiting

    asyncio.run(main())


def test_a_callable_that_exits_does_not_take_the_thread_with_it(llm: LLM) -> None:
    async def main() -> None:
        bad, good = llm.submit("Hello", SamplingParams(choose=lambda logits: sys.exit(3))), llm.submit("Hello", SHORT)
        results = await asyncio.gather(bad.aresult(), good.aresult(), return_exceptions=True)
        assert "interrupted" in str(results[0])
        assert results[1][0].token_ids == llm.generate("Hello", SHORT)[0].token_ids  # type: ignore[index]

    asyncio.run(main())


def test_draining_ends_what_runs_and_refuses_the_rest(llm: LLM) -> None:
    handles = [llm.submit(prompt, SHORT) for prompt in PROMPTS]
    assert not llm.drain(timeout=0)
    with pytest.raises(ClosedError, match="takes no more requests"):
        llm.submit("Hello", SHORT)
    with pytest.raises(ClosedError):
        llm.generate("Hello", SHORT)
    assert llm.drain()
    assert all(handle.done for handle in handles)
    assert len(handles[0].result()[0].token_ids) == 12
    assert llm.drain(timeout=0)


def test_a_process_may_end_in_the_middle_of_an_answer() -> None:
    code = """
import asyncio
from linnet import LLM, SamplingParams
async def main():
    handle = LLM("tiny").submit("Hello", SamplingParams(max_tokens=1000, ignore_eos=True))
    async for chunk in handle:
        return handle
kept = asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
