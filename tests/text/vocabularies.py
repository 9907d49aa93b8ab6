"""Vocabularies of every kind, made on the spot, and texts of every kind to try them on."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path
from typing import Any

from text_inputs import CORPUS

ALL_SCRIPTS = [
    (0x20, 0x7E),
    (0xA1, 0x24F),
    (0x300, 0x36F),
    (0x370, 0x52F),
    (0x590, 0x6FF),
    (0x900, 0xDFF),
    (0xE00, 0xFFF),
    (0x1000, 0x10FF),
    (0x1100, 0x11FF),
    (0x1E00, 0x1FFF),
    (0x2000, 0x2BFF),
    (0x3000, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xE000, 0xF8FF),
    (0xF900, 0xFFFD),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x2A6DF),
    (0x10FFF0, 0x10FFFF),
]
_CONTROL = [*map(chr, range(1, 32)), "\x7f", "\x80", "\x85", "\xa0", "\u200b", "\u200d", "\u2028", "\ufeff", "\ufffd", "\r\n"]
_PIECES = [
    *CORPUS[:450].split(" "),
    " ",
    "  ",
    "    ",
    "\n",
    "\n\n",
    "\t",
    "▁",
    "<s>",
    "</s>",
    "<0x41>",
    "[CLS]",
    "##ing",
    "🦙🏽",
    "👩‍👩‍👧",
]


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Words, all scripts, emoji, control characters, digits, and long runs of one character. No lone surrogates."""
    draw = random.Random(seed)

    def part() -> str:
        kind = draw.randrange(7)
        if kind <= 1:
            return draw.choice(_PIECES)
        if kind == 2:
            return draw.choice(_CONTROL)
        if kind == 3:
            return str(draw.randrange(10 ** draw.randint(1, 12)))
        low, high = draw.choice(ALL_SCRIPTS)
        if kind == 4 and draw.random() < 0.1:
            return chr(draw.randint(low, high)) * draw.randint(2, 300)
        return "".join(chr(draw.randint(low, high)) for _ in range(draw.randint(1, 6)))

    return ["".join(part() for _ in range(draw.randint(0, 12))) for _ in range(count)]


def unigram() -> Any:
    """A Unigram tokenizer.json as T5's and XLM-R's: NFKC, metaspace, byte-less, unknown token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    peer = Tokenizer(models.Unigram())
    peer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    peer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    peer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False)
    peer.train_from_iterator(CORPUS.splitlines(), trainer)
    return peer


def word_piece() -> Any:
    """BERT's uncased WordPiece."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    peer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    peer.normalizer = normalizers.BertNormalizer(lowercase=True)
    peer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    peer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    peer.train_from_iterator(CORPUS.splitlines(), trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False))
    peer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", peer.token_to_id("[CLS]")), ("[SEP]", peer.token_to_id("[SEP]"))]
    )
    return peer


def word_level() -> Any:
    """Whole words, split at whitespace; decoded by joining with spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    peer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    peer.pre_tokenizer = pre_tokenizers.Whitespace()
    peer.train_from_iterator(CORPUS.splitlines(), trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False))
    return peer


def bert_metadata() -> dict[str, Any]:
    """A WordPiece vocabulary in the form that converters give it: `▁word`, `piece`, `[CLS]`."""

    def phantom(token: str) -> str:
        if token.startswith("##"):
            return token[2:]
        return token if token.startswith("[") and token.endswith("]") else "▁" + token

    peer = word_piece()
    tokens = [phantom(peer.id_to_token(id)) for id in range(peer.get_vocab_size())]
    # A character of its own for every script, so that more than the unknown token is compared.
    more = {character for text in random_texts(300, seed=5) for character in unicodedata.normalize("NFD", text.lower())}
    taken = set(tokens)
    tokens += [form for character in sorted(more) for form in (character, "▁" + character) if form not in taken and character.strip("\0▁")]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token.startswith("[") and len(token) > 1 else 1 for token in tokens],
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.mask_token_id": 4,
    }


def write_gguf(path: Path, metadata: dict[str, Any], architecture: str) -> Path:
    """A vocabulary as a GGUF file without tensors that llama.cpp opens, too."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, list(value))
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
