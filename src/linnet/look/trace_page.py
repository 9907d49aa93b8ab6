"""A trace as one page of HTML that needs nothing else: no network, no fonts, and not even its script."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from linnet.html_page import html_page
from linnet.outputs import Candidate, TraceStep

if TYPE_CHECKING:
    from markupsafe import Markup

LEVELS = 10
"""Shades of entropy, beside none."""

_PICTURES = {**{code: chr(0x2400 + code) for code in range(32)}, 0x0A: "↵", 0x09: "⇥", 0x20: "␣", 0x7F: "␡"}
"""Signs in place of characters that show nothing."""
_JOINERS = "\u200c\u200d"  # which emoji and some scripts are written with


@dataclass(frozen=True)
class _Row:
    """A candidate on its card. width: of its bar, in percent."""

    text: Markup
    share: str
    width: str
    chosen: bool


@dataclass(frozen=True)
class _Token:
    """A token in the text; `step` is None for those of the prompt that nothing was asked about."""

    id: int
    text: Markup
    step: TraceStep | None = None
    position: int = 0
    exact: Markup | None = None
    share: str = ""
    entropy: str = ""
    heat: int = 0
    rows: tuple[_Row, ...] = ()


def trace_page(model: str, prompt: Sequence[tuple[int, str]], steps: Sequence[TraceStep], facts: Sequence[tuple[str, str]]) -> str:
    """The page. prompt: ids and texts of its tokens, of which the steps may tell more. facts: what else to say, names and values."""
    scale = entropy_scale([step.entropy for step in steps])
    told = {step.position: _told(step, scale) for step in steps if step.in_prompt}
    given = [told.get(position) or _Token(token, _shown(token, text)) for position, (token, text) in enumerate(prompt)]
    answer = [_told(step, scale) for step in steps if not step.in_prompt]
    title = f"A trace of {model}"
    return html_page("linnet.look", "trace_page", title=title, model=model, facts=facts, prompt=given, answer=answer, scale=scale)


def entropy_scale(entropies: Sequence[float]) -> int:
    """What the deepest shade stands for, in whole bits."""
    return max(1, math.ceil(max(entropies, default=0.0)))


def _told(step: TraceStep, scale: int) -> _Token:
    chosen = step.chosen
    among = any(candidate.token_id == chosen.token_id for candidate in step.candidates)
    candidates = step.candidates if among else [*step.candidates, chosen]
    rows = [_row(candidate, candidate.token_id == chosen.token_id) for candidate in candidates]
    rest = 1 - sum(math.exp(candidate.logprob) for candidate in candidates)
    if step.candidates and rest > 5e-5:
        rows.append(_Row(_mark("all others"), _percent(rest), _width(rest), False))
    # A character that its last token makes whole is better than what is left of it.
    text = step.text if "\ufffd" in chosen.text and step.text else chosen.text
    return _Token(
        id=chosen.token_id,
        text=_shown(chosen.token_id, text),
        step=step,
        position=step.position,
        exact=_shown(chosen.token_id, chosen.text, exact=True),
        share=_percent(math.exp(chosen.logprob)),
        entropy=f"{step.entropy:.2f}",
        heat=round(min(1.0, step.entropy / scale) * LEVELS),
        rows=tuple(rows),
    )


def _row(candidate: Candidate, chosen: bool) -> _Row:
    probability = math.exp(candidate.logprob)
    return _Row(_shown(candidate.token_id, candidate.text, exact=True), _percent(probability), _width(probability), chosen)


def _shown(token: int, text: str, exact: bool = False) -> Markup:
    """A token's text with signs for what cannot be seen; `exact`: for spaces too. A token without a text is its id."""
    from markupsafe import Markup, escape

    if not text:
        return _mark(f"[{token}]")
    pieces = []
    for character in text:
        if character == "\n" and not exact:
            pieces.append(_mark("↵") + "\n")
        elif character == " " and not exact:
            pieces.append(escape(character))
        elif ord(character) in _PICTURES:
            pieces.append(_mark(_PICTURES[ord(character)]))
        elif unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS:
            pieces.append(_mark(f"U+{ord(character):04X}"))
        else:
            pieces.append(escape(character))
    return Markup("").join(pieces)


def _mark(text: str) -> Markup:
    """A sign that is none of the text's own."""
    from markupsafe import Markup

    return Markup('<i class="mark">{}</i>').format(text)


def _percent(probability: float) -> str:
    percent = 100 * probability
    return "<0.01%" if 0 < percent < 0.005 else f"{percent:.2f}%" if percent < 10 else f"{percent:.1f}%"


def _width(probability: float) -> str:
    return f"{100 * probability:.2f}"
