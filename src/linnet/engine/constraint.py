"""What the engine sees of a grammar: which tokens may come next. Knows no text and no grammar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Constraint(Protocol):
    """Where one answer stands in what it must satisfy. Its methods are called by one thread at a time, and raise where they cannot
    tell what is allowed, which fails the request: no token is ever drawn without them."""

    def fork(self) -> Constraint:
        """A state of its own for another answer that stands at the same place. May be called from any thread."""

    def allowed(self) -> NDArray[np.uint32]:
        """The tokens that may come next, a set (`ops/sampling.py`, set_of) that is the caller's to change; none of those that end an
        answer is in it."""

    def advance(self, token: int) -> None:
        """Takes a token that the answer got: one that was allowed, and does not end it."""

    @property
    def satisfied(self) -> bool:
        """Whether the answer may end here."""

    @property
    def finished(self) -> bool:
        """Whether nothing can follow: the answer is satisfied and ends here."""
