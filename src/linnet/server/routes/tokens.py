"""/tokenize, /detokenize and /tokenizer_info, with the names that vLLM's server gives them, which lm-eval's remote tokenizer asks for."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from linnet.server.errors import ApiError
from linnet.server.json_body import JsonRoute
from linnet.server.messages import ChatMessages, as_template_messages, prompt_size
from linnet.server.schema import Body, Items, TokenId
from linnet.server.service import ServiceOf

router = APIRouter(tags=["Tokens"], route_class=JsonRoute)

MAX_TOKENS = 2**20


class TokenizeBody(Body):
    model: str | None = Field(default=None, description="left out: the server's first")
    prompt: str | None = None
    messages: ChatMessages | None = None
    add_special_tokens: bool | None = Field(
        default=None,
        description="false: without the tokens that the model's texts begin and end with; messages have those of their template",
    )


class Tokens(BaseModel):
    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeBody(Body):
    model: str | None = None
    tokens: Annotated[Items[TokenId], Field(max_length=MAX_TOKENS)]


class Detokenized(BaseModel):
    prompt: str


class TokenizerInfo(BaseModel):
    kind: str
    vocab_size: int
    bos_token: str | None
    eos_token: str | None
    chat_template: str | None


@router.post("/tokenize")
async def tokenize(body: TokenizeBody, service: ServiceOf) -> Tokens:
    """The token ids of a text, or of messages as the model gets them. What a text spells out never becomes a control token."""
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "give either prompt or messages", param="prompt")
    if body.messages is not None and body.add_special_tokens:
        raise ApiError(400, "messages have the special tokens of their template and no others; leave it out", param="add_special_tokens")
    service.check_size(prompt_size(body.messages, body.prompt))
    async with service.using(body, body.model) as llm:
        tokenizer = service.tokenizer(llm)
        if body.messages is not None:
            tokens = await asyncio.to_thread(llm.tokenize, as_template_messages(body.messages))
        elif body.add_special_tokens is not False:
            tokens = await asyncio.to_thread(llm.tokenize, body.prompt or "")
        else:
            tokens = await asyncio.to_thread(tokenizer.encode, body.prompt or "", bos=False)
        return Tokens(tokens=tokens, count=len(tokens), max_model_len=llm.context)


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, service: ServiceOf) -> Detokenized:
    """The text of token ids."""
    async with service.using(body, body.model) as llm:
        tokenizer = service.tokenizer(llm)
        most = max(tokenizer.vocab_size, llm.vocab_size)
        if body.tokens and max(body.tokens) >= most:
            raise ApiError(400, f"token id {max(body.tokens)} is outside the model's {most}", param="tokens")
        return Detokenized(prompt=await asyncio.to_thread(tokenizer.decode, body.tokens))


@router.get("/tokenizer_info")
async def tokenizer_info(service: ServiceOf, model: str | None = None) -> TokenizerInfo:
    """What a client needs to tokenize and to write conversations as the model does."""
    async with service.models.use(service.model_name(model), service.options.request_timeout) as llm:
        tokenizer = service.tokenizer(llm)
        return TokenizerInfo(
            kind=tokenizer.kind,
            vocab_size=tokenizer.vocab_size,
            bos_token=None if tokenizer.bos_id is None else tokenizer.id_to_token(tokenizer.bos_id),
            eos_token=None if tokenizer.eos_id is None else tokenizer.id_to_token(tokenizer.eos_id),
            chat_template=tokenizer.chat_template,
        )
