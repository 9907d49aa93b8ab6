"""`Service`: what the routes share. One for each server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from fastapi import Depends
from starlette.requests import HTTPConnection

from linnet.engine.params import SamplingParams, advice
from linnet.errors import OutOfMemoryError
from linnet.server.errors import ApiError
from linnet.server.health import Pulse
from linnet.server.metrics import Metrics
from linnet.server.models import Models
from linnet.server.schema import Body
from linnet.server.settings import Settings

if TYPE_CHECKING:
    from linnet.embedding import EmbeddingHandle
    from linnet.handle import Handle
    from linnet.llm import LLM
    from linnet.prompts import Prompt
    from linnet.text.tokenizer import Tokenizer
    from linnet.text.tool_calls.tools import Tool, ToolChoice

T = TypeVar("T")
H = TypeVar("H", bound="Handle | EmbeddingHandle")

_compilers = ThreadPoolExecutor(4, "linnet grammar")
"""Threads for what has grammars in it: a hostile one takes as long as it may, and nobody else is to wait for it."""


class Service:
    """The settings, and the models that they name. ready: whether requests are taken."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.options = settings.server
        self.models = Models(settings)
        self.metrics = Metrics()
        self.ready = False
        self._pulses: WeakKeyDictionary[LLM, Pulse] = WeakKeyDictionary()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Between start and end. An only model is opened at once, so that a mistake in it shows; of several, each when it is asked for."""
        seconds = self.options.idle_unload
        closing = None if seconds is None else asyncio.create_task(self.models.close_idle(seconds))
        try:
            if len(self.settings.models) == 1:
                await self._open_first()
            self.ready = True
            yield
        finally:
            self.ready = False
            if closing is not None:
                closing.cancel()
            await self.models.close()

    async def _open_first(self) -> None:
        try:
            async with self.models.use(self.settings.models[0].name):
                pass
        except ApiError as error:  # nobody asked for it who could be answered
            raise OutOfMemoryError(error.message) from None

    def check_size(self, size: int) -> None:
        """Raises a 400 for a prompt of more bytes than are tokenized."""
        if size > self.options.max_prompt_bytes:
            message = f"the prompt has {size} bytes and this server takes {self.options.max_prompt_bytes}; shorten it"
            raise ApiError(400, message, code="prompt_too_large")

    def check_samples(self, n: int | None) -> None:
        if n is not None and n > self.options.max_n:
            raise ApiError(400, f"n is {n} and this server gives up to {self.options.max_n}; lower it", param="n")

    def sampling(self, llm: LLM, body: Body, params: SamplingParams) -> SamplingParams:
        """The params of a body as they are for this model: what it leaves out as the model's publishers advise, and with the time that is
        left to it."""
        advised = {name: value for name, value in self.advised(llm).items() if getattr(body, name) is None}
        return replace(params, timeout=self.time_left(body), **advised)

    def time_left(self, body: Body) -> float:
        """Seconds that a request may take, by the server's limit or its own if that is nearer, less those that it waited for its model."""
        most, asked = self.options.request_timeout, getattr(body, "timeout", None)
        return max(0.0, (most if asked is None else min(most, asked)) - body._waited)

    @asynccontextmanager
    async def using(self, body: Body, name: str | None) -> AsyncIterator[LLM]:
        """The model of this name, or the first, for a body, which waits no longer than it may. Raises as `Models.use` does."""
        name = self.model_name(name)
        asked_at = None if name in self.models.open else time.monotonic()
        async with self.models.use(name, self.time_left(body)) as llm:
            if asked_at is not None:
                body._waited = time.monotonic() - asked_at
            yield llm

    def advised(self, llm: LLM) -> dict[str, Any]:
        """What of sampling a body may leave out, for the model's publishers advise it."""
        return advice(llm.generation_config) if self.options.generation_config == "auto" else {}

    def model_name(self, asked: str | None) -> str:
        """The first model, where a request does not say which."""
        return self.settings.models[0].name if asked is None else asked

    async def is_alive(self) -> bool:
        """Whether every open model takes steps."""
        pulses = [self._pulses.setdefault(llm, Pulse()).beats(llm) for llm in self.models.open.values()]
        return all(await asyncio.gather(*pulses))

    def tokenizer(self, llm: LLM) -> Tokenizer:
        """Raises a 400 for a model without one, for what cannot be said in token ids."""
        if llm.tokenizer is None:
            raise ApiError(400, "the model has no tokenizer, which this needs", param="model")
        return llm.tokenizer

    async def tokenized(
        self, llm: LLM, messages: Prompt, params: SamplingParams, tools: Sequence[Tool] | None, tool_choice: ToolChoice
    ) -> list[int]:
        """The token ids that the model gets for a conversation. Raises as `LLM.tokenize` does."""
        tokenize = partial(llm.tokenize, messages, params, tools=tools, tool_choice=tool_choice)
        return await _in_thread(tokenize, params.constraint is not None or bool(tools))

    @asynccontextmanager
    async def generating(
        self,
        llm: LLM,
        body: Body,
        prompt: Prompt,
        params: SamplingParams,
        tools: Sequence[Tool] | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        continues: bool | None = None,
    ) -> AsyncIterator[Handle]:
        """An answer in the making to a body, of which the others are made; to leave before its end cancels it. Raises as `LLM.submit`
        does."""
        limited = self.sampling(llm, body, params)
        submit = partial(
            llm.submit,
            prompt,
            limited,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            continues=continues,
        )
        handle = await submitted(submit, limited.constraint is not None or bool(tools))
        try:
            yield handle
        finally:
            handle.cancel()


async def submitted(submit: Callable[[], H], has_grammar: bool = False) -> H:
    """The handle that it gives, in a thread; where nobody waits for it any more, that is cancelled. Raises as `submit` does."""
    submitting = asyncio.ensure_future(_in_thread(submit, has_grammar))
    try:
        return await asyncio.shield(submitting)
    except asyncio.CancelledError:  # the thread goes on
        submitting.add_done_callback(_cancel_submitted)
        raise


def _cancel_submitted(submitting: asyncio.Future[H]) -> None:
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()


async def _in_thread(call: Callable[[], T], has_grammar: bool) -> T:
    """What it gives: templates and tokenizers take their time, in which others are served."""
    pool = _compilers if has_grammar else None
    return await asyncio.get_running_loop().run_in_executor(pool, copy_context().run, call)


def _service(connection: HTTPConnection) -> Service:
    service: Service = connection.app.state.service
    return service


ServiceOf: TypeAlias = Annotated[Service, Depends(_service)]
"""The parameter of a route that wants the service."""
