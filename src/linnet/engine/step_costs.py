"""How long a step of so many rows takes, measured while the engine runs."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

SAMPLES = 5
"""Measurements that are kept for each number of rows. The smallest counts, since disturbances only make a step longer."""

STALE = 500
"""Steps after which an old measurement is forgotten: contexts grow, other requests come and go."""

LOOK = 50
"""Steps between two searches for stale measurements."""


class StepCosts:
    """Seconds of decoding steps by their number of rows: as measured if there are two measurements, else interpolated between neighbours.

    Beyond the largest number that was measured, the line is extrapolated (flat, if there is only one measurement). So unknown sizes look
    cheap, which makes them be tried, and then they are known.
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
        """Drops stale measurements."""
        for old in [rows for rows, step in self._measured.items() if self._steps - step > STALE]:
            if len(self._times.pop(old)) > 1:
                self._known.remove(old)
            del self._measured[old], self._least[old]

    def is_known(self, rows: int) -> bool:
        """Whether this number of rows was measured lately."""
        return len(self._times.get(rows, ())) > 1

    def seconds(self, rows: int) -> float:
        """How long a step of so many rows takes; 0 while nothing was measured."""
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
