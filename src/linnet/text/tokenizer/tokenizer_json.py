"""tokenizer.json of any kind (BPE, Unigram, WordPiece, WordLevel), or vocab.json and merges.txt, run by the `tokenizers` library, with
the folder's config."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnet.errors import ModelFileError
from linnet.load.files import MAX_JSON_BYTES, read_bytes
from linnet.text.tokenizer.added_tokens import AddedToken, AddedTokens, is_marker
from linnet.text.tokenizer.config import read_config
from linnet.text.tokenizer.decoders import read_decoder
from linnet.text.tokenizer.json_bounds import check_parts
from linnet.text.tokenizer.library import library_errors
from linnet.text.tokenizer.vocab_and_merges import CLASS_TOKENS, VOCABULARY, open_vocab_and_merges
from linnet.text.tokenizer.vocabulary import LARGEST_ID, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokenizer_json(path: Path) -> Vocabulary:
    """The vocabulary of the tokenizer.json or vocab.json at `path`. Raises ModelFileError where the file is missing or malformed."""
    tokenizer = open_tokenizer_json(path)
    ids = tokenizer.get_vocab(with_added_tokens=True).values()
    if len(set(ids)) < len(ids):
        raise ModelFileError(f"{path}: two tokens of the vocabulary have one id; take the file from its publisher again")
    if ids and max(ids) > LARGEST_ID:
        raise ModelFileError(f"{path}: the vocabulary has the id {max(ids)}; ids up to {LARGEST_ID} are read")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _JsonVocabulary(path, tokenizer).build()


def open_tokenizer_json(path: Path) -> Tokenizer:
    """The library's tokenizer, as the file describes it."""
    from tokenizers import Tokenizer

    if path.name == VOCABULARY:
        return open_vocab_and_merges(path)
    data = read_bytes(path, MAX_JSON_BYTES)
    check_parts(data, str(path))
    with library_errors(f"{path}: not a tokenizer.json that this version reads"):
        return Tokenizer.from_buffer(data)


def _section(component: Any) -> Any:
    """A part of a tokenizer (pre-tokenizer, post-processor) as tokenizer.json writes it; None where there is none."""
    return None if component is None else json.loads(component.__getstate__())


class _JsonVocabulary:
    """One folder's tokenizer: `full` matches every added token, `plain` none that steers the model. They share one model."""

    def __init__(self, path: Path, full: Tokenizer) -> None:
        self.path = path
        self.full = full
        self.config = read_config(path.parent, CLASS_TOKENS if path.name == VOCABULARY else None)
        self.add_listed_tokens()
        self.added = AddedTokens(self.added_tokens(), str(path))
        # Stands before a text that follows a control token, where the tokenizer treats the start of the whole in a way of its own.
        self.anchor = f"\0{secrets.token_hex(16)}" if '"prepend_scheme": "first"' in json.dumps(_section(full.pre_tokenizer)) else ""
        self.plain = self.without_control()
        unknown = getattr(full.model, "unk_token", None) or self.config.named.get("unk_token")
        # Unknown characters become the unknown token, rightly: it is the one control id that a text may lead to.
        self.forbidden = self.added.control_ids - ({full.token_to_id(unknown)} if unknown else set())

    def add_listed_tokens(self) -> None:
        """Tokens that only tokenizer_config.json lists are the model's, too."""
        from tokenizers import AddedToken as Matched

        for token in sorted(self.config.added, key=lambda token: token.id):
            if self.full.token_to_id(token.content) is None:
                self.full.add_tokens([Matched(token.content, **token.flags)])
            if self.full.token_to_id(token.content) != token.id:
                raise ModelFileError(
                    f"{self.config.path}: gives {token.content!r} the id {token.id}, "
                    f"but {self.path.name} the id {self.full.token_to_id(token.content)}; take both files from one place"
                )

    def added_tokens(self) -> Iterator[AddedToken]:
        for id, token in self.full.get_added_tokens_decoder().items():
            control = token.special or token.content in self.config.special or is_marker(token.content)
            yield AddedToken(id, token.content, control, token.single_word, token.lstrip, token.rstrip)

    def without_control(self) -> Tokenizer:
        from tokenizers import AddedToken as Matched
        from tokenizers import Tokenizer

        plain = Tokenizer(self.full.model)
        if self.full.normalizer is not None:
            plain.normalizer = self.full.normalizer
        if self.full.pre_tokenizer is not None:
            plain.pre_tokenizer = self.full.pre_tokenizer
        plain.encode_special_tokens = True  # flagged ones are ordinary text
        tokens = []
        for id, token in sorted(self.full.get_added_tokens_decoder().items()):
            flags = {"single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip, "normalized": token.normalized}
            tokens.append(Matched(token.content, special=id in self.added.control_ids, **flags))
        plain.add_tokens(tokens)  # at once: every call builds the matcher anew
        if self.anchor:
            plain.add_tokens([Matched(self.anchor, normalized=False)])
        return plain

    @cached_property
    def masked(self) -> Tokenizer:
        """`plain` on a model that cannot put a control token together: there, those have names that no text holds."""
        from tokenizers import Tokenizer

        whole = json.loads(self.full.to_str())
        model, names = whole["model"], {token.content for token in self.added.tokens if token.control}
        nonce = secrets.token_hex(16)
        if isinstance(model["vocab"], list):
            model["vocab"] = [[f"{nonce}{id}" if piece in names else piece, score] for id, (piece, score) in enumerate(model["vocab"])]
        else:
            names -= {model.get("unk_token")}
            model["vocab"] = {f"{nonce}{id}" if token in names else token: id for token, id in model["vocab"].items()}
        if "merges" in model:
            pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
            model["merges"] = [[left, right] for left, right in pairs if names.isdisjoint((left, right, left + right))]
        bare = {"version": "1.0", "added_tokens": [], "model": model}
        masked = self.without_control()
        masked.model = Tokenizer.from_str(json.dumps(bare)).model  # last: added tokens have their ids by the model that knows them
        return masked

    def encode(self, text: str, special: bool, start: bool) -> list[int]:
        if special:
            return self.ids(self.full, text, start=True)
        ids = self.ids(self.plain, text, start)
        return ids if self.forbidden.isdisjoint(ids) else self.ids(self.masked, text, start)

    def ids(self, tokenizer: Tokenizer, text: str, start: bool) -> list[int]:
        anchor = "" if start else self.anchor
        with library_errors(f"{self.path}: this tokenizer fails on the text"):
            ids: list[int] = tokenizer.encode(anchor + text, add_special_tokens=False).ids
        return ids[1:] if anchor else ids

    def build(self) -> Vocabulary:
        decoded = read_decoder(self.full.decoder, str(self.path))
        id_of = self.full.token_to_id
        added = {token.id: token.content.encode() for token in self.added.tokens}
        size = max([self.full.get_vocab_size(with_added_tokens=True), *(id + 1 for id in self.full.get_vocab().values())])
        named = self.config.named

        def token_bytes(id: int, first: bool) -> bytes:
            if decoded.byte_level and id in added:
                return added[id]
            token = self.full.id_to_token(id)
            return b"" if token is None else decoded.token_bytes(token, first)

        eos_id = id_of(named["eos_token"]) if "eos_token" in named else None
        bos_id, beginning = self.beginning(id_of)
        flagged = {id for id, token in self.full.get_added_tokens_decoder().items() if token.special}
        return Vocabulary(
            source=str(self.path),
            kind=f"{'byte-level ' if decoded.byte_level else ''}{type(self.full.model).__name__} ({self.path.name})",
            size=size,
            encode=self.encode,
            token_bytes=token_bytes,
            id_to_token=lambda id: self.full.id_to_token(id) if 0 <= id < size else None,
            token_to_id=id_of,
            added=self.added,
            special_ids=frozenset(flagged | {id for id in map(id_of, named.values()) if id is not None}),
            bos_id=bos_id,
            eos_id=eos_id,
            eos_ids=frozenset() if eos_id is None else frozenset({eos_id}),
            beginning=beginning,
            frame=self.frame(id_of),
            named_tokens=named,
            chat_templates=self.config.chat_templates,
        )

    def frame(self, id_of: Callable[[str], int | None]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """What the post-processor puts before and after a text, for models that read it whole; None where there is none."""
        written = _template_frame(_section(self.full.post_processor))
        if written is None:
            return None
        before, after = (tuple(id for id in map(id_of, side) if id is not None) for side in written)
        return before, after

    def beginning(self, id_of: Callable[[str], int | None]) -> tuple[int | None, tuple[int, ...]]:
        """(id of the beginning token, ids that texts start with): as the config says, else as the post-processor does."""
        written, _ = _template_frame(_section(self.full.post_processor)) or ([], [])
        content = self.config.named.get("bos_token", written[0] if written else None)
        bos_id = None if content is None else id_of(content)
        stated = self.config.flag("add_bos_token")
        if bos_id is None or stated is False or (stated is None and content not in written[:1]):
            return bos_id, ()
        ids = [id_of(token) for token in written] if content in written[:1] else [bos_id]
        return bos_id, tuple(id for id in ids if id is not None)


def _template_frame(processor: Mapping[str, Any] | None) -> tuple[list[str], list[str]] | None:
    """The tokens that a TemplateProcessing or BertProcessing puts before and after a text; None: it is neither."""
    if processor is None:
        return None
    kind = processor.get("type")
    if kind == "Sequence":
        return next((frame for part in processor["processors"] if (frame := _template_frame(part)) is not None), None)
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [str(processor["cls"][0])], [str(processor["sep"][0])]
    if kind != "TemplateProcessing":
        return None
    before, after = (_special_tokens(pieces) for pieces in (processor["single"], processor["single"][::-1]))
    return before, after[::-1]


def _special_tokens(pieces: list[Mapping[str, Any]]) -> list[str]:
    """Those that a template begins with."""
    return [str(piece["SpecialToken"]["id"]) for piece in takewhile(lambda piece: "SpecialToken" in piece, pieces)]
