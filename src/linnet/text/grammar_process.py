"""The program that tries grammars out, in the process of confined.py: asked by grammar.py.

Stands alone (only llguidance and the standard library). Which texts a grammar allows does not depend on the vocabulary, so single
bytes do here.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLTokenizer

STACK = 2 * 2**20
"""Bytes: a fourth of what threads have on Linux, so that a grammar that gets along with it nests too deeply nowhere else."""


def prepare() -> None:
    vocabulary()
    threading.stack_size(STACK)


def answer(question: Any) -> tuple[bytes, str]:
    """b"+", or b"-" and what llguidance says is wrong."""
    grammar, limits = question
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(tried(grammar, limits)))
    thread.start()
    thread.join()
    return (b"-", said[0]) if said[0] else (b"+", "")


@lru_cache
def vocabulary() -> LLTokenizer:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def tried(grammar: str, limits: dict[str, Any]) -> str:
    """What is wrong with a grammar, or ""."""
    from llguidance import LLMatcher, LLParserLimits

    matcher = LLMatcher(vocabulary(), grammar, log_level=0, limits=LLParserLimits(**limits))
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher.get_error() if matcher.is_error() else ""
