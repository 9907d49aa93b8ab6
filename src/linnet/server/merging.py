"""Several answers as one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from linnet.handle import Handle
from linnet.outputs import Chunk


async def merged(handles: Sequence[Handle]) -> AsyncGenerator[tuple[int, Chunk], None]:
    """Chunks as they come, each with the index of its handle. Raises what the first handle to fail raises."""
    if len(handles) == 1:
        async for chunk in handles[0]:
            yield 0, chunk
        return
    queue: asyncio.Queue[tuple[int, Chunk | BaseException | None]] = asyncio.Queue()

    async def follow(place: int, handle: Handle) -> None:
        try:
            async for chunk in handle:
                queue.put_nowait((place, chunk))
            queue.put_nowait((place, None))
        except Exception as error:
            queue.put_nowait((place, error))

    tasks = [asyncio.create_task(follow(place, handle)) for place, handle in enumerate(handles)]
    left = len(tasks)
    try:
        while left:
            place, item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield place, item
    finally:
        for task in tasks:
            task.cancel()
