"""`Runner`: the interface of whatever runs requests. `Engine` is Linnet's own; other backends bring theirs."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Protocol

from linnet.engine.counters import Counters
from linnet.engine.request import Output, Request


class Runner(Protocol):
    """Takes requests and gives their tokens; safe to use from several threads. `Engine` says what each method does."""

    context: int
    max_batch: int

    def check(self, request: Request) -> None: ...

    def submit(self, request: Request) -> None: ...

    def outputs(self, request: Request) -> Generator[Output, None, None]:
        """The outputs of a submitted request as they come, until its end. Raises what made it fail. Closing the iterator early
        cancels the request and frees its pages."""
        try:
            while True:
                done = request.done
                while request.outputs:
                    yield request.outputs.popleft()
                if done:
                    if request.error is not None:
                        raise request.error
                    return
                self.advance(request)
        finally:
            self.cancel(request)

    def advance(self, request: Request, until: float = math.inf) -> None: ...

    async def wait(self, request: Request) -> None: ...

    def cancel(self, request: Request) -> None: ...

    def counters(self) -> Counters: ...

    def drain(self, until: float = math.inf) -> bool: ...

    def close(self) -> None: ...
