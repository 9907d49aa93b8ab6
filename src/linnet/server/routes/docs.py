"""GET /docs: the API's document in Swagger UI, whose files come with the package fastapi-offline, so that nothing is fetched from
elsewhere."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from linnet.server.routes.page import HEADERS, TYPES, no_such_part

router = APIRouter(include_in_schema=False)

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Linnet: the API</title>
<link rel="icon" href="web/linnet.svg">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
"""
START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});\n'
BUNDLED = ("swagger-ui.css", "swagger-ui-bundle.js")


@router.get("/docs")
async def docs() -> Response:
    return _response(PAGE, ".html")


@router.get("/docs/{name}")
def part(name: str) -> Response:
    if name == "start.js":
        return _response(START, ".js")
    if name not in BUNDLED:
        raise no_such_part()
    return _response((files("fastapi_offline") / "static" / name).read_bytes(), name[name.rindex(".") :])


def _response(content: str | bytes, suffix: str) -> Response:
    return Response(content, media_type=TYPES[suffix], headers=HEADERS)
