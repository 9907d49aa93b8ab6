"""`Tokenizer`: texts to ids and back, and chats to ids. Knows which file kind a path is, not what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from linnet.errors import InvalidRequestError, ModelFileError, UnsupportedModelError
from linnet.text import chat_template as chat
from linnet.text.tokenizer.vocabulary import Vocabulary


class Tokenizer:
    """The tokenizer of a model: `Tokenizer("folder-or-file")`.

    path: a folder with tokenizer.json, tokenizer.model, a .tiktoken file or nanochat's tokenizer.pkl, one of these files, a .gguf
    file with or without tensors, or the name of an encoding of OpenAI's (`cl100k_base` ...) that tiktoken has in its cache.
    Raises ModelFileError if the file is missing or malformed, UnsupportedModelError if it is of another kind.
    Immutable, safe to share between threads.
    """

    def __init__(self, path: str | Path) -> None:
        self._vocabulary = _load(Path(path))

    @classmethod
    def from_gguf_metadata(cls, metadata: Mapping[str, Any], source: str) -> Tokenizer:
        """From the metadata of an open GGUF file. source: the file's name in error messages."""
        from linnet.text.tokenizer.gguf import load_gguf_metadata

        return cls.from_vocabulary(load_gguf_metadata(metadata, source))

    @classmethod
    def from_vocabulary(cls, vocabulary: Vocabulary) -> Tokenizer:
        """From a vocabulary that is loaded already."""
        tokenizer = cls.__new__(cls)
        tokenizer._vocabulary = vocabulary
        return tokenizer

    def __repr__(self) -> str:
        return f"Tokenizer({self._vocabulary.source!r}, vocab_size={self.vocab_size})"

    def encode(self, text: str, bos: bool | None = None, eos: bool = False, special: bool = False) -> list[int]:
        """Ids of `text`.

        bos: start with the beginning token (None: if the model's texts do); it is not added to a text that starts with it. For models
        that start texts with several tokens, or put some after a text to continue, it means all of these.
        eos: end with the end token. special: control tokens that are spelled out in the text become those tokens; otherwise they
        are text like any other. Raises InvalidRequestError for lone surrogates, and for a bos or eos that the model lacks.
        """
        _check_text(text)
        ids = self._vocabulary.encode(text, special, True)
        if bos is not False:
            ids = self._framed(ids, special, bool(bos))
        return [*ids, self._needed(self.eos_id, "eos")] if eos else ids

    def encode_whole(self, text: str) -> list[int]:
        """Ids of a text for an encoder, which reads it whole: with the tokens that the tokenizer's file puts around it, or if it has none,
        as by `encode` with the end token. Raises InvalidRequestError for lone surrogates."""
        frame = self._vocabulary.frame
        if frame is None:
            return self.encode(text, eos=self.eos_id is not None)
        return [*frame[0], *self.encode(text, bos=False), *frame[1]]

    def encode_closed(self, text: str) -> list[int]:
        """Ids of a text that will not be continued, as for an embedding: as by `encode`, and then the control tokens that the tokenizer's
        file puts after a text. Raises InvalidRequestError for lone surrogates."""
        frame = self._vocabulary.frame
        return [*self.encode(text), *(frame[1] if frame is not None else ())]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of `ids`. Bytes that are not valid UTF-8 become U+FFFD; ids past the vocabulary (padding rows) add nothing."""
        skipped = self.special_ids if skip_special else frozenset()
        shown = [id for id in ids if id not in skipped and self.token_bytes(id)]
        whole = b"".join([self.token_bytes(id, first=i == 0) for i, id in enumerate(shown)])
        return whole.decode("utf-8", "replace")

    def token_bytes(self, id: int, first: bool = False) -> bytes:
        """The bytes that one token contributes to a decoded text, maybe only part of a character. Past the vocabulary: b"".

        first: what it contributes at the start of a text (without the space that `▁the` stands for elsewhere).
        """
        if id < 0:
            raise InvalidRequestError(f"token id {id} is negative; ids run from 0 to {self.vocab_size - 1}")
        return self._vocabulary.token_bytes(id, first) if id < self.vocab_size else b""

    def id_to_token(self, id: int) -> str | None:
        """The token as the file stores it (`Ġthe`, `▁the`, `<|im_end|>`), or None."""
        return self._vocabulary.id_to_token(id)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the file stores it, or None."""
        return self._vocabulary.token_to_id(token)

    @property
    def vocabulary(self) -> Vocabulary:
        """Everything that was read from the file."""
        return self._vocabulary

    @property
    def kind(self) -> str:
        """How it cuts texts, in words: "byte-level BPE (tokenizer.json)"."""
        return self._vocabulary.kind

    @property
    def source(self) -> str:
        """What it was read from: a path, or the name of an encoding."""
        return self._vocabulary.source

    @property
    def name(self) -> str:
        """The last part of `source`, for messages to clients, who need not know where the model is stored."""
        return self.source.rpartition("/")[2]

    @property
    def vocab_size(self) -> int:
        """Ids are below this. A model may have more embedding rows."""
        return self._vocabulary.size

    @property
    def bos_id(self) -> int | None:
        """The beginning token."""
        return self._vocabulary.bos_id

    @property
    def eos_id(self) -> int | None:
        """The end token."""
        return self._vocabulary.eos_id

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every token that ends an answer, as far as the tokenizer's files say (generation_config.json may name more)."""
        return self._vocabulary.eos_ids

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that decoding leaves out unless asked for."""
        return self._vocabulary.special_ids

    @property
    def control_ids(self) -> frozenset[int]:
        """Tokens that text becomes only with `special=True`: the special ones, and markers such as `<think>`."""
        return self._vocabulary.added.control_ids

    @property
    def chat_template(self) -> str | None:
        """The source of the model's usual chat template, or None."""
        return self._vocabulary.chat_templates.get("default")

    @property
    def chat_templates(self) -> Mapping[str, str]:
        """All templates by name. "tool_use", if there is one, is used when tools are given."""
        return self._vocabulary.chat_templates

    def render_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | Mapping[str, str] | None = None,
        **variables: Any,
    ) -> str:
        """The conversation as the template writes it, for reading; its ids are those of `apply_chat_template`.

        chat_template: a template's source, the name of one of the model's, or templates by name, in place of the model's own.
        `variables` go to the template (`enable_thinking=False`). Raises ChatTemplateError: no template, or it refuses the messages;
        HostileTemplateError (a ModelFileError too): it is malformed, reaches out of the sandbox, or takes too much.
        """
        template = chat.choose(self.chat_templates, chat_template, bool(tools), self.name)
        inputs = chat.Conversation(messages, tools, documents)
        named = {**self._vocabulary.named_tokens, **chat.plain_variables(variables)}
        return chat.render(template, inputs, add_generation_prompt, named, self._template_name(template))

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | Mapping[str, str] | None = None,
        **variables: Any,
    ) -> list[int]:
        """The ids of a conversation. Arguments and errors as in `render_chat_template`.

        Control tokens come from the template, and, if answers show them (`<think>`, `<tool_call>`), from the assistant's own turns; never
        from other messages, tools, documents or variables, whose text is masked so that the template does not see control tokens in it. The
        assistant's turns are not masked (a template may look for `</think>`), unless special tokens other than those would result.
        The beginning token is added if the model wants it and the template did not write it.
        """
        vocabulary = self._vocabulary
        template = chat.choose(self.chat_templates, chat_template, bool(tools), self.name)
        inputs = chat.Conversation(messages, tools, documents)
        disguises = partial(chat.Disguise, vocabulary.added.control_signs, inputs, chat.plain_variables(variables), template)
        disguise = disguises(self._split_answer)
        text, pieces = self._rendered(template, disguise, add_generation_prompt)
        strict = disguises(partial(self._split_answer, strict=True))
        if strict.messages != disguise.messages:
            strict_text, strict_pieces = self._rendered(template, strict, add_generation_prompt)
            if self._specials(pieces) != self._specials(strict_pieces):  # some were made from the assistant's text
                disguise, text, pieces = strict, strict_text, strict_pieces
        ids: list[int] = []
        if not disguise.used:
            ids = vocabulary.encode(text, True, True)
            # A normalizer can make control tokens of other characters (NFKC: of full-width brackets); those must not count.
            written = Counter(id for id, _ in pieces)
            disguise.used = any(count > written[id] for id, count in Counter(ids).items() if id in self.control_ids)
        if disguise.used:
            ids = []
            for id, piece in pieces:
                ids += vocabulary.encode(disguise.take_off(piece), False, not ids) if id is None else (id,)
        return self._framed(ids, True)

    def _rendered(self, template: str, disguise: chat.Disguise, add_generation_prompt: bool) -> tuple[str, list[tuple[int | None, str]]]:
        """The template's output, whole, and cut at its control tokens."""
        named = {**self._vocabulary.named_tokens, **disguise.variables}
        text = chat.render(template, disguise, add_generation_prompt, named, self._template_name(template))
        return text, list(self._vocabulary.added.split_control(text))

    def _specials(self, pieces: Iterable[tuple[int | None, str]]) -> list[int]:
        return [id for id, _ in pieces if id in self.special_ids]

    def _split_answer(self, text: str, strict: bool = False) -> Iterator[tuple[str, bool]]:
        """Pieces of an assistant's text, each with whether to mask it: tokens that decoding hides; if `strict`, all but tokens it shows."""
        hidden = self.special_ids | ({None} if strict else set())
        return ((piece, id in hidden) for id, piece in self._vocabulary.added.split_control(text))

    def _framed(self, ids: list[int], special: bool, bos: bool = False) -> list[int]:
        """The ids between the tokens that the model's texts begin and end with; if there are none and `bos`, after the beginning token.
        In a text with control tokens, those that it has already are not added again."""
        beginning, ending = list(self._vocabulary.beginning), list(self._vocabulary.ending)
        if bos and not beginning and not ending:
            beginning = [self._needed(self.bos_id, "bos")]
        if special and ids[: len(beginning)] == beginning:
            beginning = []
        if special and ids[len(ids) - len(ending) :] == ending:
            ending = []
        return [*beginning, *ids, *ending]

    def _template_name(self, template: str) -> str:
        own = template in self.chat_templates.values()
        return f"the chat template of {self.name}" if own else "the chat template that was given"

    def _needed(self, id: int | None, name: str) -> int:
        if id is None:
            raise InvalidRequestError(f"{name}=True, but {self.name} names no {name} token; leave {name} out")
        return id


_LARGEST_FILE = 16 * 2**20  # three times the largest known; both readers are slow
_FILES = ("tokenizer.json", "tokenizer.model", "ice_text.model", "tokenizer.pkl")
_EXPECTED = (
    "pass a folder with tokenizer.json, tokenizer.model, vocab.json and merges.txt or a .tiktoken file, one of these files, or a .gguf file"
)


def _load(path: Path) -> Vocabulary:
    """Each file kind has a loader, imported only when it is needed."""
    from linnet.text.tokenizer.tiktoken_file import ENCODING_NAMES, load_named_encoding

    if str(path) in ENCODING_NAMES and not path.exists():
        return load_named_encoding(str(path))
    try:
        file = _file_of(path)
    except (OSError, ValueError) as error:  # not allowed, a name too long; a NUL in it
        raise ModelFileError(f"{str(path)[:200]!r}: not a file or folder that can be opened ({error})") from error
    if file.suffix == ".gguf":
        from linnet.load.gguf import read_gguf
        from linnet.text.tokenizer.gguf import load_gguf_metadata

        return load_gguf_metadata(read_gguf(file).metadata, str(file))
    if file.suffix == ".json":
        from linnet.text.tokenizer.tokenizer_json import load_tokenizer_json

        return load_tokenizer_json(file)
    if file.suffix == ".pkl":
        from linnet.text.tokenizer.pickled_encoding import load_pickled_encoding

        return load_pickled_encoding(file)
    if file.suffix in (".model", ".tiktoken"):
        return _load_model_file(file)
    raise UnsupportedModelError(f"{file}: {file.suffix or 'nameless'} tokenizer files are not read by this version; {_EXPECTED}")


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise ModelFileError(f"{path} does not exist; {_EXPECTED}")
        return path
    found = tokenizer_file(path)
    if found is None:
        raise ModelFileError(f"the folder {path} has no tokenizer.json or other tokenizer; {_EXPECTED}")
    return found


def tokenizer_file(folder: Path) -> Path | None:
    """The file that `Tokenizer(folder)` reads, or None if the folder has none."""
    from linnet.text.tokenizer.vocab_and_merges import find_vocabulary

    named = (folder / name for name in _FILES)
    found = next((file for file in (*named, *sorted(folder.glob("*.tiktoken"))) if file.exists()), None)
    return find_vocabulary(folder) if found is None else found


def _load_model_file(file: Path) -> Vocabulary:
    """SentencePiece and tiktoken files share the name tokenizer.model; the first bytes tell them apart."""
    from linnet.load.files import MappedFile
    from linnet.text.tokenizer.sentencepiece_file import load_sentencepiece_file
    from linnet.text.tokenizer.tiktoken_file import load_tiktoken_file, looks_like_ranks

    mapped = MappedFile(file)
    data = bytes(mapped.map) if mapped.size <= _LARGEST_FILE else b""
    mapped.close()
    if not data:
        raise ModelFileError(f"{file}: {mapped.size} bytes; tokenizer files of up to {_LARGEST_FILE} are read")
    return load_tiktoken_file(file, data) if looks_like_ranks(data) else load_sentencepiece_file(file, data)


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise InvalidRequestError(f"a text to encode must be str, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"the text has a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}, which no UTF-8 can hold; remove it"
        ) from None
