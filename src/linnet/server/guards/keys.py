"""API keys: every route but health needs one. The route is told by the raw path."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256

from starlette.types import ASGIApp, Receive, Scope, Send

from linnet.server.errors import ApiError, error_response

OPEN = (b"/health", b"/api/health")

_MISSING = "no API key was given; send it as Authorization: Bearer KEY"
_WRONG = "the API key is not one of this server's; check it"


class Keys:
    """Refuses with 401. A key comes as a bearer token, as `x-api-key` (Anthropic's clients), or as the password of basic authentication,
    which browsers ask for. If no keys are set, every request is let in."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self.digests = [sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.digests or scope["type"] == "lifespan" or (scope["type"] == "http" and scope.get("raw_path") in OPEN):
            await self.app(scope, receive, send)
            return
        given = _given(scope["headers"])
        if sum(self._is_known(key) for key in given):
            await self.app(scope, receive, send)
            return
        error = ApiError(401, _WRONG if given else _MISSING, "authentication_error", "invalid_api_key")
        answer = error_response(error, scope)
        for challenge in ("Bearer", 'Basic realm="linnet", charset="UTF-8"'):  # a line for each: Chromium reads but the first of a line
            answer.headers.append("www-authenticate", challenge)
        await answer(scope, receive, send)

    def _is_known(self, key: bytes) -> bool:
        """Compares the digests of all keys to the end, so that the time taken reveals nothing about any key."""
        digest = sha256(key).digest()
        return sum(hmac.compare_digest(digest, known) for known in self.digests) > 0


def _given(headers: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    keys = []
    for name, value in headers:
        if name == b"x-api-key":
            keys.append(value)
        elif name == b"authorization":
            scheme, _, credentials = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                keys.append(credentials.strip())
            elif scheme.lower() == b"basic":
                keys.append(_password(credentials))
    return keys


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
