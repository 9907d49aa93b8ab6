"""Answers as they come: from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from linnet.engine.params import SamplingParams
from linnet.outputs import Chunk, Completion

if TYPE_CHECKING:
    from linnet.handle import Handle
    from linnet.llm import LLM
    from linnet.prompts import Prompt


async def submit(llm: LLM, prompt: Prompt, params: SamplingParams, timeout: float) -> Handle:
    """Puts a request in the queue, with a deadline of `timeout` seconds unless its own is nearer. Raises as `LLM.submit` does."""
    limit = timeout if params.timeout is None else min(timeout, params.timeout)
    return await asyncio.to_thread(llm.submit, prompt, replace(params, timeout=limit))


async def chunks(handle: Handle) -> AsyncGenerator[Chunk, None]:
    """The chunks of a request; to leave early cancels it."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Chunk | BaseException | None] = asyncio.Queue()

    def follow() -> None:
        try:
            for chunk in handle:
                loop.call_soon_threadsafe(queue.put_nowait, chunk)
            loop.call_soon_threadsafe(queue.put_nowait, None)
        except BaseException as error:
            loop.call_soon_threadsafe(queue.put_nowait, error)

    threading.Thread(target=follow, daemon=True).start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        handle.cancel()


async def completions(handle: Handle) -> list[Completion]:
    """The whole answer, one completion a sample, in order."""
    async with aclosing(chunks(handle)) as stream:
        found = [chunk.completion async for chunk in stream if chunk.completion is not None]
    return sorted(found, key=lambda completion: completion.index)
