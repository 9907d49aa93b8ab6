"""POST /v1/embeddings: https://platform.openai.com/docs/api-reference/embeddings."""

from __future__ import annotations

import base64
import logging
from functools import partial
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from linnet.errors import UnsupportedModelError
from linnet.server.errors import ApiError
from linnet.server.json_body import JsonRoute
from linnet.server.messages import prompt_size
from linnet.server.schema import Body, SomeTokenIds, User, as_list
from linnet.server.service import ServiceOf, submitted

logger = logging.getLogger("linnet.server")

router = APIRouter(tags=["OpenAI"], route_class=JsonRoute)

MAX_INPUTS = 2048

_Several = Field(min_length=1, max_length=MAX_INPUTS)
_Inputs = Annotated[list[str], _Several] | Annotated[list[SomeTokenIds], _Several]


class EmbeddingBody(Body):
    model: str
    input: str | SomeTokenIds | _Inputs = Field(description="a text, token ids, or several of either")
    encoding_format: Literal["float", "base64"] | None = Field(default=None, description="base64: float32, little-endian")
    dimensions: Annotated[int, Field(ge=1)] | None = Field(default=None, description="how long vectors are: the model's own length")
    user: User = None


class EmbeddingObject(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    object: Literal["list"] = "list"
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage


@router.post("/v1/embeddings")
async def create_embeddings(body: EmbeddingBody, service: ServiceOf) -> EmbeddingList:
    """Vectors of texts, of length 1, pooled as the model's files say."""
    inputs = as_list(body.input)
    service.check_size(prompt_size(None, *(text for text in inputs if isinstance(text, str))))
    async with service.using(body, body.model) as llm:
        if body.dimensions not in (None, llm.spec.hidden):
            message = f"dimensions is {body.dimensions} and this model's vectors have {llm.spec.hidden}; leave it out"
            raise ApiError(400, message, param="dimensions")
        try:
            handle = await submitted(partial(llm.submit_embed, inputs, timeout=service.time_left(body)))
        except UnsupportedModelError as error:
            logger.error("embeddings of model %s: %s", body.model, error)
            message = "the model's files ask for a pooling that is not built; the server's log says which"
            raise ApiError(400, message, code="pooling_not_built", param="model") from None
        vectors = await handle.aresult()
    data = [EmbeddingObject(index=index, embedding=_encoded(row, body.encoding_format)) for index, row in enumerate(vectors)]
    usage = EmbeddingUsage(prompt_tokens=handle.prompt_tokens, total_tokens=handle.prompt_tokens)
    return EmbeddingList(data=data, model=body.model, usage=usage)


def _encoded(vector: NDArray[np.float32], form: str | None) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
