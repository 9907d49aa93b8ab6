"""The application: routes, what guards them, and what their failures look like."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from linnet import __version__
from linnet.errors import LinnetError
from linnet.server.errors import ApiError, api_error, validation_error
from linnet.server.routes import chat, models
from linnet.server.service import Service
from linnet.server.settings import Settings

ROUTERS = (models.router, chat.router)


def create_app(settings: Settings) -> FastAPI:
    """An ASGI application with its own `Service`, at `app.state.service`; it closes its models when it shuts down."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await service.models.close()

    service = Service(settings)
    app = FastAPI(title="Linnet", version=__version__, lifespan=lifespan, redoc_url=None)
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router)
    app.exception_handler(ApiError)(_answer_error)
    app.exception_handler(LinnetError)(_answer_error)
    app.exception_handler(RequestValidationError)(_answer_invalid)
    app.exception_handler(HTTPException)(_answer_http_error)
    return app


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    return error_response(api_error(error), request.url.path)


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return error_response(validation_error(error.errors()), request.url.path)


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Of the framework's own: no such route, or not by that method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    answer = ApiError(error.status_code, f"{error.detail}; the routes are listed at /docs", code=code, headers=error.headers or {})
    return error_response(answer, request.url.path)


def error_response(error: ApiError, path: str) -> JSONResponse:
    return JSONResponse(error.body(path), error.status, dict(error.headers))
