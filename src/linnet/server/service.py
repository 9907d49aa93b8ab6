"""`Service`: the state and the methods that the routes share. Each server has one."""

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
"""Threads of their own for requests with grammars: a hostile one takes all the time that it may, and others must not wait for it."""


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
        """The service from start to end. A single model is opened at once, so that its mistakes show early; several, each on first use."""
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
        except ApiError as error:  # there is no request that could be answered with it
            raise OutOfMemoryError(error.message) from None

    def check_size(self, size: int) -> None:
        """Raises a 400 for a prompt of more bytes than the server tokenizes."""
        if size > self.options.max_prompt_bytes:
            message = f"the prompt has {size} bytes and this server takes {self.options.max_prompt_bytes}; shorten it"
            raise ApiError(400, message, code="prompt_too_large")

    def check_samples(self, n: int | None) -> None:
        if n is not None and n > self.options.max_n:
            raise ApiError(400, f"n is {n} and this server gives up to {self.options.max_n}; lower it", param="n")

    def sampling(self, llm: LLM, body: Body, params: SamplingParams) -> SamplingParams:
        """The params of a body for this model: options that it leaves out are as the model's publishers recommend, and the timeout is the
        time that the request has left."""
        advised = {name: value for name, value in self.advised(llm).items() if getattr(body, name) is None}
        return replace(params, timeout=self.time_left(body), **advised)

    def time_left(self, body: Body) -> float:
        """Seconds that a request has left: the server's limit or its own, the lesser, minus the time that it waited for its model."""
        most, asked = self.options.request_timeout, getattr(body, "timeout", None)
        return max(0.0, (most if asked is None else min(most, asked)) - body._waited)

    @asynccontextmanager
    async def using(self, body: Body, name: str | None) -> AsyncIterator[LLM]:
        """The model of this name, or the first model. Waits for it no longer than the body's time limit. Raises as `Models.use` does."""
        name = self.model_name(name)
        asked_at = None if name in self.models.open else time.monotonic()
        async with self.models.use(name, self.time_left(body)) as llm:
            if asked_at is not None:
                body._waited = time.monotonic() - asked_at
            yield llm

    def advised(self, llm: LLM) -> dict[str, Any]:
        """The sampling options that the model's publishers recommend, for those that a body leaves out."""
        return advice(llm.generation_config) if self.options.generation_config == "auto" else {}

    def model_name(self, asked: str | None) -> str:
        """The model's name, or that of the first model if a request names none."""
        return self.settings.models[0].name if asked is None else asked

    async def is_alive(self) -> bool:
        """Whether every open model takes steps."""
        pulses = [self._pulses.setdefault(llm, Pulse()).beats(llm) for llm in self.models.open.values()]
        return all(await asyncio.gather(*pulses))

    def tokenizer(self, llm: LLM) -> Tokenizer:
        """The model's tokenizer, for requests that need text. Raises a 400 if it has none."""
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
        """A running answer to a body; all kinds of answers are made from it. Leaving the `with` before its end cancels it. Raises as
        `LLM.submit` does."""
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
    """Calls `submit` in a thread and gives its handle, which is cancelled if the caller is by then. Raises as `submit` does."""
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
    """Runs `call` in a thread, so that other requests are served while a template or a tokenizer works."""
    pool = _compilers if has_grammar else None
    return await asyncio.get_running_loop().run_in_executor(pool, copy_context().run, call)


def _service(connection: HTTPConnection) -> Service:
    service: Service = connection.app.state.service
    return service


ServiceOf: TypeAlias = Annotated[Service, Depends(_service)]
"""The type of a route's parameter that gets the service."""
