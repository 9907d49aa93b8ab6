"""Checks that engines still decode: either steps were taken since the last check, or a token is generated as a test."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from linnet.engine.params import SamplingParams
from linnet.errors import ClosedError, QueueFullError

if TYPE_CHECKING:
    from linnet.llm import LLM

logger = logging.getLogger("linnet.server")

PROOF_S = 10.0
"""How long a step may take; one with a prompt of thousands of tokens on few cores is slow."""

FRESH_S = 1.0
"""How long a result is reused, so that nobody can keep the engine busy with health checks."""


class Pulse:
    """The health check of one open model."""

    def __init__(self) -> None:
        self._proved_at = -FRESH_S
        self._lock = asyncio.Lock()

    async def beats(self, llm: LLM) -> bool:
        """Whether the engine takes steps: for running requests, or else for a test token, which the counters count like any other."""
        async with self._lock:
            if time.monotonic() - self._proved_at < FRESH_S:
                return True
            alive = await self._prove(llm)
            if alive:
                self._proved_at = time.monotonic()
            return alive

    async def _prove(self, llm: LLM) -> bool:
        def steps() -> int:
            return llm.counters().step_seconds.count

        before, until = steps(), time.monotonic() + PROOF_S
        if not llm.counters().running:
            try:
                handle = await asyncio.to_thread(llm.submit, [0], SamplingParams(max_tokens=1, temperature=0.0, priority=-1000))
                await handle.aresult(PROOF_S)
            except QueueFullError:
                pass  # then there are other requests, whose steps count
            except ClosedError:
                return True  # nobody used it any longer
            except Exception:
                logger.exception("health: a token of its own failed")
                return False
        while steps() == before and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return steps() > before
