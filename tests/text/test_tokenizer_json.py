"""tokenizer.json folders against transformers, and the same vocabulary as GGUF metadata against `tokenizers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from text_inputs import CORPUS, byte_level_metadata, save_folder

from linnet.errors import InvalidRequestError, ModelFileError, UnsupportedModelError
from linnet.text.tokenizer import Tokenizer

SAMPLES = [
    CORPUS[:700],
    "",
    " ",
    "  two  spaces   and    more",
    "What is 17 + 25?",
    "né 🦙🏽 \u0301 \x00 \x7f",
    "a\n\n\nb\r\n",
    "don't WE'LL",
]
TEXTS = st.lists(
    st.one_of(st.sampled_from([*CORPUS[:400].split(" "), "  ", "    ", "\n", "🦙", "é"]), st.text(max_size=6)), max_size=12
).map("".join)
any_time = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def llama_style() -> Any:
    """BPE with byte fallback over `▁`, as Llama 2's tokenizer.json: prefix, fallback, first space stripped, <s> in front."""
    from tokenizers import Tokenizer as Peer
    from tokenizers import decoders, models, normalizers, processors, trainers

    peer = Peer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    peer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    peer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special[:3], show_progress=False)
    words = (word for line in CORPUS.splitlines() for word in ("▁" + line.replace(" ", "▁")).replace("▁", " ▁").split())
    peer.train_from_iterator(words, trainer)
    model = json.loads(peer.to_str())
    vocabulary = model["model"]["vocab"]
    for token in special:
        vocabulary.setdefault(token, len(vocabulary))
    peer = Peer.from_str(json.dumps(model))
    peer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return peer


def test_the_built_in_model_tokenizes_as_transformers(tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    peer, ours = AutoTokenizer.from_pretrained(tiny_folder), Tokenizer(tiny_folder)
    assert (ours.vocab_size, ours.eos_id, ours.bos_id) == (len(peer), peer.eos_token_id, peer.bos_token_id)
    for text in SAMPLES:
        ids = ours.encode(text)
        assert ids == peer.encode(text)
        assert ours.decode(ids) == peer.decode(ids) == text
    text = "<|user|>What is 17 + 25?<|assistant|>42<|end|>"
    ids = ours.encode(text, special=True)
    assert ids == peer.encode(text)
    assert ours.decode(ids) == peer.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids, skip_special=False) == peer.decode(ids) == text


@any_time
@given(text=TEXTS)
def test_byte_level_bpe_gives_the_same_ids_from_either_file(byte_level: Any, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = save_folder(tmp_path_factory.getbasetemp() / "byte-level", byte_level)
    for ours in (Tokenizer(folder), Tokenizer.from_gguf_metadata(byte_level_metadata(byte_level), "gguf")):
        ids = ours.encode(text, special=True)
        assert ids == byte_level.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids, skip_special=False) == byte_level.decode(ids, skip_special_tokens=False) == text
        if "<" not in text:
            assert ours.encode(text) == ids


def test_a_llama_style_tokenizer_keeps_prefix_fallback_and_beginning(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    peer: Any = PreTrainedTokenizerFast(tokenizer_object=llama_style(), bos_token="<s>", eos_token="</s>", unk_token="<unk>")  # type: ignore[no-untyped-call]
    ours = Tokenizer(save_folder(tmp_path / "llama", llama_style(), bos_token="<s>", eos_token="</s>", unk_token="<unk>"))
    for text in [sample for sample in SAMPLES if sample]:
        ids = ours.encode(text)
        assert ids == peer.encode(text)
        assert ids[0] == ours.bos_id == 1
        assert ours.decode(ids) == peer.decode(ids, skip_special_tokens=True) == text
        assert b"".join(ours.token_bytes(id) for id in ids[1:]) == b" " + text.encode()


def test_the_beginning_token_is_added_once(tmp_path: Path) -> None:
    ours = Tokenizer(save_folder(tmp_path / "llama", llama_style(), bos_token="<s>", eos_token="</s>"))
    plain = ours.encode("hello", bos=False)
    assert ours.encode("hello") == ours.encode("hello", bos=True) == [1, *plain]
    assert ours.encode("<s>hello", special=True) == ours.encode("<s>hello", bos=False, special=True)
    assert ours.encode("hello", bos=False, eos=True) == [*plain, 2]
    assert 1 not in ours.encode("<s>hello", bos=False)
    stated = Tokenizer(save_folder(tmp_path / "stated", llama_style(), bos_token="<s>", add_bos_token=False))
    assert stated.encode("hello") == plain


def test_a_control_token_that_merges_lead_to_stays_text(tmp_path: Path) -> None:
    from tokenizers import AddedToken, decoders, models
    from tokenizers import Tokenizer as Peer

    peer = Peer(models.BPE({"a": 0, "<": 1, "s": 2, ">": 3, "<s": 4, "<s>": 5}, [("<", "s"), ("<s", ">")]))
    peer.decoder = decoders.Fuse()
    peer.add_special_tokens([AddedToken("<s>", normalized=False)])
    ours = Tokenizer(save_folder(tmp_path / "merging", peer))
    assert ours.encode("a<s>a", special=True) == [0, 5, 0]
    assert ours.encode("a<s>a") == [0, 4, 3, 0]


def test_tokens_that_only_the_config_lists_are_the_models_too(tmp_path: Path, byte_level: Any) -> None:
    size = byte_level.get_vocab_size()
    listed = {str(size): {"content": "<|late|>", "special": True}}
    ours = Tokenizer(save_folder(tmp_path / "listed", byte_level, added_tokens_decoder=listed))
    assert ours.encode("<|late|>", special=True) == [size]
    assert ours.vocab_size == size + 1
    assert size in ours.special_ids
    wrong = {str(size + 5): {"content": "<|late|>", "special": True}}
    with pytest.raises(ModelFileError, match=r"<\|late\|>"):
        Tokenizer(save_folder(tmp_path / "wrong", byte_level, added_tokens_decoder=wrong))


def test_tokens_that_the_config_calls_special_are_control_tokens(tmp_path: Path, byte_level: Any) -> None:
    byte_level = type(byte_level).from_str(byte_level.to_str())
    byte_level.add_tokens(["STOP", "HALT", "REST"])
    config = {"additional_special_tokens": ["STOP", {"content": "HALT"}], "extra_special_tokens": {"rest_token": "REST"}}
    ours = Tokenizer(save_folder(tmp_path / "special", byte_level, **config))
    for content in ("STOP", "HALT", "REST"):
        assert ours.token_to_id(content) in ours.encode(content, special=True)
        assert ours.token_to_id(content) not in ours.encode(content)
        chat = ours.apply_chat_template([{"role": "user", "content": content}], chat_template="{{ messages[0].content }}")
        assert ours.control_ids.isdisjoint(chat)


@pytest.mark.parametrize("text", ["\ud800", "fine until \udfff here", "\udc80\udc81"])
def test_lone_surrogates_are_refused(tiny_folder: Path, text: str) -> None:
    with pytest.raises(InvalidRequestError, match="lone surrogate"):
        Tokenizer(tiny_folder).encode(text)


def test_requests_that_cannot_be_met_are_refused(tiny_folder: Path) -> None:
    ours = Tokenizer(tiny_folder)
    with pytest.raises(InvalidRequestError, match="no bos token"):
        ours.encode("hello", bos=True)
    with pytest.raises(InvalidRequestError, match="must be str"):
        ours.encode(b"hello")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="-1"):
        ours.decode([-1])
    assert ours.token_bytes(ours.vocab_size + 7) == b"", "padding rows of the embedding are no text"
    assert ours.id_to_token(ours.vocab_size) is None
    assert ours.token_to_id("no such token") is None


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"has no tokenizer\.json"):
        Tokenizer(tmp_path)
    with pytest.raises(ModelFileError, match="does not exist"):
        Tokenizer(tmp_path / "nothing.json")
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelFileError, match=r"not a tokenizer\.json"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\n\n")
    with pytest.raises(ModelFileError, match=r"neither a SentencePiece model nor a tiktoken file"):
        Tokenizer(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.bin").write_bytes(b"x")
    with pytest.raises(UnsupportedModelError, match=r"\.bin"):
        Tokenizer(tmp_path / "tokenizer.bin")


def test_a_decoder_step_that_is_not_known_is_refused_by_name(tmp_path: Path, byte_level: Any) -> None:
    changed = json.loads(byte_level.to_str())
    changed["decoder"] = {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(UnsupportedModelError, match="CTC"):
        Tokenizer(tmp_path)
