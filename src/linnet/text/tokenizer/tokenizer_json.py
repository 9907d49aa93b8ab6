"""tokenizer.json with what lies beside it (tokenizer_config.json, chat templates), run by the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnet.errors import ModelFileError
from linnet.text.tokenizer.added_tokens import AddedToken, AddedTokens, is_marker
from linnet.text.tokenizer.decoders import read_decoder
from linnet.text.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def load_tokenizer_json(path: Path) -> Vocabulary:
    """The vocabulary of the tokenizer.json at `path`. Raises ModelFileError where the file is missing or malformed."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); is the download complete?") from error
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelFileError(f"{path}: not a tokenizer.json that this version reads ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _JsonVocabulary(path, tokenizer).build()


def _section(component: Any) -> Any:
    """A part of a tokenizer (decoder, post-processor) as tokenizer.json writes it; None where there is none."""
    return None if component is None else json.loads(component.__getstate__())


class _JsonVocabulary:
    """One folder's tokenizer: `full` matches every added token, `plain` none that steers the model. They share one model."""

    def __init__(self, path: Path, full: Tokenizer) -> None:
        self.path = path
        self.full = full
        self.config = _optional_json(path.with_name("tokenizer_config.json"))
        self.named = dict(self.named_tokens())
        self.add_listed_tokens()
        self.added = AddedTokens(self.added_tokens())
        self.plain = self.plain_tokenizer()

    def named_tokens(self) -> Iterator[tuple[str, str]]:
        for name in _NAMED:
            for content in _contents(self.config.get(name)):
                yield name, content

    def add_listed_tokens(self) -> None:
        """Tokens that only tokenizer_config.json lists are the model's, too."""
        from tokenizers import AddedToken as Matched

        listed = self.config.get("added_tokens_decoder") or {}
        for id, entry in sorted(listed.items(), key=lambda item: int(item[0])):
            content = entry["content"]
            if self.full.token_to_id(content) is None:
                flags = {name: entry[name] for name in ("single_word", "lstrip", "rstrip", "normalized", "special") if name in entry}
                self.full.add_tokens([Matched(content, **flags)])
            if self.full.token_to_id(content) != int(id):
                raise ModelFileError(
                    f"{self.path.with_name('tokenizer_config.json')}: gives {content!r} the id {id}, "
                    f"but {self.path.name} the id {self.full.token_to_id(content)}; take both files from one place"
                )

    def added_tokens(self) -> Iterator[AddedToken]:
        listed = self.config.get("added_tokens_decoder") or {}
        special = set(self.named.values()) | {entry["content"] for entry in listed.values() if entry.get("special")}
        for key in ("additional_special_tokens", "extra_special_tokens"):
            special.update(_contents(self.config.get(key)))
        for id, token in self.full.get_added_tokens_decoder().items():
            control = token.special or token.content in special or is_marker(token.content)
            yield AddedToken(id, token.content, control, token.single_word, token.lstrip, token.rstrip)

    def plain_tokenizer(self) -> Tokenizer:
        from tokenizers import AddedToken as Matched
        from tokenizers import Tokenizer

        plain = Tokenizer(self.full.model)
        if self.full.normalizer is not None:
            plain.normalizer = self.full.normalizer
        if self.full.pre_tokenizer is not None:
            plain.pre_tokenizer = self.full.pre_tokenizer
        plain.encode_special_tokens = True  # flagged ones are ordinary text
        for id, token in sorted(self.full.get_added_tokens_decoder().items()):
            flags = {"single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip, "normalized": token.normalized}
            plain.add_tokens([Matched(token.content, special=id in self.added.control_ids, **flags)])
        return plain

    def encode(self, text: str, special: bool) -> list[int]:
        tokenizer = self.full if special else self.plain
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids if special or self.forbidden.isdisjoint(ids) else self.taken_apart(ids)

    def taken_apart(self, ids: list[int]) -> list[int]:
        """The model itself can put a control token together (merges that lead to one): write those as two texts."""
        out: list[int] = []
        for id in ids:
            content = self.full.id_to_token(id)
            if id not in self.forbidden:
                out.append(id)
            elif content is not None and len(content) > 1:
                out += self.encode(content[:1], special=False) + self.encode(content[1:], special=False)
        return out

    def build(self) -> Vocabulary:
        decoder = read_decoder(_section(self.full.decoder), str(self.path))
        id_of = self.full.token_to_id
        unknown = getattr(self.full.model, "unk_token", None) or self.named.get("unk_token")
        # Unknown characters become the unknown token, rightly: it is the one control id that a text may lead to.
        self.forbidden = self.added.control_ids - ({id_of(unknown)} if unknown else set())
        added = {token.id: token for token in self.added.tokens}
        size = max([self.full.get_vocab_size(with_added_tokens=True), *(id + 1 for id in added)])

        def token_bytes(id: int) -> bytes:
            if id in added:
                return added[id].content.encode()
            token = self.full.id_to_token(id)
            return b"" if token is None else decoder.token_bytes(token)

        eos_id = id_of(self.named["eos_token"]) if "eos_token" in self.named else None
        bos_id, add_bos = self.beginning(id_of)
        flagged = {id for id, token in self.full.get_added_tokens_decoder().items() if token.special}
        return Vocabulary(
            source=str(self.path),
            size=size,
            encode=self.encode,
            token_bytes=token_bytes,
            id_to_token=lambda id: self.full.id_to_token(id) if 0 <= id < size else None,
            token_to_id=id_of,
            added=self.added,
            special_ids=frozenset(flagged | {id for id in map(id_of, self.named.values()) if id is not None}),
            bos_id=bos_id,
            eos_id=eos_id,
            eos_ids=frozenset() if eos_id is None else frozenset({eos_id}),
            add_bos=add_bos,
            strip_first_space=decoder.strip_first_space,
            named_tokens=self.named,
            chat_templates=_chat_templates(self.path.parent, self.config),
        )

    def beginning(self, id_of: Callable[[str], int | None]) -> tuple[int | None, bool]:
        """(id of the beginning token, whether texts start with it): as the config says, else as the post-processor does."""
        written = _first_template_token(_section(self.full.post_processor))
        content = self.named.get("bos_token", written)
        bos_id = None if content is None else id_of(content)
        stated = self.config.get("add_bos_token")
        add = stated if isinstance(stated, bool) else written is not None and written == content
        return bos_id, add and bos_id is not None


def _first_template_token(processor: Any) -> str | None:
    """The token that a TemplateProcessing puts before a text."""
    if not isinstance(processor, dict):
        return None
    if processor.get("type") == "Sequence":
        return next((token for part in processor["processors"] if (token := _first_template_token(part))), None)
    if processor.get("type") != "TemplateProcessing" or not processor["single"]:
        return None
    first = processor["single"][0].get("SpecialToken")
    return None if first is None else str(first["id"])


def _contents(value: Any) -> Iterator[str]:
    """The tokens that an entry of tokenizer_config.json names: a text, an object with "content", or several of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _contents(value["content"]) if "content" in value else _contents(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _contents(item)


def _optional_json(path: Path) -> Mapping[str, Any]:
    from linnet.load.files import read_json

    return read_json(path) if path.is_file() else {}


def _chat_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """By name, the usual one "default"; a file beside the config counts more than the config, as it is the newer way."""
    found = config.get("chat_template")
    templates: dict[str, str] = {}
    if isinstance(found, str):
        templates["default"] = found
    elif isinstance(found, list):
        templates = {str(entry["name"]): str(entry["template"]) for entry in found}
    for path in (folder / "additional_chat_templates").glob("*.jinja"):
        templates[path.stem] = _read_template(path)
    if (folder / "chat_template.jinja").is_file():
        templates["default"] = _read_template(folder / "chat_template.jinja")
    return templates


def _read_template(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: cannot be read as UTF-8 text ({error})") from error
