"""The program that tries grammars out: grammar.py asks it, and confined.py runs it in a process of its own.

Imports only llguidance and the standard library. The texts that a grammar allows do not depend on the vocabulary, so a vocabulary of
single bytes is enough here.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLTokenizer

STACK = 2 * 2**20
"""Bytes of stack: a fourth of what threads have on Linux, so that a grammar that compiles here overflows no stack elsewhere."""


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
    """Compiles a grammar; says what is wrong with it, or ""."""
    from llguidance import LLMatcher, LLParserLimits

    matcher = LLMatcher(vocabulary(), grammar, log_level=0, limits=LLParserLimits(**limits))
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher.get_error() if matcher.is_error() else ""
