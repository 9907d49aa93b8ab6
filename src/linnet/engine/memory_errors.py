"""Memory that ran out all the same, while a model was loaded or in a step, however the libraries below say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from linnet.errors import OutOfMemoryError
from linnet.machine_memory import available_memory


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's and NumPy's MemoryError, PyTorch's OutOfMemoryError on a device, and on a
    processor its RuntimeError, which only its words tell."""
    kind = type(error)
    return isinstance(error, MemoryError) or kind.__name__ == "OutOfMemoryError" or (kind is RuntimeError and "allocate" in str(error))


def step_error(error: Exception, remedy: str) -> Exception:
    """What a request fails with for an error in its step: of memory that ran out, an OutOfMemoryError that says what is left and what
    to change; else the error itself."""
    if isinstance(error, OutOfMemoryError) or not ran_out(error):
        return error
    said = (str(error).splitlines() or [""])[0][:300]
    asked = f" ({said})" if said else ""
    return OutOfMemoryError(f"memory ran out in a step{asked}, with {available_memory()} bytes that can be taken now; {remedy}")


@contextmanager
def planned(name: str, nbytes: int) -> Iterator[None]:
    """Where `nbytes` of weights are loaded that were found to fit: raises OutOfMemoryError where that memory is gone meanwhile."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not ran_out(error):
            raise
        there = available_memory()
    else:
        return
    raise OutOfMemoryError(
        f"{name}: memory ran out while {nbytes} bytes of weights were loaded, and {there} can be taken now; free memory, or choose smaller "
        "weights, as q8_0 or q4_0"
    )
