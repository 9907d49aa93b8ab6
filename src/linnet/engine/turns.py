"""Who drives: of all threads that want something of an engine, one at a time has the turn. Knows nothing of requests."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

_LOST = 1.0
"""Seconds after which a waiter looks again: Ctrl-C in whoever gives the turn up can lose the call that wakes it."""


class Turns:
    """The turn, those who wait for it, and errands: what others leave to be done by whoever has it.

    lock: guards what several threads see of the engine; never held while a step runs.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # entered as itself: Ctrl-C in the condition's own __enter__ would leave it locked
        self._freed = threading.Condition(self.lock)
        self._holder: int | None = None
        self._closed = False
        self._claims = 0  # of those who wait for a turn, whatever happens in the turns before
        self._errands: deque[Callable[[], None]] = deque()

    @property
    def mine(self) -> bool:
        """Whether the calling thread has the turn."""
        return self._holder == threading.get_ident()

    def take(self, enough: Callable[[], bool], until: float = math.inf) -> bool:
        """Waits for the turn: True once this thread has it, False where `enough()` holds or time.perf_counter() is `until`."""
        me = threading.get_ident()
        with self.lock:
            while (self._closed or self._claims or self._holder not in (None, me)) and not enough():
                left = until - time.perf_counter()
                if left <= 0:
                    return False
                self._freed.wait(min(_LOST, left))
            if enough():
                return False
            self._holder = me
        return True

    def claim(self) -> bool:
        """Waits for the turn, before all who `take` it; False once nobody gets it any more."""
        with self.lock:
            self._claims += 1
            try:
                while not self._closed and self._holder not in (None, threading.get_ident()):
                    self._freed.wait(_LOST)
                if not self._closed:
                    self._holder = threading.get_ident()
                return not self._closed
            finally:
                self._claims -= 1
                self._freed.notify_all()

    def close(self) -> None:
        """Takes the turn, and sees to it that nobody takes it afterwards, however many tokens are still to come."""
        me = threading.get_ident()
        with self.lock:
            self._closed = True
            while self._holder not in (None, me):
                self._freed.wait(_LOST)
            self._holder = me

    def leave(self, errand: Callable[[], None]) -> None:
        """Has `errand` done by whoever has the turn, before that is given up, or else by this thread at once. May be called at any
        time and from anywhere, a garbage collection in the middle of a step included."""
        self._errands.append(errand)
        with self.lock:
            if self._holder is not None:
                return
            self._holder = threading.get_ident()
        self.give_up()

    def give_up(self) -> None:
        """Does what was left to be done, then gives the turn up and wakes whoever waits."""
        while True:
            try:
                while self._errands:
                    self._errands.popleft()()
            except BaseException:  # Ctrl-C, most likely: the errands after it are for whoever has the turn next
                self._free()
                raise
            with self.lock:
                if not self._errands:
                    self._free()
                    return

    def _free(self) -> None:
        with self.lock:
            self._holder = None
            self._freed.notify_all()
