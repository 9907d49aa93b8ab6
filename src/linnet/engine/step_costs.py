"""What a step of so many rows costs, as measured while it serves."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

SAMPLES = 5
"""Measurements of each number of rows that are kept; the least of them counts, as what disturbs a step only makes it longer."""

STALE = 500
"""Steps after which a measurement that was not renewed is forgotten: contexts grow, neighbours come and go."""

LOOK = 50
"""Steps between two looks for what is stale."""


class StepCosts:
    """Seconds of decoding steps by their rows: measured where there are two measurements, on the line between neighbours elsewhere.

    Past the most rows that were measured, the line goes on, flat while there is but one: what is not known is taken to be cheap, and is
    known once it was tried.
    """

    def __init__(self) -> None:
        self._times: dict[int, deque[float]] = {}
        self._measured: dict[int, int] = {}  # when: the number of the step
        self._least: dict[int, float] = {}
        self._known: list[int] = []  # in order
        self._steps = 0

    def record(self, rows: int, seconds: float) -> None:
        self._steps += 1
        times = self._times.setdefault(rows, deque(maxlen=SAMPLES))
        times.append(seconds)
        if len(times) == 2:
            insort(self._known, rows)
        self._measured[rows] = self._steps
        self._least[rows] = min(times)
        if self._steps % LOOK == 0:
            self._forget()

    def _forget(self) -> None:
        """Drops what is stale."""
        for old in [rows for rows, step in self._measured.items() if self._steps - step > STALE]:
            if len(self._times.pop(old)) > 1:
                self._known.remove(old)
            del self._measured[old], self._least[old]

    def is_known(self, rows: int) -> bool:
        """Whether it was measured, and lately."""
        return len(self._times.get(rows, ())) > 1

    def seconds(self, rows: int) -> float:
        """What a step of so many rows takes; 0 while nothing was measured."""
        known = self._known
        if not known:
            return 0.0
        if self.is_known(rows):
            return self._least[rows]
        above = bisect_left(known, rows)
        if above == 0 or len(known) == 1:
            return self._least[known[0]]
        left, right = (above - 1, above) if above < len(known) else (-2, -1)
        low, high = known[left], known[right]
        slope = max(0.0, (self._least[high] - self._least[low]) / (high - low))
        return self._least[low] + slope * (rows - low)
