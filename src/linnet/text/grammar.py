"""Grammars over a tokenizer's vocabulary: which tokens may come next, by llguidance (https://github.com/guidance-ai/llguidance).

Anyone who sends a request can send a grammar. It is first compiled in a process of its own: a grammar that compiles for ever, takes all
memory or overflows the stack ends only that process, and is refused. The rest is bounded by llguidance's own limits.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from linnet.errors import InvalidRequestError, LinnetError, MissingDependencyError
from linnet.text.confined import Confined
from linnet.text.grammar_source import check_text, grammar_of

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from linnet.text.tokenizer import Tokenizer

MEMORY = 512 * 2**20
"""Bytes that trying a grammar out may take."""
PROCESSOR_SECONDS = 2.0
"""Processor time that it may take."""
LIMITS: dict[str, Any] = {
    "max_grammar_size": 100_000,
    "max_lexer_states": 50_000,
    "step_max_items": 50_000,
    "step_lexer_fuel": 200_000,
    "verbose_errors": False,
}
"""llguidance's limits: symbols, states (1 to 2 KB each), and work for one token; docs/constraints.md says what they mean in practice."""
LARK_LIMITS = {**LIMITS, "max_items_in_row": 500}
"""A Lark grammar may be ambiguous (`s: s s | "a"`): the time for a token then grows with the cube of the items; with 500, 30 ms."""
LONGEST_TOKEN = 512
"""Bytes. A longer token is never allowed (llguidance itself takes up to 1,024)."""
_LONGEST_REASON = 400

_trial = Confined("grammar_process", MEMORY, PROCESSOR_SECONDS)


class GrammarCompiler:
    """Compiles the constraints of requests, for one vocabulary. Safe to use from any thread.

    rows: the model's number of tokens. It may be larger than the tokenizer's; the tokens in excess are never allowed, nor are control
    tokens.
    """

    def __init__(self, tokenizer: Tokenizer | None, rows: int) -> None:
        self._tokenizer, self._rows = tokenizer, rows
        self._lock = threading.Lock()
        self._made: _TokenTable | None = None

    def compile(self, name: str, value: Any) -> Grammar:
        """The grammar for an option of SamplingParams, in its first state. Takes some milliseconds, and a second the first time.

        Raises InvalidRequestError if it is malformed, uses something that is not supported (which the message names), exceeds the limits
        above, or cannot be satisfied with this vocabulary; MissingDependencyError without llguidance.
        """
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ImportError:
            raise MissingDependencyError(f"{name} needs llguidance: pip install 'linnet[constraints]'") from None
        if self._tokenizer is None:
            raise InvalidRequestError(f"{name} needs a tokenizer, and this model has none; pass tokenizer=")
        if not isinstance(value, bool):
            check_text(name, value)
        source = grammar_of(name, value)
        limits = LARK_LIMITS if name == "grammar" else LIMITS
        reply = _trial.ask((source, limits))
        if reply is None:
            raise InvalidRequestError(
                f"{name} nests too deeply, or takes more than {PROCESSOR_SECONDS:g} s or {MEMORY >> 20} MB to compile; simplify it"
            )
        if reply[0] != b"+":
            raise InvalidRequestError(f"{name}: {_reason(reply[1])}")
        table = self._table(self._tokenizer)
        matcher = LLMatcher(table.tokenizer, source, log_level=0, limits=LLParserLimits(**limits))
        grammar = Grammar(name, table, matcher)
        try:
            possible = not matcher.is_error() and bool(grammar.allowed().any() or grammar.satisfied)
        except LinnetError:
            possible = False
        if not possible:
            raise InvalidRequestError(f"{name}: {_reason(matcher.get_error()) if matcher.is_error() else _IMPOSSIBLE}")
        return grammar

    def _table(self, tokenizer: Tokenizer) -> _TokenTable:
        with self._lock:
            if self._made is None:
                self._made = _TokenTable(tokenizer, self._rows)
            return self._made


class Grammar:
    """The state of one answer in its grammar: a `Constraint` of the engine."""

    def __init__(self, name: str, table: _TokenTable, matcher: LLMatcher, at_start: bool = True) -> None:
        self._name, self._table, self._matcher, self._at_start = name, table, matcher, at_start

    def fork(self) -> Grammar:
        return Grammar(self._name, self._table, self._matcher.deep_copy(), self._at_start)

    def allowed(self) -> NDArray[np.uint32]:
        words = np.zeros(self._table.words, np.uint32)
        if not self._matcher.is_stopped():
            self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        self._refuse_error()
        return self._table.text_tokens(words, self._at_start)

    def advance(self, token: int) -> None:
        entry = self._table.entry(token, self._at_start)
        self._at_start = False
        if entry is not None:
            self._matcher.consume_token(entry)
            self._refuse_error()

    @property
    def satisfied(self) -> bool:
        return self._matcher.is_accepting()

    @property
    def finished(self) -> bool:
        return self._matcher.is_stopped()

    def _refuse_error(self) -> None:
        """Raises LinnetError if llguidance gave up, since its masks mean nothing from then on."""
        if self._matcher.is_error():
            raise LinnetError(f"{self._name} could not be followed further: {_reason(self._matcher.get_error())}")


class _TokenTable:
    """A vocabulary as llguidance takes it: the bytes of every token, b"" for tokens that are not text.

    Some tokens contribute different bytes at the start of a text (`▁the` loses its space, `▁` contributes nothing). For the start they
    have a second entry, after the model's own tokens, so that one table serves both cases.
    """

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        from llguidance import LLTokenizer

        hidden = tokenizer.control_ids | tokenizer.special_ids | tokenizer.eos_ids
        text = [id for id in range(min(rows, tokenizer.vocab_size)) if id not in hidden]
        later = {id: tokenizer.token_bytes(id) for id in text}
        first = {id: data for id in text if later[id] and (data := tokenizer.token_bytes(id, True)) != later[id]}
        self.own_words = -(-rows // 32)
        self._others = np.fromiter(first, np.int64)
        self._silent = np.array([id for id, data in first.items() if not data], np.int64)
        self._entries = {id: entry if first[id] else None for entry, id in enumerate(first, 32 * self.own_words)}
        self.tokens = [_usable(later.get(id, b"")) for id in range(32 * self.own_words)] + [_usable(data) for data in first.values()]
        self.tokens.append(b"")  # llguidance wants an end token: one that no model has, since the engine handles the real ones
        self.is_tokenizer_wrapper, self.eos_token_id, self.bos_token_id = True, len(self.tokens) - 1, None
        self.special_token_ids: list[int] = []
        self.words = -(-len(self.tokens) // 32)
        self._text = np.packbits([bool(data) for data in self.tokens[: 32 * self.own_words]], bitorder="little").view(np.uint32)
        self.tokenizer = LLTokenizer(self)  # type: ignore[arg-type]

    def entry(self, token: int, at_start: bool) -> int | None:
        """The entry of one of the model's tokens; None if it contributes nothing, as some do at the start."""
        return self._entries.get(token, token) if at_start else token

    def text_tokens(self, entries: NDArray[np.uint32], at_start: bool) -> NDArray[np.uint32]:
        """A set of entries as a set of the model's tokens. Only tokens of text are in it: no grammar can allow a control token."""
        if at_start and self._entries:
            bits = np.unpackbits(entries.view(np.uint8), bitorder="little")
            others = bits[32 * self.own_words :][: len(self._others)]
            bits = bits[: 32 * self.own_words].copy()
            after_silent = bits.any()
            bits[self._others] = others
            bits[self._silent] = after_silent
            entries = np.packbits(bits, bitorder="little").view(np.uint32)
        return entries[: self.own_words] & self._text


def _usable(data: bytes) -> bytes:
    """The bytes of a token, or b"" if no text can contain them: llguidance marks special tokens by a byte that UTF-8 does not have."""
    return data if len(data) <= LONGEST_TOKEN and b"\xff" not in data else b""


_IMPOSSIBLE = "no text of this model's vocabulary can satisfy it"
_LISTING = re.compile(r"^\s*(?:\d+ \| .*|\^+\s*)$", re.MULTILINE)
_PLACE = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?")


def _reason(error: str) -> str:
    """llguidance's message without its excerpts of the grammar and its call stack."""
    if error.startswith("NoExtension"):
        return _IMPOSSIBLE
    said = _LISTING.sub("", error.partition("\n<")[0])
    said = _PLACE.sub("", " ".join(said.split()))
    return said if len(said) <= _LONGEST_REASON else said[:_LONGEST_REASON] + " ..."
