"""A process of our own that is given orders and reports: pickled values, through its standard input and output.

Not one of multiprocessing's, which runs the main program's file in each process, and so, without a guard, all that a script does.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias, TypeVar
from weakref import finalize

from linnet.errors import LinnetError

T = TypeVar("T")

Orders: TypeAlias = "SimpleQueue[Any]"
"""What the process is told, one thing after another; None: that there is nothing more."""

Report: TypeAlias = Callable[["str | None"], None]
"""Tells the other side: None, that the next of the places is reached that both know of; a text, what went wrong."""

ENDING_S = 5.0
"""How long a process has to leave by itself."""

_BEGIN = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from linnet.rank_process import begin
begin()
"""


class RankProcess:
    """Runs `work(*arguments, orders, report)`, a function of some module, in a process that Ctrl-C does not reach and that ends with this
    one. heard: called with every report, in a thread of its own; the last one says how the process ended. Raises LinnetError where there
    can be no process."""

    def __init__(self, work: Callable[..., None], *arguments: Any, heard: Callable[[str | None], None]) -> None:
        try:
            self.process = subprocess.Popen([sys.executable, "-c", _BEGIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise LinnetError(f"a device of several has a process of its own, which cannot be started ({error})") from error
        # Closed with this object, whoever still listens: the process then leaves.
        self._orders, self.process.stdin = self.process.stdin, None
        Thread(target=_listen, args=(self.process, heard), name="linnet rank", daemon=True).start()
        with suppress(OSError):  # it has ended already, which is heard
            self.tell(sys.path)
            self.tell((work, arguments))

    def tell(self, order: Any) -> None:
        """Raises OSError where nobody is left who reads it."""
        assert self._orders is not None
        pickle.dump(order, self._orders, pickle.HIGHEST_PROTOCOL)
        self._orders.flush()

    def leave(self) -> None:
        """There are no more orders."""
        assert self._orders is not None
        with suppress(OSError):  # what was still to be written
            self._orders.close()

    def end(self, until: float) -> None:
        """Waits until it has left, and ends it where it has not by time.monotonic() `until`."""
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:  # it waits for its device, which waits for others
            self.process.kill()
            self.process.wait()


def _listen(process: subprocess.Popen[bytes], heard: Callable[[str | None], None]) -> None:
    assert process.stdout is not None
    with process.stdout:
        while True:
            try:
                report = pickle.load(process.stdout)
            except (EOFError, OSError, pickle.UnpicklingError):
                break
            heard(report)
    heard(f"ended with exit code {process.wait()}")


def begin() -> None:
    """The life of the process."""
    orders: Orders = SimpleQueue()
    with os.fdopen(os.dup(1), "wb") as reports:
        os.dup2(2, 1)  # whatever libraries print is no report

        def report(what: str | None) -> None:
            pickle.dump(what, reports)
            reports.flush()

        code = 1
        try:
            work, arguments = pickle.load(sys.stdin.buffer)
            Thread(target=_receive, args=(orders,), daemon=True).start()
            work(*arguments, orders, report)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)  # neither waits for the thread that reads, nor for what libraries do in the end


def _receive(orders: Orders) -> None:
    """Hands orders on; once nobody gives any more, ends the process, in whatever it waits for."""
    try:
        while True:
            orders.put(pickle.load(sys.stdin.buffer))
    except (EOFError, OSError, pickle.UnpicklingError):
        orders.put(None)
    time.sleep(ENDING_S)
    os._exit(1)


class InOrder:
    """Runs tasks one after another in a thread of its own: each to its end, also where Ctrl-C comes to whoever waits for it."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        Thread(target=_run, args=(self._tasks,), name="linnet steps", daemon=True).start()
        finalize(self, self._tasks.put, None)

    def submit(self, task: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        self._tasks.put((future, task))
        return future

    def __call__(self, task: Callable[[], T]) -> T:
        """What the task gives, or raises."""
        future = self.submit(task)
        try:
            return future.result()
        except BaseException:
            wait([future])
            raise


def _run(tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while (asked := tasks.get()) is not None:
        future, task = asked
        try:
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)
        del asked, future, task  # what they hold may be what holds this thread
