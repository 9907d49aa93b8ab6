"""Numbers and norms in words, as every description of a spec puts them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

from linnet.arch.spec import Norm


def number(value: float) -> str:
    """Whole numbers with all their digits, others with six."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def numbers(values: Sequence[int]) -> str:
    """Ascending integers, runs of neighbours as their ends: "0 to 3, 7"; or, where they go by larger steps, "0, 2, 4 ... 22"."""
    steps = {after - before for before, after in pairwise(values)}
    if len(values) > 4 and len(steps) == 1 and steps != {1}:
        return f"{', '.join(map(str, values[:3]))} ... {values[-1]}"
    runs = [[value for _, value in run] for _, run in groupby(enumerate(values), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def joined(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def norm_words(norm: Norm) -> str:
    return f"{'RMS norm' if norm.kind == 'rms' else 'layer norm'} (epsilon {number(norm.epsilon)})"


def size(nbytes: float) -> str:
    """Bytes in the unit that makes them short."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "bytes" or nbytes >= 100 else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.3g} TB" if nbytes < 1000 else f"{nbytes:,.0f} TB"
