"""uvicorn's HTTP/1.1 with a time limit for a request's head, so that a client that connects and sends nothing keeps no connection."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def patient_for(seconds: float) -> type[H11Protocol]:
    """A protocol that closes a connection if a request's head takes longer: counted from the connection's start for the first request,
    from its first byte for later ones. (Between requests, uvicorn's own keep-alive limit applies, which is shorter.)"""

    class Patient(H11Protocol):
        _end: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._follow()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._follow()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _follow(self) -> None:
            if self.conn.their_state is not h11.IDLE:
                self._forget()
            elif self._end is None:
                self._end = self.loop.call_later(seconds, self.transport.close)

        def _forget(self) -> None:
            if self._end is not None:
                self._end.cancel()
                self._end = None

    return Patient
