"""Which thread runs the engine: of all threads that wait for it, one at a time has the turn. Knows nothing of requests."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

_LOST = 1.0
"""Seconds after which a waiting thread looks again: Ctrl-C in the thread that gives the turn up can lose the call that wakes the others."""


class Turns:
    """The turn, the threads that wait for it, and errands: work that any thread can leave for the one that has the turn.

    lock: guards the engine's state that several threads see; never held while a step runs.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # entered as itself: Ctrl-C in the condition's own __enter__ would leave it locked
        self._freed = threading.Condition(self.lock)
        self._holder: int | None = None
        self._closed = False
        self._claims = 0  # how many threads wait in `claim`
        self._errands: deque[Callable[[], None]] = deque()

    @property
    def mine(self) -> bool:
        """Whether the calling thread has the turn."""
        return self._holder == threading.get_ident()

    def take(self, enough: Callable[[], bool], until: float = math.inf) -> bool:
        """Waits for the turn. True once this thread has it; False if `enough()` holds first, or time.perf_counter() reaches `until`."""
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
        """Waits for the turn, with precedence over all threads in `take`. False once the turns are closed."""
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
        """Takes the turn, and ends all others: nobody gets it afterwards."""
        me = threading.get_ident()
        with self.lock:
            self._closed = True
            while self._holder not in (None, me):
                self._freed.wait(_LOST)
            self._holder = me

    def leave(self, errand: Callable[[], None]) -> None:
        """Has `errand` done by the thread that has the turn, before it gives the turn up; if nobody has it, by this thread immediately.
        May be called at any time and from anywhere, even by the garbage collector in the middle of a step."""
        self._errands.append(errand)
        with self.lock:
            if self._holder is not None:
                return
            self._holder = threading.get_ident()
        self.give_up()

    def give_up(self) -> None:
        """Does the errands, then gives the turn up and wakes the waiting threads."""
        while True:
            try:
                while self._errands:
                    self._errands.popleft()()
            except BaseException:  # most likely Ctrl-C; the remaining errands are left to the next turn
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
