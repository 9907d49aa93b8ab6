"""vocab.json beside merges.txt: byte-level BPE as GPT-2 was published with it, and OPT or CodeGen in nothing else.

Format: https://github.com/openai/gpt-2/blob/master/src/encoder.py. What tokenizer.json would say besides, the model's class says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.files import MAX_JSON_BYTES, read_bytes, read_json
from linnet.text.tokenizer.byte_level import CHARACTER_OF
from linnet.text.tokenizer.config import read_config
from linnet.text.tokenizer.library import library_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY, MERGES = "vocab.json", "merges.txt"

CLASS_TOKENS = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
"""The class's own names for its tokens, used if tokenizer_config.json has none."""

_CLASSES = ("GPT2Tokenizer", "CodeGenTokenizer")
"""Classes that cut words as GPT-2 does, without a normalizer. Others with such files (Qwen2, CLIP, CTRL) cut them differently."""

_MODELS = ("gpt2", "gpt_bigcode", "gpt_neo", "gptj", "opt", "codegen", "phi")
"""Model types that use one of these classes if no file names a class."""


def class_of(folder: Path) -> str:
    """The class that transformers reads a folder's files with, without "Fast"; the model's type if only that is known."""
    named = read_config(folder).settings.get("tokenizer_class")
    if named is None and (folder / "config.json").is_file():
        kind = read_json(folder / "config.json").get("model_type")
        return _CLASSES[0] if kind in _MODELS else f"tokenizer of a {kind}"
    return str(named or _CLASSES[0]).removesuffix("Fast")


def find_vocabulary(folder: Path) -> Path | None:
    """The vocab.json that `open_vocab_and_merges` reads, or None where the folder has none of its kind."""
    both = (folder / VOCABULARY).exists() and (folder / MERGES).exists()
    return folder / VOCABULARY if both and class_of(folder) in _CLASSES else None


def open_vocab_and_merges(path: Path) -> Tokenizer:
    """The tokenizer of the vocab.json at `path` and the merges.txt beside it, with what tokenizer_config.json says.

    Raises ModelFileError for files that are missing or malformed, UnsupportedModelError for those of another kind of tokenizer.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    config = read_config(path.parent, CLASS_TOKENS)
    if (name := class_of(path.parent)) not in _CLASSES:
        raise UnsupportedModelError(
            f"{path}: a {name} is more than its {VOCABULARY} and {MERGES} say; save it as tokenizer.json "
            "(transformers.AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    vocabulary = _vocabulary(path)
    with library_errors(f"{path}: not a vocabulary that goes with its {MERGES}"):
        tokenizer = Tokenizer(models.BPE(vocabulary, _merges(path.parent / MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=config.flag("add_prefix_space") or False)
    tokenizer.decoder = decoders.ByteLevel()
    # As in transformers, those that the vocabulary lacks come after it: first the listed ones by their ids, then the named ones.
    by_id = sorted(config.added, key=lambda token: token.id)
    listed = {token.content: {**token.flags, "special": token.content in config.special} for token in by_id}
    others = {token: {"special": True, "normalized": False} for token in (*config.named.values(), *sorted(config.special))}
    tokenizer.add_tokens([AddedToken(token, **flags) for token, flags in (listed | others | listed).items()])
    return tokenizer


def _vocabulary(path: Path) -> dict[str, int]:
    vocabulary = read_json(path)
    if wrong := [token for token, id in vocabulary.items() if type(id) is not int or id < 0]:
        raise ModelFileError(f"{path}: {wrong[0]!r} has the id {vocabulary[wrong[0]]!r}; ids are numbers from 0 on")
    if missing := [character for character in CHARACTER_OF.values() if character not in vocabulary]:
        raise UnsupportedModelError(
            f"{path}: has no token for {len(missing)} of the 256 bytes: it is no byte-level vocabulary; pass a tokenizer.json"
        )
    return vocabulary


def _merges(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise ModelFileError(f"{path} is missing: {VOCABULARY} is of no use without it")
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(read_bytes(path, MAX_JSON_BYTES).decode(errors="replace").split("\n"), 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise ModelFileError(f"{path}: line {number} is {line[:60]!r}; two pieces with a space between them were expected")
        merges.append((pair[0], pair[1]))
    return merges
