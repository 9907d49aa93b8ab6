"""Who may bring requests: nobody after `close` or from another process, nobody new while an engine drains or its queue is full."""

from __future__ import annotations

import os

from linnet.engine.counters import Tally
from linnet.errors import ClosedError, LinnetError, QueueFullError


class Admission:
    """Of one engine. closed, draining: set by it, for good.

    max_queue: how many requests may wait beside `max_batch` that run; None: any number. tally: counts those that are refused for it.
    """

    def __init__(self, max_batch: int, max_queue: int | None, tally: Tally) -> None:
        self.closed = self.draining = False
        self._most = None if max_queue is None else max_batch + max_queue
        self._tally = tally
        self._process = os.getpid()

    def check_open(self) -> None:
        """Raises ClosedError after `close`, and LinnetError in a forked process."""
        if self.closed:
            raise ClosedError("the LLM is closed; open a new one")
        self.check_process()

    def check_process(self) -> None:
        """Raises LinnetError in a forked process: the threads that compute are not there, and waiting for them would never end."""
        if self._process != os.getpid():
            raise LinnetError("the LLM was opened before this process was forked; open one in this process, or start it with 'spawn'")

    def admit(self, there: int) -> None:
        """Raises ClosedError while the engine drains, and QueueFullError where as many requests run or wait as may."""
        if self.draining:
            raise ClosedError("the LLM is being shut down and takes no more requests; those that it has run to their ends")
        if self._most is not None and there >= self._most:
            self._tally.refuse()
            raise QueueFullError(f"{there} requests run or wait, and max_batch and max_queue allow {self._most}; try again later")
