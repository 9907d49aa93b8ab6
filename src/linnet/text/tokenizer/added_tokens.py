"""Tokens that are matched in a text before it is tokenized: control tokens of the model, and content such as runs of spaces.

Matching is leftmost-longest over all of them at once (the Aho-Corasick of `tokenizers`), in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from linnet.errors import ModelFileError
from linnet.text.tokenizer.byte_level import is_utf8

# Tags that vocabularies hold as ordinary content (Gemma has them all); any other token in angle or square brackets is a marker.
_HTML_TAG = re.compile(
    r"</?(?:a|b|i|p|u|br|hr|h[1-6]|em|strong|sub|sup|code|pre|ul|ol|li|dl|dt|dd|table|caption|thead|tbody|tfoot|tr|th|td"
    r"|div|span|img|blockquote|center|small|big|font)>"
)
_BRACKETED = re.compile(r"<[^<>]+>|\[[^\[\]]+\]", re.DOTALL)


def is_marker(content: str) -> bool:
    """Whether an added token steers the model rather than being text, judged by its form.

    Models mark turns, tools and thoughts also with tokens that are not flagged special (`<think>`, `<tool_call>`, `[INST]`),
    so everything in brackets counts, except HTML tags.
    """
    content = content.strip(" \n▁")
    return _BRACKETED.fullmatch(content) is not None and _HTML_TAG.fullmatch(content) is None


# Signs that contents need for other ends (paths, JSON, names that templates look up) and that no marker consists of alone.
_COMMON = frozenset("_-/.,:;='\"\\")


def _signs(content: str) -> set[str]:
    """The characters to mask so that the token cannot be written: its brackets, bars and the like; if it has none, its first."""
    signs = {character for character in content if not (character.isalnum() or character.isspace())}
    return signs - _COMMON or signs or {content[0]}


MAX_TOKENS, MAX_CHARACTERS = 2**16, 2**20
"""Ten times what any model adds. The matcher takes more than a hundred bytes per character."""


def check_amount(contents: Collection[str], source: str) -> None:
    """Raises ModelFileError if there are too many added tokens, or too long ones. source: the name of their file."""
    total = sum(map(len, contents))
    if len(contents) > MAX_TOKENS or total > MAX_CHARACTERS:
        raise ModelFileError(
            f"{source}: {len(contents)} added tokens of {total} characters in all; at most {MAX_TOKENS} of {MAX_CHARACTERS} are read"
        )


@dataclass(frozen=True)
class AddedToken:
    """One token and how it matches: `control` tokens only on request; `left_strip` and `right_strip` include the whitespace beside it."""

    id: int
    content: str
    control: bool
    single_word: bool = False
    left_strip: bool = False
    right_strip: bool = False


class AddedTokens:
    """All added tokens of a vocabulary, ready to cut texts. Immutable, safe to share between threads."""

    def __init__(self, tokens: Iterable[AddedToken], source: str) -> None:
        from tokenizers import AddedToken as Matched
        from tokenizers import Tokenizer, models

        given = tuple(tokens)
        check_amount([token.content for token in given], source)
        self.control_ids = frozenset(token.id for token in given if token.control)
        self.tokens: Sequence[AddedToken] = tuple(token for token in given if token.content and is_utf8(token.content))
        self.control_signs = frozenset(sign for token in self.tokens if token.control for sign in _signs(token.content))
        # A vocabulary of one entry that no text equals: text that matches no added token comes back as that entry, with its offsets.
        self._matchers = {special: Tokenizer(models.WordLevel({"": 0}, unk_token="")) for special in (False, True)}
        for special, matcher in self._matchers.items():
            matcher.encode_special_tokens = not special
            matcher.add_tokens(
                [
                    Matched(
                        t.content,
                        single_word=t.single_word,
                        lstrip=t.left_strip,
                        rstrip=t.right_strip,
                        normalized=False,
                        special=t.control,
                    )
                    for t in self.tokens
                ]
            )
        self._ids = {self._matchers[True].token_to_id(token.content): token.id for token in self.tokens}

    def split(self, text: str, special: bool) -> Iterator[tuple[int | None, str]]:
        """Pieces of `text` in order: (id, its text) for an added token, (None, text) for the text between.

        Control tokens are cut out only if `special`.
        """
        if not self.tokens:
            if text:
                yield None, text
            return
        begin = 0  # where the text not yet given out begins
        matches = self._matchers[special].encode(text, add_special_tokens=False)
        for id, (start, end) in zip(matches.ids, matches.offsets, strict=True):
            if id == 0:
                continue
            if start > begin:
                yield None, text[begin:start]
            yield self._ids[id], text[start:end]
            begin = end
        if begin < len(text):
            yield None, text[begin:]

    def split_control(self, text: str) -> Iterator[tuple[int | None, str]]:
        """As `split`, but cutting at control tokens only: content tokens stay inside the text between."""
        pending = ""
        for id, piece in self.split(text, special=True):
            if id not in self.control_ids:
                pending += piece
                continue
            if pending:
                yield None, pending
            yield id, piece
            pending = ""
        if pending:
            yield None, pending
