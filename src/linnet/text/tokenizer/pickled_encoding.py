"""nanochat's tokenizer.pkl: a pickled tiktoken `Encoding`, read as data. Its parts make a vocabulary of ours; nothing is unpickled.

Chat format: https://github.com/karpathy/nanochat/blob/master/nanochat/tokenizer.py, `render_conversation`.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.files import read_bytes
from linnet.load.pickles import Object, read_pickle
from linnet.text.tokenizer.config import read_config
from linnet.text.tokenizer.tiktoken_file import ENCODING_NAMES, Encoding, encoding_vocabulary, load_named_encoding
from linnet.text.tokenizer.vocabulary import LARGEST_ID, Vocabulary

Token = TypeVar("Token", str, bytes)

_CLASS = "tiktoken.core.Encoding"
_LARGEST_FILE, _LONGEST_PATTERN = 16 * 2**20, 10_000

NANOCHAT_TEMPLATE = """\
{{- '<|bos|>' -}}
{%- set start = 0 -%}
{%- if messages[0].role == 'system' -%}
  {%- if messages | length < 2 or messages[1].role != 'user' -%}
    {{- raise_exception('nanochat merges a system message into the user message after it, and there is none') -}}
  {%- endif -%}
  {%- set start = 1 -%}
{%- endif -%}
{%- for message in messages[start:] -%}
  {%- if message.role != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
    {{- raise_exception('nanochat takes turns of user and assistant, and this one is of ' + message.role) -}}
  {%- endif -%}
  {%- set before = messages[0].content + '\\n\\n' if start == 1 and loop.first else '' -%}
  {{- '<|' + message.role + '_start|>' + before + (message.content or '') + '<|' + message.role + '_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant_start|>' -}}{%- endif -%}
"""


def load_pickled_encoding(path: Path) -> Vocabulary:
    """Raises ModelFileError for a pickle of another class (named) or with impossible parts, MissingDependencyError without tiktoken."""
    encoding = read_pickle(BytesIO(read_bytes(path, _LARGEST_FILE)), str(path), {_CLASS}, "tiktoken encodings")
    if not isinstance(encoding, Object) or encoding.name != _CLASS:
        raise ModelFileError(f"{path}: not a pickled tiktoken Encoding")
    if isinstance(encoding.state, str):  # one of OpenAI's, by its name
        if encoding.state not in ENCODING_NAMES:
            raise UnsupportedModelError(f"{path}: the encoding {encoding.state[:80]!r} is not known here")
        return load_named_encoding(encoding.state)
    state = encoding.state if isinstance(encoding.state, dict) else {}
    pattern = state.get("pat_str")
    if not isinstance(pattern, str) or len(pattern) > _LONGEST_PATTERN:
        raise ModelFileError(f"{path}: pat_str is no pattern of at most {_LONGEST_PATTERN} characters")
    ranks = _table(path, "mergeable_ranks", state.get("mergeable_ranks"), bytes)
    special = _table(path, "special_tokens", state.get("special_tokens"), str)
    if any(bytes([byte]) not in ranks for byte in range(256)) or set(ranks.values()) & set(special.values()):
        raise ModelFileError(f"{path}: not every byte is a token, or a rank is a special token too")
    texts = {id: text for text, id in special.items()}
    chats = {"<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>"} <= special.keys()
    known = Encoding(pattern, texts)
    if "<|bos|>" in special:  # nanochat's: the beginning of a text is also what comes after its end
        known = Encoding(pattern, texts, "<|assistant_end|>", "<|bos|>", ("<|bos|>",), NANOCHAT_TEMPLATE if chats else None)
    return encoding_vocabulary(known, ranks, str(path), read_config(path.parent))


def _table(path: Path, name: str, tokens: Any, kind: type[Token]) -> dict[Token, int]:
    """A table from texts or bytes to distinct ids, if it is one."""
    if not isinstance(tokens, dict) or not all(type(token) is kind and token for token in tokens):
        raise ModelFileError(f"{path}: {name} is no table from {kind.__name__} to ids")
    if not all(type(id) is int and 0 <= id <= LARGEST_ID for id in tokens.values()) or len(set(tokens.values())) < len(tokens):
        raise ModelFileError(f"{path}: {name} has ids that are no distinct numbers from 0 to {LARGEST_ID}")
    return tokens
