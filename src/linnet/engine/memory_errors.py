"""Memory that ran out in the middle of a step, however the libraries below say so."""

from __future__ import annotations

from linnet.engine.pages import available_memory
from linnet.errors import OutOfMemoryError


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
