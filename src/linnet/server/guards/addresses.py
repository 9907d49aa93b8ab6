"""Protects against browsers: checks that Host is this server's (DNS rebinding), and that Origin is allowed (foreign pages)."""

from __future__ import annotations

import ipaddress
import re

from starlette.types import ASGIApp, Receive, Scope, Send

from linnet.server.errors import ApiError, error_response
from linnet.server.options import ServerOptions
from linnet.server.settings import is_loopback

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?")


class Addresses:
    """Refuses with 403. Host names that are not IP addresses must be listed, since anybody can own a name; "*" allows all."""

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self.app = app
        self.hosts = {name.lower() for name in options.allowed_hosts}
        self.origins = {origin.lower().rstrip("/") for origin in options.allowed_origins}
        self.loopback_only = is_loopback(options.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            refusal = self._refusal(_values(scope, b"host"), _values(scope, b"origin"))
            if refusal is not None:
                await error_response(ApiError(403, refusal, "permission_error", "forbidden"), scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _refusal(self, hosts: list[str], origins: list[str]) -> str | None:
        host = hosts[0].lower() if len(hosts) == 1 else ""
        parsed = _HOST.fullmatch(host)
        if parsed is None or not self._is_ours(parsed.group(1)):
            return "this server is not known by the request's Host; use its address, or list the name with --allowed-hosts"
        if not origins or "*" in self.origins:
            return None
        origin = origins[0].lower()
        if len(origins) == 1 and (origin in self.origins or origin in (f"http://{host}", f"https://{host}")):
            return None
        return "pages of the request's Origin may not call this server; list it with --allowed-origins"

    def _is_ours(self, name: str) -> bool:
        if "*" in self.hosts or name in self.hosts or name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return address.is_loopback or not self.loopback_only


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for header, value in scope["headers"] if header == name]
