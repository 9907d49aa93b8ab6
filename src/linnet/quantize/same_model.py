"""Where two specs are not the same model: what proves that a file will be read as what it was written from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from math import isclose
from typing import Any

import numpy as np

from linnet.arch.rope import inverse_frequencies
from linnet.arch.rope_spec import Rope


def differences(ours: Any, theirs: Any, path: str = "spec") -> Iterator[str]:
    """In words, up to rounding in float32 and the order of rotary pairs, which tensors can follow."""
    if isinstance(ours, Rope) and isinstance(theirs, Rope):
        yield from _rope_differences(ours, theirs, path)
    elif is_dataclass(ours) and type(ours) is type(theirs):
        for field in fields(ours):
            if field.name == "family":  # which table: the tensors tell
                continue
            name = "value_head_dim" if field.name == "value_dim" else field.name
            yield from differences(getattr(ours, name), getattr(theirs, name), f"{path}.{name}")
    elif isinstance(ours, tuple) and isinstance(theirs, tuple) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif isinstance(ours, float) and isinstance(theirs, float):
        if not isclose(ours, theirs, rel_tol=1e-6):
            yield f"{path} is {ours:g}, not {theirs:g}"
    elif ours != theirs:
        yield f"{path} is {ours}, not {theirs}"


def _rope_differences(ours: Rope, theirs: Rope, path: str) -> Iterator[str]:
    plain = {name: (getattr(ours, name), getattr(theirs, name)) for name in ("dim", "start", "positions")}
    yield from (f"{path}.{name} is {one}, not {other}" for name, (one, other) in plain.items() if one != other)
    for length in (1, 2 * ours.context):
        (frequencies, factor), (said, said_factor) = inverse_frequencies(ours, length), inverse_frequencies(theirs, length)
        same = len(frequencies) == len(said) and np.allclose(frequencies, said, rtol=1e-5, atol=0)
        if not same or not isclose(factor, said_factor, rel_tol=1e-6):
            yield f"{path} turns otherwise in {length} tokens ({ours.scaling}, not {theirs.scaling})"
