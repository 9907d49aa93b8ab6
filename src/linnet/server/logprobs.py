"""Log-probabilities as OpenAI's two APIs report them. The end token is included, as it is in the token counts."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from linnet.engine.sampling import TokenLogprob
from linnet.text.tokenizer import Tokenizer


def chat_logprobs(entries: Sequence[TokenLogprob] | None, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """One record per token: text, log-probability, bytes, and the alternatives. None if no log-probabilities were asked for."""
    if entries is None:
        return None
    content = []
    for entry in entries:
        top = [_record(token, logprob, tokenizer) for token, logprob in entry.top]
        content.append({**_record(entry.token_id, entry.logprob, tokenizer), "top_logprobs": top})
    return {"content": content, "refusal": None}


def token_record(entry: TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    """A token as the web page shows it: id, text, log-probability and the alternatives."""

    def record(token: int, logprob: float) -> dict[str, Any]:
        return {"id": token, "text": token_name(token, tokenizer), "logprob": _finite(logprob)}

    return {**record(entry.token_id, entry.logprob), "top": [record(token, logprob) for token, logprob in entry.top]}


def _record(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": token_name(token, tokenizer), "logprob": _finite(logprob), "bytes": list(data)}


def token_name(token: int, tokenizer: Tokenizer) -> str:
    """A token's text; for part of a character its bytes, such as `bytes:\\xe2\\x80`, so that no two tokens look alike."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(logprob: float) -> float:
    """A number that JSON can hold: -9999 for a token that is impossible, as in OpenAI's API."""
    return max(logprob, -9999.0)


class CompletionLogprobs:
    """The log-probabilities of an answer that comes in pieces: `add` gives those of each piece, with character offsets into the text.

    continues: whether this text continues another (see `Handle.continues`). offset: where this text begins.
    """

    def __init__(self, tokenizer: Tokenizer, continues: bool, offset: int = 0) -> None:
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = offset
        self._first = not continues

    def add(self, tokens: Iterable[tuple[int, TokenLogprob | None]]) -> dict[str, Any]:
        """tokens: ids with their log-probabilities; None for the first token of a prompt, which nothing predicts."""
        names, logprobs, top, offsets = [], [], [], []
        for token, entry in tokens:
            names.append(token_name(token, self.tokenizer))
            logprobs.append(None if entry is None else _finite(entry.logprob))
            top.append(None if entry is None else self._candidates(entry))
            offsets.append(self._offset)
            shown = b"" if token in self.tokenizer.special_ids else self.tokenizer.token_bytes(token, self._first)
            self._first = self._first and not shown
            self._offset += len(self._decoder.decode(shown))
        return {"tokens": names, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets}

    def _candidates(self, entry: TokenLogprob) -> dict[str, float]:
        """The alternatives by name; the chosen token is always one of them."""
        return {token_name(id, self.tokenizer): _finite(logprob) for id, logprob in (*entry.top, (entry.token_id, entry.logprob))}
