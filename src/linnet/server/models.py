"""The models of a server, by name: opened when first asked for, closed when idle, within one budget of memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from linnet.server.errors import ApiError
from linnet.server.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from linnet.llm import LLM

logger = logging.getLogger("linnet.server")


@dataclass(eq=False)
class Served:
    """A model of the server. users: requests that have it now. used_at: by time.monotonic(), when the last one left."""

    settings: ModelSettings
    llm: LLM | None = None
    users: int = 0
    used_at: float = field(default_factory=time.monotonic)
    opening: asyncio.Task[LLM] | None = None


class Models:
    """By name. `use` opens one that is not open."""

    def __init__(self, settings: Settings) -> None:
        self.created = int(time.time())
        self._served = {model.name: Served(model) for model in settings.models}

    @property
    def names(self) -> list[str]:
        return list(self._served)

    @property
    def open(self) -> dict[str, LLM]:
        """Those that are open now, by name."""
        return {name: served.llm for name, served in self._served.items() if served.llm is not None}

    def find(self, name: str) -> Served:
        """Raises a 404 that names those there are."""
        served = self._served.get(name)
        if served is None:
            there = ", ".join(self._served)
            message = f"there is no model {name[:100]!r}; there are: {there}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return served

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[LLM]:
        """The model, which stays open meanwhile. Raises what opening it raises."""
        served = self.find(name)
        served.users += 1
        try:
            yield served.llm or await self._open(served)
        finally:
            served.users -= 1
            served.used_at = time.monotonic()

    async def _open(self, served: Served) -> LLM:
        """Opens a model once for all who wait; one that leaves does not stop it for the others."""
        if served.opening is None:
            served.opening = asyncio.create_task(self._load(served))
        return await asyncio.shield(served.opening)

    async def _load(self, served: Served) -> LLM:
        from linnet.llm import LLM

        started = time.perf_counter()
        try:
            served.llm = await asyncio.to_thread(LLM, served.settings.path, **served.settings.options)
        finally:
            served.opening = None
        logger.info("model %s opened in %.1f s", served.settings.name, time.perf_counter() - started)
        return served.llm

    async def close(self) -> None:
        for served in self._served.values():
            if served.llm is not None:
                await asyncio.to_thread(served.llm.close)
                served.llm = None
