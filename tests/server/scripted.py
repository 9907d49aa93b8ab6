"""A server in this process whose model answers what a test says: the built-in one, its tokens forced, with a template that knows tools."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from fastapi import FastAPI

from linnet import LLM, SamplingParams, Tokenizer
from linnet.server.app import create_app
from linnet.server.schema import Body
from linnet.server.service import Service
from linnet.server.settings import read_settings

T = TypeVar("T")

TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }} <tool_call>{% endif %}{% for m in messages %}"
    "<|{{ 'user' if m.role == 'tool' else m.role }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}<|end|>{% endfor %}<|assistant|>"
)
CALL = '{"name": "get_weather", "arguments": {"city": "Bern"}}'
CALLING = f"Let me see.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>"
BROKEN = f"<tool_call>{CALL[:-3]}"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class ScriptedService(Service):
    """answer: the text, or what makes it of a request's body. asked: what the model was asked, as token ids; prompts: as text. fails:
    whether it fails after the answer, instead of ending it."""

    def __init__(self, answer: str | Callable[[Any], str], options: Mapping[str, Any]) -> None:
        super().__init__(read_settings(["tiny"], {"chat_template": TEMPLATE, **options}))
        self.answer, self.fails = answer, False
        self.asked: list[list[int]] = []

    @property
    def prompts(self) -> list[str]:
        tokenizer = self.tokenizer(*self.models.open.values())
        return [tokenizer.decode(ids, skip_special=False) for ids in self.asked]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """With a model that is opened once for all tests."""
        [settings] = self.settings.models
        self.models.find(settings.name).llm = _model(**settings.options)
        self.ready = True
        yield

    def sampling(self, llm: LLM, body: Body, params: SamplingParams) -> SamplingParams:
        tokenizer: Tokenizer = self.tokenizer(llm)
        answer = self.answer if isinstance(self.answer, str) else self.answer(body)
        script = iter([*tokenizer.encode(answer, bos=False), *[tokenizer.eos_id] * (not self.fails)])

        seen: list[bool] = []

        def note(ids: list[int], logits: Any) -> Any:
            if not seen:  # before its first token, the whole is the prompt
                self.asked.append(list(ids))
            seen.append(True)
            return logits

        return replace(super().sampling(llm, body, params), choose=lambda logits: next(script), logits_processor=note)


@cache
def _model(**options: Any) -> LLM:
    return LLM("tiny", **options)


@cache
def _application(**options: Any) -> FastAPI:
    """One for all servers of these options: its routes take longer to build than to answer."""
    return create_app(ScriptedService("", options))


def ask(use: Callable[[Any, ScriptedService], Awaitable[T]], answer: str = CALLING, **options: Any) -> T:
    """What `use` makes of a server that answers so: it gets the application, for a client's library to use."""

    async def run() -> T:
        service = ScriptedService(answer, options)
        app = _application(**options)
        app.state.service = service
        async with service.running():
            return await use(app, service)

    return asyncio.run(run())
