"""Tokenizers whose publishers do part of the work in code of their own: that code, in short, is the oracle, on models trained here."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from text_inputs import CORPUS, train_sentencepiece
from vocabularies import random_texts

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.text.tokenizer import Tokenizer

SPECIAL_6B = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
BLANKS = [f"<|blank_{count}|>" for count in range(2, 81)]
CONFIG_6B = {"bos_token": "<sop>", "eos_token": "<eop>", "tokenizer_class": "ChatGLMTokenizer", "num_image_tokens": 0}
SPECIAL_3 = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
TEMPLATE_3 = (
    "{% for message in messages %}{% if loop.first %}[gMASK]sop{% endif %}<|{{ message['role'] }}|>\n {{ message['content'] }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXTS = [*random_texts(300, seed=8), "a\nb", "\t\tx", "a  b", " " * 200 + "x", "\n \n  \n", "<n>", "people of philosophy", ""]


def folder(path: Path, file: str, processor: Any, config: dict[str, Any]) -> Path:
    (path / file).write_bytes(processor.serialized_model_proto())
    (path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return path


def chatglm_6b(path: Path, config: dict[str, Any] = CONFIG_6B) -> tuple[Any, Path]:
    symbols = {"control_symbols": SPECIAL_6B, "user_defined_symbols": ["<n>", "<|tab|>", *BLANKS]}
    processor = train_sentencepiece(model_type="unigram", vocab_size=455, **symbols)
    return processor, folder(path, "ice_text.model", processor, config)


def spelled(text: str) -> str:
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    for count in range(80, 1, -1):
        text = text.replace(" " * count, f"<|blank_{count}|>")
    return text


def read(text: str) -> str:
    text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
    for count in range(2, 81):
        text = text.replace(f"<|blank_{count}|>", " " * count)
    return text


def test_chatglm_6b_spells_white_space_and_ends_prompts_with_gmask_and_sop(tmp_path: Path) -> None:
    processor, path = chatglm_6b(tmp_path)
    ours = Tokenizer(path)
    gmask, sop, eop = (processor.piece_to_id(piece) for piece in ("[gMASK]", "<sop>", "<eop>"))
    assert (ours.bos_id, ours.eos_id) == (sop, eop)
    for text in TEXTS:
        ids = processor.encode(spelled(text))
        assert ours.encode(text) == [*ids, gmask, sop], repr(text)
        assert ours.encode(text, bos=False) == ids
        assert ours.decode([*ids, gmask, sop]) == read(processor.decode(ids)), repr(text)
    assert ours.encode("a[gMASK]<sop>", special=True) == [*processor.encode("a"), gmask, sop], "not twice"
    assert {gmask, sop}.isdisjoint(ours.encode("a[gMASK]<sop>", bos=False))
    template = "{% for message in messages %}问：{{ message['content'] }}\n答：{% endfor %}"
    asked = ours.apply_chat_template([{"role": "user", "content": "你好 <sop>"}], chat_template=template)
    assert asked == [*processor.encode("问：你好 <sop><n>答："), gmask, sop]


@pytest.mark.parametrize("change", [{"num_image_tokens": 20_000}, {"do_lower_case": True}, {"remove_space": True}])
def test_settings_of_chatglm_6b_that_are_not_built_are_named(change: dict[str, Any], tmp_path: Path) -> None:
    _, path = chatglm_6b(tmp_path, CONFIG_6B | change)
    with pytest.raises(UnsupportedModelError, match=next(iter(change))):
        Tokenizer(path)


def test_a_file_of_chatglm_6b_without_its_control_tokens_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="gMASK"):
        Tokenizer(folder(tmp_path, "ice_text.model", train_sentencepiece(), CONFIG_6B))


def chatglm_3(path: Path, **config: Any) -> tuple[Any, Tokenizer]:
    processor = train_sentencepiece()
    return processor, Tokenizer(folder(path, "tokenizer.model", processor, {"tokenizer_class": "ChatGLMTokenizer", **config}))


@pytest.mark.parametrize("listed", [False, True])
def test_chatglm_2_and_3_begin_with_gmask_and_sop(listed: bool, tmp_path: Path) -> None:
    """listed: later configurations list the tokens that follow the file's; the first did not."""
    flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    tokens = {str(700 + index): {"content": content, "special": False, **flags} for index, content in enumerate(SPECIAL_3)}
    processor, ours = chatglm_3(tmp_path, **({"added_tokens_decoder": tokens} if listed else {}))
    beginning = [701, 703]
    assert [ours.token_to_id(content) for content in SPECIAL_3] == list(range(700, 709))
    assert (ours.vocab_size, ours.eos_id) == (709, 2)
    assert {2, 706, 708} <= ours.eos_ids, "a turn of somebody else ends an answer, too"
    for text in TEXTS:
        assert ours.encode(text) == [*beginning, *processor.encode(text)], repr(text)
        assert ours.encode(text, bos=False) == processor.encode(text)
    assert ours.decode([*beginning, *processor.encode("abc")]) == "abc"


def test_chatglm_3_chats_by_its_template(tmp_path: Path) -> None:
    """Each text between control tokens is cut as if it stood alone; no word loses its "eop"."""
    processor, ours = chatglm_3(tmp_path, chat_template=TEMPLATE_3)
    turns = [("user", "the people"), ("assistant", "people <|user|> philosophy"), ("user", "[gMASK]sop")]
    expected = [701, 703, 706, *processor.encode("\n the people"), 707, *processor.encode("\n people <|user|> philosophy")]
    expected += [706, *processor.encode("\n [gMASK]sop"), 707]
    assert ours.apply_chat_template([{"role": role, "content": content} for role, content in turns]) == expected
    bare = TEMPLATE_3.replace("[gMASK]sop", "")
    assert ours.apply_chat_template([{"role": "user", "content": "a"}], chat_template=bare)[:3] == [701, 703, 706], "put where it lacks"


@pytest.mark.parametrize("name", ["BaichuanTokenizer", "InternLM2Tokenizer"])
def test_baichuan_and_internlm_cut_each_text_alone(name: str, tmp_path: Path) -> None:
    added = {"700": {"content": "<|im_start|>", "special": True}, "701": {"content": "<|im_end|>", "special": True}}
    processor = train_sentencepiece()
    config = {"tokenizer_class": name, "added_tokens_decoder": added, "add_bos_token": name != "BaichuanTokenizer"}
    ours = Tokenizer(folder(tmp_path, "tokenizer.model", processor, config))
    expected = [700, *processor.encode("user\nhi"), 701, *processor.encode("\n")]
    assert ours.encode("<|im_start|>user\nhi<|im_end|>\n", special=True, bos=False) == expected
    assert ours.encode("hi") == [*([1] if name == "InternLM2Tokenizer" else []), *processor.encode("hi")]
    assert ours.eos_ids == {2, 701}


def write_ranks(path: Path, count: int) -> dict[bytes, int]:
    """A tiktoken file: the bytes, then tokens of the corpus, then of two and three bytes, up to `count`."""
    words = {piece for word in CORPUS.split(" ") for end in range(2, 9) if len(piece := f" {word}".encode()[:end]) > 1}
    tokens = dict.fromkeys([*(bytes([byte]) for byte in range(256)), *sorted(words, key=lambda word: (len(word), word))])
    for number in range(2**24):
        if len(tokens) == count:
            break
        tokens[number.to_bytes(3, "big")] = None
    ranks = {token: rank for rank, token in enumerate(tokens)}
    path.write_bytes(b"".join(base64.b64encode(token) + f" {rank}\n".encode() for token, rank in ranks.items()))
    return ranks


@pytest.mark.parametrize(("count", "file", "digits"), [(151_329, "tokenizer.model", "{1,3}"), (151_643, "qwen.tiktoken", "")])
def test_glm_4_and_qwen(count: int, file: str, digits: str, tmp_path: Path) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    ranks = write_ranks(tmp_path / file, count)
    letters = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    pattern = rf"{letters}|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    peer = tiktoken.Encoding("peer", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    ours, glm = Tokenizer(tmp_path), file == "tokenizer.model"
    beginning = [151331, 151333] if glm else []
    for text in [*random_texts(100, seed=9), "cafe\u0301 12345", "A\u030angstro\u0308m"]:
        expected = peer.encode_ordinary(text if glm else normalize("NFC", text))
        assert ours.encode(text) == [*beginning, *expected], repr(text)
    if glm:
        assert ours.encode("[gMASK]<sop><|user|>\na", special=True) == [*beginning, 151336, *peer.encode_ordinary("\na")]
        assert ours.encode("a", bos=True) == [*beginning, *peer.encode_ordinary("a")]
        assert {151329, 151336, 151338} <= ours.eos_ids
    else:
        assert {151643, 151645} <= ours.eos_ids


def test_a_tokenizer_json_may_put_several_tokens_in_front(tmp_path: Path) -> None:
    from tokenizers import AddedToken, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Library
    from transformers import PreTrainedTokenizerFast

    made = Library(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken("[gMASK]", special=True), AddedToken("<sop>", special=True)])
    made.post_processor = processors.TemplateProcessing("[gMASK] <sop> $A", special_tokens=[("[gMASK]", 3), ("<sop>", 4)])
    made.save(str(tmp_path / "tokenizer.json"))
    peer: Any = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    ours = Tokenizer(tmp_path)
    assert ours.encode("a b") == peer.encode("a b") == [3, 4, 0, 1]
    assert ours.encode("[gMASK]<sop>a", special=True) == [3, 4, 0]
    assert ours.encode("a", bos=False) == [0]
