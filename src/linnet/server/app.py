"""The application: the routes, their guards, and the handlers of their errors."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from linnet import __version__
from linnet.errors import LinnetError
from linnet.server.errors import ApiError, ErrorBody, api_error, error_response, failures, validation_error
from linnet.server.guards.addresses import Addresses
from linnet.server.guards.headers import Headers
from linnet.server.guards.intake import Intake
from linnet.server.guards.keys import Keys
from linnet.server.guards.request_log import RequestLog
from linnet.server.routes import (
    anthropic_messages,
    chat,
    completions,
    docs,
    embeddings,
    models,
    operations,
    page,
    responses,
    simple,
    socket,
    tokens,
)
from linnet.server.service import Service

ROUTERS = tuple(
    module.router
    for module in (models, chat, completions, embeddings, responses, anthropic_messages, simple, socket, tokens, operations, docs, page)
)


def create_app(service: Service) -> FastAPI:
    """An ASGI application, to be served inside `service.running()`."""
    app = FastAPI(title="Linnet", version=__version__, docs_url=None, redoc_url=None, middleware=_guards(service))
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router, responses=failures(ErrorBody))
    app.exception_handler(ApiError)(_answer_error)
    app.exception_handler(LinnetError)(_answer_error)
    app.exception_handler(RequestValidationError)(_answer_invalid)
    app.exception_handler(HTTPException)(_answer_http_error)
    return app


def _guards(service: Service) -> list[Middleware]:
    """The guards, outermost first. CORS comes before the keys, because a browser sends its preflight request without a key."""
    options = service.options
    guards = [Middleware(RequestLog, service.metrics), Middleware(Headers, options.max_header_bytes), Middleware(Addresses, options)]
    if options.allowed_origins:
        any_of = ["*"]
        guards.append(Middleware(CORSMiddleware, allow_origins=options.allowed_origins, allow_methods=any_of, allow_headers=any_of))
    return [*guards, Middleware(Keys, service.settings.api_keys), Middleware(Intake, options)]


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    return error_response(api_error(error), request.scope)


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return error_response(validation_error(error.errors(), error.body), request.scope)


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answers the framework's own errors: no such route, or a wrong method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    answer = ApiError(error.status_code, f"{error.detail}; the routes are listed at /docs", code=code, headers=error.headers or {})
    return error_response(answer, request.scope)
