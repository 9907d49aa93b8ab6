"""For coroutines that wait for tokens: a thread that runs the steps for them, and wakes them with one call per event loop and step."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from linnet.engine.request import Request

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("linnet.engine")


class Driver:
    """Its thread exists as long as there are unfinished requests that a coroutine has waited for.

    lock: the engine's. drive: waits for the turn and runs a step, unless the condition that it is given holds before.
    """

    def __init__(self, lock: threading.RLock, drive: Callable[[Callable[[], bool]], None]) -> None:
        self._lock, self._drive = lock, drive
        self._followed: set[Request] = set()
        self._waiters: dict[asyncio.AbstractEventLoop, dict[asyncio.Future[None], Request]] = {}
        self._thread: threading.Thread | None = None
        self._stopped = False

    async def wait(self, request: Request) -> None:
        """Waits until the request has outputs or is done."""
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._lock:
            self._waiters.setdefault(loop, {})[future] = request
        try:
            self._follow(request)
            if not request.outputs and not request.done:
                await future
        finally:
            with self._lock:
                self._waiters[loop].pop(future, None)
                if not self._waiters[loop]:
                    del self._waiters[loop]

    def wake(self) -> None:
        """After each step: has every event loop check, once, which of its waiting coroutines can go on."""
        if not self._waiters:
            return
        with self._lock:
            for loop in self._waiters:
                with suppress(RuntimeError):  # the loop is closed, so nobody waits in it
                    loop.call_soon_threadsafe(self._resolve, loop)

    def _resolve(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            waiters = tuple(self._waiters.get(loop, {}).items())
        for future, request in waiters:
            if (request.outputs or request.done) and not future.done():
                future.set_result(None)

    def _follow(self, request: Request) -> None:
        with self._lock:
            if request in self._followed or request.done:
                return
            self._followed.add(request)
            if self._thread is None:
                self._stopped = False
                self._thread = threading.Thread(target=self._run, name="linnet engine", daemon=True)
                atexit.register(self._stop)
                self._thread.start()

    def _run(self) -> None:
        while self._goes_on():
            try:
                self._drive(lambda: self._stopped or all(request.done for request in self._followed))
            except BaseException:  # such as SystemExit in a caller's callable: that request has failed, the others go on
                logger.exception("in a step that a thread of the engine's own ran")

    def _goes_on(self) -> bool:
        with self._lock:
            self._followed = {request for request in self._followed if not request.done}
            if self._followed and not self._stopped:
                return True
            self._thread = None
            atexit.unregister(self._stop)
            return False

    def _stop(self) -> None:
        """At exit of the process: the core must not be in the middle of a step when its memory goes away."""
        self._stopped = True
        thread = self._thread
        if thread is not None:
            thread.join()
