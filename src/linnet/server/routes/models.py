"""GET /v1/models: https://platform.openai.com/docs/api-reference/models."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from linnet.server.service import ServiceOf

router = APIRouter(tags=["OpenAI"])


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "linnet"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


@router.get("/v1/models")
async def list_models(service: ServiceOf) -> ModelList:
    """The models that this server has, open or not."""
    return ModelList(data=[ModelObject(id=name, created=service.models.created) for name in service.models.names])


@router.get("/v1/models/{model:path}")
async def retrieve_model(model: str, service: ServiceOf) -> ModelObject:
    """One of them."""
    return ModelObject(id=service.models.find(model).settings.name, created=service.models.created)
