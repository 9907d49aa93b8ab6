"""How far a stage of a run is, told to whoever asked for it."""

from __future__ import annotations

from collections.abc import Callable

from linnet.quantize import Progress


def counter(progress: Progress | None, stage: str, total: int) -> Callable[[int], None]:
    """A function to be called with how much more of a stage is done; it tells `progress`, if there is one, how much is done in all."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(stage, done, total)

    return advance
