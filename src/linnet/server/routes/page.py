"""The page at `/`: plain files of the folder `web`, and headers that let it fetch nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from linnet.server.errors import ApiError

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parents[1] / "web"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@router.get("/")
async def page() -> Response:
    return _file("index.html")


@router.get("/web/{name}")
async def part(name: str) -> Response:
    return _file(name)


def _file(name: str) -> Response:
    """A file of the folder; its names are known, so that no path of a request is ever opened."""
    path = next((file for file in FOLDER.iterdir() if file.name == name and file.suffix in TYPES), None)
    if path is None:
        raise no_such_part()
    return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers=HEADERS)


def no_such_part() -> ApiError:
    return ApiError(404, "the page has no such part", code="not_found")
