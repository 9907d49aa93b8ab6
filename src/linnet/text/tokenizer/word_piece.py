"""WordPiece for vocabularies that come as lists, in the form that GGUF gives them: `▁word` starts a word, `piece` goes on.

Words are cut as BERT's uncased models cut them and matched greedily, longest first, as llama.cpp does (Wu et al. 2016,
arXiv:1609.08144); a word that does not come out whole is one unknown token. Knows no file format.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping

_HAN = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_SEPARATORS = "\x1c\x1d\x1e\x1f"  # space to Python, control characters to Unicode
_UNSEEN = ("Cc", "Cf", "Co")


def word_piece_encoder(pieces: Mapping[str, int], unknown_id: int) -> Callable[[str], list[int]]:
    """A function from text to ids. Time is linear in the text, times the length of the longest piece."""
    longest = max(map(len, pieces), default=0)

    def word_ids(word: str) -> list[int]:
        ids: list[int] = []
        position = 0
        while position < len(word):
            ends = range(min(len(word), position + longest), position, -1)
            end = next((end for end in ends if word[position:end] in pieces), None)
            if end is None:
                return [unknown_id]
            ids.append(pieces[word[position:end]])
            position = end
        return ids

    def encode(text: str) -> list[int]:
        return [id for word in _words(text) for id in word_ids("▁" + word)]

    return encode


def _words(text: str) -> Iterator[str]:
    """Lower-cased, each character stripped down to the first of its canonical decomposition; signs and Han are words of their own."""
    word: list[str] = []
    for written in text:
        character = unicodedata.normalize("NFD", written)[0]
        category = unicodedata.category(character)
        space = character.isspace() and character not in _SEPARATORS
        if not space and (character == "\ufffd" or category[0] == "M" or category in _UNSEEN):
            continue
        alone = not space and _stands_alone(character, category)
        if (space or alone) and word:
            yield "".join(word)
            word = []
        lower = character.lower()
        if alone:
            yield lower
        elif not space:
            word.append(lower if len(lower) == 1 else character)
    if word:
        yield "".join(word)


def _stands_alone(character: str, category: str) -> bool:
    code = ord(character)
    return category[0] == "P" or (code < 0x7F and category[0] == "S") or any(low <= code <= high for low, high in _HAN)
