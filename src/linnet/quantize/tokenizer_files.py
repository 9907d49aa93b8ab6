"""A tokenizer of any kind as the files of a Hugging Face folder: what it says in GGUF's keys, written as transformers reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linnet.errors import UnsupportedModelError
from linnet.load.gguf import read_gguf
from linnet.quantize.vocabulary import vocabulary_metadata
from linnet.text.tokenizer import Tokenizer
from linnet.text.tokenizer.byte_level import library_pre_tokenizer
from linnet.text.tokenizer.pretokenizers import pre_tokenizer
from linnet.text.tokenizer.sentencepiece_model import (
    BPE,
    BYTE,
    CONTROL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
    normalizer_message,
    trainer_message,
)

_NAMES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def tokenizer_files(tokenizer: Tokenizer, rows: int, said: Mapping[str, Any] | None = None) -> tuple[dict[str, bytes], list[str]]:
    """Names and contents, and what they cannot say, in words. rows: of the embedding. said: the metadata of the GGUF file that the
    tokenizer is from; None: it is from elsewhere."""
    metadata, notes = (said, []) if said is not None else _metadata(tokenizer, rows)
    kind = metadata["tokenizer.ggml.model"]
    if kind == "gpt2":
        files = {"tokenizer.json": _byte_level(metadata, tokenizer.source).encode()}
    elif kind in ("llama", "t5"):
        files = {"tokenizer.model": _sentencepiece(metadata).serialized()}
    else:
        raise UnsupportedModelError(f"{tokenizer.source}: a tokenizer of the kind {kind!r} has no files here; pass tokenizer=")
    config = _config(metadata, tokenizer)
    files["tokenizer_config.json"] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    if tokenizer.chat_template is not None:
        files["chat_template.jinja"] = tokenizer.chat_template.encode()
    return files, notes


def _metadata(tokenizer: Tokenizer, rows: int) -> tuple[Mapping[str, Any], list[str]]:
    if Path(tokenizer.source).suffix == ".gguf":
        return read_gguf(Path(tokenizer.source)).metadata, []
    return vocabulary_metadata(tokenizer, rows)


def _byte_level(metadata: Mapping[str, Any], source: str) -> str:
    """tokenizer.json."""
    from tokenizers import AddedToken, decoders, models, processors
    from tokenizers import Tokenizer as Library

    tokens, types = metadata["tokenizer.ggml.tokens"], np.asarray(metadata["tokenizer.ggml.token_type"]).tolist()
    pre = pre_tokenizer(str(metadata.get("tokenizer.ggml.pre", "default")), source)
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: id for id, token in enumerate(tokens) if types[id] != UNUSED}
    library = Library(models.BPE(vocabulary, merges, ignore_merges=pre.ignore_merges))
    library.pre_tokenizer = library_pre_tokenizer(pre)
    library.decoder = decoders.ByteLevel()
    library.add_tokens(
        [
            AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in zip(tokens, types, strict=True)
            if kind in (CONTROL, USER_DEFINED)
        ]
    )
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    if bos is not None and metadata.get("tokenizer.ggml.add_bos_token", pre.add_bos):
        name = tokens[bos]
        library.post_processor = processors.TemplateProcessing(
            single=f"{name}:0 $A:0", pair=f"{name}:0 $A:0 {name}:1 $B:1", special_tokens=[(name, bos)]
        )
    return str(library.to_str())


def _sentencepiece(metadata: Mapping[str, Any]) -> SentencePieceModel:
    """tokenizer.model: no text becomes a control token by it, and exactly one piece is unknown."""
    types = np.asarray(metadata["tokenizer.ggml.token_type"]).tolist()
    unigram = metadata["tokenizer.ggml.model"] == "t5"
    charsmap = metadata.get("tokenizer.ggml.precompiled_charsmap")
    table = b"" if charsmap is None else np.asarray(charsmap).astype(np.uint8).tobytes()
    removes = bool(metadata.get("tokenizer.ggml.remove_extra_whitespaces", False))
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    if unknown is not None:
        types = [UNKNOWN if id == unknown else CONTROL if kind == UNKNOWN else kind for id, kind in enumerate(types)]
    return SentencePieceModel(
        [token.encode("utf-8", "surrogateescape") for token in metadata["tokenizer.ggml.tokens"]],
        np.asarray(metadata["tokenizer.ggml.scores"]).tolist(),
        types,
        trainer_message(UNIGRAM if unigram else BPE, byte_fallback=BYTE in types),
        normalizer_message(table, bool(metadata.get("tokenizer.ggml.add_space_prefix", True)), removes),
    )


def _config(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer_config.json."""
    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for key, name in _NAMES.items()}
    named = {name: tokens[id] for name, id in ids.items() if id is not None}
    byte_level = metadata["tokenizer.ggml.model"] == "gpt2"
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast" if byte_level else "LlamaTokenizer", **named}
    if "bos_token" in named:
        config["add_bos_token"] = bool(tokenizer.vocabulary.beginning)
    config["clean_up_tokenization_spaces"] = False
    templates = tokenizer.chat_templates
    if set(templates) - {"default"}:
        config["chat_template"] = [{"name": name, "template": template} for name, template in templates.items()]
    return config
