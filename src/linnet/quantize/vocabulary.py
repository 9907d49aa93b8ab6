"""A tokenizer of any kind in GGUF's keys. What is made is read again and must cut texts as the tokenizer itself does.

Key names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import base64
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linnet.errors import LinnetError, UnsupportedModelError
from linnet.quantize.gguf_writer import Encoded
from linnet.quantize.merges import merges_of_ranks, scores_of_merges
from linnet.text.tokenizer import Tokenizer
from linnet.text.tokenizer.byte_level import CHARACTER_OF, fallback_byte
from linnet.text.tokenizer.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from linnet.text.tokenizer.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from linnet.text.tokenizer.tokenizer_json import open_tokenizer_json

Metadata = dict[str, Any]

_UNREACHED = -1e6
"""The score of a piece that nothing is merged to."""

PROBES = (
    "Hello, world! It's 3.14159, isn't it? WE'LL see: they've 1234567 (or 12 345) items.",
    "  two spaces\n\n\nthree lines \t tab\r\nend   ",
    "def f(x_1, y2=None):\n    return {'a': [x_1 * 2 ** 8, \"b\"], 'c': x_1 != y2}  # comment\n",
    "https://example.org/a_b-c?d=e&f=%20#g ~user@host $HOME `code` <tag attr='1'/> ++i; a->b; x::y",
    "Ünïcödé straße naïve coöperation Ångström ŁÓDŹ İstanbul",
    "Привет, мир! Как дела? 2024 год. ΑΒΓ αβγ μΩ",
    "你好，世界！我有3个苹果和25本书。こんにちは、元気ですか？カタカナ。안녕하세요 세계 12월",
    "مرحبا بالعالم ١٢٣ שלום עולם नमस्ते दुनिया १२३ สวัสดีชาวโลก",
    "camelCaseWords HTTPServer iPhone15ProMax snake_case SCREAMING_CASE mixed123abc456",
    "½ ² ³ ™ © € £ ¥ → ∑ ∞ … “quotes” ‘single’ — dash – en · bullet •",
    "\u00a0nbsp\u2003em space\u200bzero width",
    "🙂 🦙🦙 👩‍👩‍👧 flags 🇩🇪 ❤️",
    "I'M WE'RE YOU'D don't can't she'll o'clock 'quoted' ''",
    "a" * 40 + " " + "1" * 20 + " " + "!" * 12 + " " + "=" * 9,
)
"""Texts in which known tokenizers differ. Composed characters only: some normalise, which no GGUF file can say."""


def vocabulary_metadata(tokenizer: Tokenizer, rows: int, ends: Sequence[int] = (), lenient: bool = False) -> tuple[Metadata, list[str]]:
    """The keys, and what they cannot say, in words. rows: of the embedding, to which the vocabulary is filled up. ends: what ends an
    answer besides what the tokenizer itself says. lenient: write also what does not cut texts as the tokenizer does.

    Raises UnsupportedModelError for a kind that GGUF does not have, or that comes out otherwise.
    """
    if Path(tokenizer.source).suffix == ".gguf":
        return _copied(Path(tokenizer.source)), []
    if tokenizer.vocab_size > rows:
        raise UnsupportedModelError(
            f"{tokenizer.source}: {tokenizer.vocab_size} tokens for a model with rows for {rows}; tokenizer= takes the model's own"
        )
    notes: list[str] = []
    made: list[Metadata] = []
    for candidate in _candidates(tokenizer, rows):
        metadata = {**candidate, **_named_ids(tokenizer, rows, ends), **_chat_templates(tokenizer)}
        wrong = first_difference(tokenizer, metadata)
        if wrong is None:
            break
        made.append(metadata)
    else:
        if not made:
            raise UnsupportedModelError(f"{tokenizer.source}: a tokenizer ({tokenizer.kind}) of a kind that GGUF does not have")
        metadata = made[0]
        said = f"{tokenizer.source}: GGUF has no words for how this tokenizer cuts texts: {first_difference(tokenizer, metadata)}"
        if not lenient:
            raise UnsupportedModelError(f"{said}; --force (force=True) writes the nearest there is, tokenizer= takes another")
        notes.append(said)
    beginning = tokenizer.vocabulary.beginning
    if beginning not in ((), (tokenizer.bos_id,)):
        notes.append(f"texts begin with {len(beginning)} tokens, of which GGUF names the first")
    return metadata, notes


def _copied(path: Path) -> Metadata:
    from linnet.load.gguf import read_gguf

    source = read_gguf(path)
    return {key: Encoded(source.encoded(key)) for key in source.metadata if key.startswith("tokenizer.")}


def first_difference(tokenizer: Tokenizer, metadata: Metadata) -> str | None:
    """The first probe that a reader of the metadata would cut otherwise, in words, if there is one."""
    try:
        read = Tokenizer.from_gguf_metadata(metadata, "the vocabulary that was made")
        for text in PROBES:
            ids, found = tokenizer.encode(text, bos=False), read.encode(text, bos=False)
            if tokenizer.vocabulary.ending:
                ids = ids[: -len(tokenizer.vocabulary.ending)]
            if ids != found:
                at = next((i for i, (one, other) in enumerate(zip(ids, found, strict=False)) if one != other), min(len(ids), len(found)))
                return f"{text[:30]!r} ... is {ids[at : at + 4]} there and would be {found[at : at + 4]}"
    except LinnetError as error:
        return str(error)
    return None


def _candidates(tokenizer: Tokenizer, rows: int) -> Iterator[Metadata]:
    """Ways to say the vocabulary, likeliest first."""
    source = Path(tokenizer.source)
    if source.suffix == ".json":
        content = json.loads(open_tokenizer_json(source).to_str())
        kind = content["model"].get("type", "BPE")
        if tokenizer.kind.startswith("byte-level") and kind == "BPE":
            merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
            tokens = [tokenizer.id_to_token(id) for id in range(tokenizer.vocab_size)]
            likely = PreTokenizer(tuple(_patterns(content.get("pre_tokenizer"))), bool(content["model"].get("ignore_merges")))
            yield from _byte_level(_tokens(tokenizer, tokens, rows), merges, likely)
        elif kind == "BPE":
            yield from _pieces_of_json(tokenizer, content, rows)
        elif kind == "Unigram":
            yield from _unigram_of_json(tokenizer, content, rows)
    elif tokenizer.kind.startswith("SentencePiece"):
        yield from _sentencepiece(tokenizer, rows)
    elif tokenizer.kind.endswith("(tiktoken)"):
        yield from _ranks(tokenizer, rows)


def _tokens(tokenizer: Tokenizer, texts: Sequence[str | None], rows: int, normal: Mapping[int, int] | None = None) -> Metadata:
    """The list of tokens and their types, filled up to `rows`. texts: by id; None where there is none. normal: types of those that are
    not added ones, where that is not NORMAL."""
    added = {token.id: token for token in tokenizer.vocabulary.added.tokens}
    tokens, types = [], []
    for id in range(rows):
        text = texts[id] if id < len(texts) else None
        kind = NORMAL if normal is None else normal.get(id, NORMAL)
        if text is None:
            text, kind = f"[PAD{id}]", UNUSED
        elif kind in (NORMAL, CONTROL, USER_DEFINED) and (id in added or id in tokenizer.special_ids):
            kind = CONTROL if id in tokenizer.special_ids else USER_DEFINED
        tokens.append(text)
        types.append(kind)
    return {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": np.array(types, np.int32)}


def _named_ids(tokenizer: Tokenizer, rows: int, ends: Sequence[int]) -> Metadata:
    vocabulary = tokenizer.vocabulary
    ids: dict[str, int | None] = {"bos": tokenizer.bos_id}
    if vocabulary.beginning:
        ids["bos"] = vocabulary.beginning[0]
    # A file's eos is the first that ends an answer; the others that the model names follow.
    every = dict.fromkeys(id for id in (tokenizer.eos_id, *ends, *sorted(tokenizer.eos_ids)) if id is not None and id < rows)
    ids |= dict(zip(("eos", "eot", "eom"), every, strict=False))
    for name, token in (("unknown", "unk_token"), ("padding", "pad_token"), ("seperator", "sep_token"), ("mask", "mask_token")):
        ids[name] = tokenizer.token_to_id(vocabulary.named_tokens[token]) if token in vocabulary.named_tokens else None
    found: Metadata = {f"tokenizer.ggml.{name}_token_id": id for name, id in ids.items() if id is not None and id < rows}
    found["tokenizer.ggml.add_bos_token"] = bool(vocabulary.beginning)
    return found


def _chat_templates(tokenizer: Tokenizer) -> Metadata:
    names = [name for name in tokenizer.chat_templates if name != "default"]
    found: Metadata = {f"tokenizer.chat_template.{name}": tokenizer.chat_templates[name] for name in names}
    if tokenizer.chat_template is not None:
        found["tokenizer.chat_template"] = tokenizer.chat_template
    return {**found, **({"tokenizer.chat_templates": names} if names else {})}


# ---- byte-level BPE
def _byte_level(listed: Metadata, merges: list[str], likely: PreTokenizer) -> Iterator[Metadata]:
    """By every way to cut words that has a name, those first whose patterns are most like the `likely` ones: the same may be written in
    several ways."""
    distinct: dict[PreTokenizer, str] = {}
    for name, pre in PRE_TOKENIZERS.items():
        distinct.setdefault(pre, name)

    def unlikeliness(pre: PreTokenizer) -> tuple[bool, float, bool]:
        alike = difflib.SequenceMatcher(None, "\n".join(likely.patterns), "\n".join(pre.patterns), autojunk=False).ratio()
        return pre.patterns != likely.patterns, -alike, pre.ignore_merges != likely.ignore_merges

    for pre in sorted(distinct, key=unlikeliness):
        yield {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": distinct[pre],
            **listed,
            "tokenizer.ggml.merges": merges,
        }


def _patterns(section: Mapping[str, Any] | None) -> Iterator[str]:
    """The patterns by which tokenizer.json cuts words, as `PreTokenizer` has them."""
    kind = None if section is None else section.get("type")
    if section is None:
        return
    if kind == "Sequence":
        for part in section["pretokenizers"]:
            yield from _patterns(part)
    elif kind == "Split":
        pattern = section["pattern"].get("Regex", "")
        yield r"\p{N}" if pattern == r"\d" else pattern
    elif kind == "Digits":
        yield r"\p{N}" if section["individual_digits"] else r"\p{N}+"
    elif kind == "ByteLevel" and section.get("use_regex", True):
        yield PRE_TOKENIZERS["gpt-2"].patterns[0]


def _ranks(tokenizer: Tokenizer, rows: int) -> Iterator[Metadata]:
    """tiktoken's: the rank of a token says which two it is merged from."""
    added = {token.id: token.content for token in tokenizer.vocabulary.added.tokens}
    pieces = [tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)]
    ranks = {piece: id for id, piece in enumerate(pieces) if piece and id not in added}
    texts = [added.get(id) or "".join(CHARACTER_OF[byte] for byte in piece) or None for id, piece in enumerate(pieces)]
    merges = [" ".join("".join(CHARACTER_OF[byte] for byte in part) for part in pair) for pair in merges_of_ranks(ranks)]
    yield from _byte_level(_tokens(tokenizer, texts, rows), merges, PreTokenizer((tokenizer.vocabulary.pattern or "",)))


# ---- SentencePiece, and tokenizer.json made from it
def _pieces(kind: str, listed: Metadata, scores: Sequence[float], **more: Any) -> Iterator[Metadata]:
    """With a space in front of texts, and without."""
    filled = np.full(len(listed["tokenizer.ggml.tokens"]), _UNREACHED, np.float32)
    filled[: len(scores)] = scores[: len(filled)]
    for prefix in (True, False):
        yield {
            "tokenizer.ggml.model": kind,
            "tokenizer.ggml.pre": "default",
            **listed,
            "tokenizer.ggml.scores": filled,
            "tokenizer.ggml.add_space_prefix": prefix,
            **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
        }


def _pieces_of_json(tokenizer: Tokenizer, content: Mapping[str, Any], rows: int) -> Iterator[Metadata]:
    model = content["model"]
    if not model.get("byte_fallback"):
        return
    texts = [tokenizer.id_to_token(id) for id in range(tokenizer.vocab_size)]
    scores = scores_of_merges(texts, model["merges"], _UNREACHED)
    yield from _pieces("llama", _tokens(tokenizer, texts, rows, _types(texts, model.get("unk_token"))), scores)


def _unigram_of_json(tokenizer: Tokenizer, content: Mapping[str, Any], rows: int) -> Iterator[Metadata]:
    model = content["model"]
    texts = [tokenizer.id_to_token(id) for id in range(tokenizer.vocab_size)]
    unknown = None if model.get("unk_id") is None else model["vocab"][model["unk_id"]][0]
    scores = [score for _, score in model["vocab"]]
    charsmap = next((part["precompiled_charsmap"] for part in _parts(content.get("normalizer")) if part.get("type") == "Precompiled"), None)
    more = {} if not charsmap else {"precompiled_charsmap": np.frombuffer(base64.b64decode(charsmap), np.uint8)}
    listed = _tokens(tokenizer, texts, rows, _types(texts, unknown) if model.get("byte_fallback") else _types(texts, unknown, bytes=False))
    for remove in (False, True):
        yield from _pieces("t5", listed, scores, remove_extra_whitespaces=remove, **more)


def _parts(section: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if section is None:
        return []
    return list(section["normalizers"]) if section.get("type") == "Sequence" else [section]


def _types(texts: Sequence[str | None], unknown: str | None, bytes: bool = True) -> dict[int, int]:
    """The types of bytes and of the unknown token."""
    found = {id: BYTE for id, text in enumerate(texts) if bytes and text is not None and fallback_byte(text) is not None}
    return found | {id: UNKNOWN for id, text in enumerate(texts) if unknown is not None and text == unknown}


def _sentencepiece(tokenizer: Tokenizer, rows: int) -> Iterator[Metadata]:
    from linnet.text.tokenizer.sentencepiece_model import read_model

    path = Path(tokenizer.source)
    model = read_model(path.read_bytes(), str(path))
    texts = [tokenizer.id_to_token(id) for id in range(tokenizer.vocab_size)]
    listed = _tokens(tokenizer, texts, rows, dict(enumerate(model.types)))
    if model.kind == "BPE":
        yield from _pieces("llama", listed, model.scores)
    elif model.kind == "unigram":
        charsmap = np.frombuffer(model.charsmap, np.uint8)
        more = {"precompiled_charsmap": charsmap} if charsmap.size else {}
        yield from _pieces("t5", listed, model.scores, remove_extra_whitespaces=model.removes_extra_spaces, **more)
