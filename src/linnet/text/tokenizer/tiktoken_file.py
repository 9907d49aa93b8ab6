"""tiktoken files (a base64 token and its rank a line), run by the `tiktoken` library; OpenAI's encodings by name.

Such a file holds neither the pattern that cuts words nor control tokens: both are known by how many ranks there are.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

from linnet.errors import MissingDependencyError, ModelFileError, UnsupportedModelError
from linnet.text.tokenizer.added_tokens import AddedToken, AddedTokens, is_marker
from linnet.text.tokenizer.byte_level import BYTE_OF
from linnet.text.tokenizer.config import TokenizerConfig, read_config
from linnet.text.tokenizer.library import library_errors
from linnet.text.tokenizer.pretokenizers import SUFFIX, cased_pattern, llama3_pattern
from linnet.text.tokenizer.vocabulary import LARGEST_ID, Vocabulary, end_ids

_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\r?(?:\n|\Z)")
_END = "<|endoftext|>"


@dataclass(frozen=True)
class Encoding:
    """pattern: as in the publisher's own code. special: control tokens by id. bos, eos: their texts. ends: the texts of further tokens that
    end an answer. template: the chat template, if no file has one. beginning: the texts of the tokens that texts start with, if that is
    not `bos`. composed: whether texts are normalized to Unicode's NFC first."""

    pattern: str
    special: Mapping[int, str]
    eos: str = _END
    bos: str | None = None
    ends: tuple[str, ...] = ()
    template: str | None = None
    beginning: tuple[str, ...] = ()
    composed: bool = False


def _numbered(texts: Iterable[str], first: int) -> dict[int, str]:
    return dict(enumerate(texts, first))


_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
_LLAMA3 = llama3_pattern(r"\p{N}{1,3}")
_O200K = cased_pattern(r"\p{N}{1,3}", f"{SUFFIX}?")

_LLAMA3_SPECIAL = (
    "begin_of_text end_of_text reserved_special_token_0 reserved_special_token_1 finetune_right_pad_id reserved_special_token_2 "
    "start_header_id end_header_id eom_id eot_id python_tag"
).split() + [f"reserved_special_token_{i}" for i in range(3, 248)]
_GLM4_SPECIAL = (
    f"{_END} [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|> "
    "<|begin_of_image|> <|end_of_image|> <|begin_of_video|> <|end_of_video|>"
).split()
_BY_RANKS = {
    50256: Encoding(_GPT2, {50256: _END}),
    50280: Encoding(_GPT2, {50256: _END}),
    100256: Encoding(
        _CL100K, {**_numbered([_END, "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"], 100257), 100276: "<|endofprompt|>"}
    ),
    199998: Encoding(_O200K, {199999: _END, 200018: "<|endofprompt|>"}),
    128000: Encoding(
        _LLAMA3,
        _numbered([f"<|{name}|>" for name in _LLAMA3_SPECIAL], 128000),
        "<|end_of_text|>",
        "<|begin_of_text|>",
    ),
    151643: Encoding(
        llama3_pattern(r"\p{N}"),
        _numbered([_END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))], 151643),
        composed=True,
    ),
    151329: Encoding(
        _LLAMA3,
        _numbered(_GLM4_SPECIAL, 151329),
        ends=("<|user|>", "<|observation|>"),
        beginning=("[gMASK]", "<sop>"),
    ),
}

_OPENAI = "https://openaipublic.blob.core.windows.net/"
_R50K = (f"{_OPENAI}encodings/r50k_base.tiktoken", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930")
_NAMED = {
    "gpt2": (_R50K, (f"{_OPENAI}gpt-2/encodings/main/vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5")),
    "r50k_base": (_R50K,),
    "p50k_base": ((f"{_OPENAI}encodings/p50k_base.tiktoken", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"),),
    "cl100k_base": ((f"{_OPENAI}encodings/cl100k_base.tiktoken", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"),),
    "o200k_base": ((f"{_OPENAI}encodings/o200k_base.tiktoken", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"),),
}
ENCODING_NAMES = frozenset(_NAMED)


def looks_like_ranks(data: bytes) -> bool:
    return _LINE.match(data) is not None


def load_tiktoken_file(path: Path, data: bytes) -> Vocabulary:
    """The vocabulary of the file at `path`, whose bytes are `data`, with the config beside it.

    Raises ModelFileError for a malformed file, UnsupportedModelError for one whose pattern is not known, and
    MissingDependencyError without the library.
    """
    return _vocabulary(_ranks(data, str(path)), str(path), read_config(path.parent))


def load_named_encoding(name: str) -> Vocabulary:
    """An encoding of OpenAI's from tiktoken's cache; nothing is downloaded. Raises ModelFileError if it is not in the cache."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    cache = Path(folder) if folder else Path(tempfile.gettempdir(), "data-gym-cache")
    for address, digest in _NAMED[name]:
        path = cache / hashlib.sha1(address.encode()).hexdigest()
        if not path.is_file():
            continue
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise ModelFileError(f"{path}: not the file of {address} (its SHA-256 differs); remove it and download it again")
        ranks = _gpt2_ranks(data) if address.endswith(".bpe") else _ranks(data, str(path))
        return _vocabulary(ranks, name, read_config(path))
    addresses = " or ".join(address for address, _ in _NAMED[name])
    raise ModelFileError(f"the encoding {name} is not in {cache}; download {addresses} and pass the file, or set TIKTOKEN_CACHE_DIR")


def _ranks(data: bytes, source: str) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ModelFileError(f"{source}: line {number} is not a base64 token and its rank ({line[:60]!r})") from error
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise ModelFileError(f"{source}: not a whole tiktoken file: not every byte is a token")
    return ranks


def _gpt2_ranks(data: bytes) -> dict[bytes, int]:
    """From GPT-2's own file: the bytes in the order of its alphabet, then one merge a line."""
    tokens = [bytes([byte]) for byte in BYTE_OF.values()]
    for line in data.decode().split("\n")[1:-1]:
        tokens.append(bytes(BYTE_OF[character] for character in line.replace(" ", "")))
    return {token: rank for rank, token in enumerate(tokens)}


def _vocabulary(ranks: dict[bytes, int], source: str, config: TokenizerConfig) -> Vocabulary:
    known = _BY_RANKS.get(len(ranks))
    if known is None:
        raise UnsupportedModelError(
            f"{source}: {len(ranks)} ranks are none of a known encoding, and the file does not hold the pattern that cuts words; "
            "pass tokenizer= a folder with this model's tokenizer.json"
        )
    return encoding_vocabulary(known, ranks, source, config)


def encoding_vocabulary(known: Encoding, ranks: dict[bytes, int], source: str, config: TokenizerConfig) -> Vocabulary:
    """The vocabulary of an encoding with these ranks, and the control tokens and templates of the config beside it, if any."""
    tokens = {rank: token for token, rank in ranks.items()}
    if wrong := set(range(len(ranks))) - tokens.keys() - known.special.keys():  # p50k_base has a control token in between
        raise ModelFileError(f"{source}: not a whole tiktoken file: rank {min(wrong)} is missing or stands twice")
    special = _special_tokens(known, config)
    content = {token.content for token in config.added if not token.flags.get("special") and not is_marker(token.content)}
    added = AddedTokens((AddedToken(id, text, control=text not in content) for id, text in special.items()), source)
    encoding = _library_encoding(known.pattern, ranks, source)
    ids = {text: id for id, text in special.items()}
    named = {name: text for name, text in (("bos_token", known.bos), ("eos_token", known.eos)) if text}
    named = {**named, **config.named}
    eos_id, bos_id = ids.get(named["eos_token"]), ids.get(named.get("bos_token", ""))
    beginning = tuple(ids[text] for text in known.beginning if text in ids)
    if known.bos is not None and bos_id is not None:
        beginning = beginning or (bos_id,)

    def encode(text: str, special: bool, start: bool) -> list[int]:
        found: list[int] = []
        for id, piece in added.split(normalize("NFC", text) if known.composed else text, special):
            with library_errors(f"{source}: this tokenizer fails on the text"):
                found.extend(encoding.encode_ordinary(piece) if id is None else (id,))
        return found

    def token_bytes(id: int, first: bool) -> bytes:
        return special[id].encode() if id in special else tokens.get(id, b"")

    def id_to_token(id: int) -> str | None:
        inside = id in tokens or id in special
        return token_bytes(id, False).decode("utf-8", "backslashreplace") if inside else None

    return Vocabulary(
        source=source,
        kind="byte-level BPE (tiktoken)",
        size=max(*special, *tokens) + 1,
        encode=encode,
        token_bytes=token_bytes,
        id_to_token=id_to_token,
        token_to_id=lambda token: ids[token] if token in ids else ranks.get(token.encode("utf-8", "surrogatepass")),
        added=added,
        special_ids=added.control_ids,
        bos_id=bos_id,
        eos_id=eos_id,
        eos_ids=end_ids(ids, eos_id, *(ids.get(text) for text in known.ends)),
        beginning=() if config.flag("add_bos_token") is False else beginning,
        named_tokens=named,
        chat_templates=config.chat_templates or ({"default": known.template} if known.template else {}),
        pattern=known.pattern,
    )


def _special_tokens(known: Encoding, config: TokenizerConfig) -> dict[int, str]:
    """Special tokens by id: the encoding's own, and those that the config adds or renames."""
    special = {**known.special, **{token.id: token.content for token in config.added}}
    if (largest := max(special, default=0)) > LARGEST_ID:
        raise ModelFileError(f"{config.path}: gives {special[largest]!r} the id {largest}; ids up to {LARGEST_ID} are read")
    return special


def _library_encoding(pattern: str, ranks: dict[bytes, int], source: str) -> Any:
    try:
        import tiktoken
    except ImportError:
        raise MissingDependencyError(f"{source} is a tiktoken file; to read it: pip install 'linnet[tiktoken]'") from None
    with library_errors(f"{source}: the pattern or the ranks cannot be used"):
        return tiktoken.Encoding("linnet", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
