"""For those who run the server: /health, /ready and /metrics."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from linnet.server.errors import unavailable
from linnet.server.service import ServiceOf

router = APIRouter(tags=["Operations"])


class Status(BaseModel):
    status: Literal["ok"] = "ok"


@router.get("/health")
@router.get("/api/health")
async def health(service: ServiceOf) -> Status:
    """Whether every open model takes steps; 503 where one does not. Needs no key."""
    if not await service.is_alive():
        raise unavailable("a model has stopped taking steps; restart the server")
    return Status()


@router.get("/ready")
async def ready(service: ServiceOf) -> Status:
    """Whether requests are taken: 503 while the server's only model is being opened, and once it was told to end."""
    if not service.ready:
        raise unavailable("the server is starting or ending; try again")
    return Status()


@router.get("/metrics", response_class=Response)
async def metrics(service: ServiceOf) -> Response:
    """Counters for Prometheus, in its text format."""
    return Response(service.metrics.exposition(service.models.open), media_type="text/plain; version=0.0.4; charset=utf-8")
