"""What `backend="transformers"` opens, and what it refuses to."""

from __future__ import annotations

import pytest

from linnet import (
    LLM,
    MissingDependencyError,
    ModelFileError,
    OutOfMemoryError,
    SamplingParams,
    UnsupportedModelError,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(folders, monkeypatch):
    place = "linnet.backends.transformers.loading"
    with monkeypatch.context() as patch:
        patch.setattr(f"{place}.available_memory", lambda: 50_000)
        with pytest.raises(OutOfMemoryError, match=r"its weights take \d+ bytes in torch.bfloat16 and 50000 can be taken on cpu; choose"):
            LLM(folders("gpt2"), backend="transformers")
    count = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_pretrained(folders("gpt2")).parameters())
    with monkeypatch.context() as patch:
        patch.setattr(f"{place}.available_memory", lambda: 3 * count)
        with LLM(folders("gpt2"), backend="transformers") as llm:
            assert llm._engine._model.model.dtype == torch.bfloat16
        with pytest.raises(OutOfMemoryError, match="or dtype='bf16'"):
            LLM(folders("gpt2"), backend="transformers", dtype="f32")


def test_missing_packages_and_models_are_said_to_be_missing(folders, monkeypatch, tmp_path):
    with pytest.raises(ModelFileError, match="no such file or folder"):
        LLM("nowhere", backend="transformers")
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(UnsupportedModelError, match="opens folders"):
        LLM(file, backend="transformers")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "linnet\[transformers\]"'):
        LLM(folders("gpt2"), backend="transformers")


def test_models_that_make_no_text_are_refused(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    BertForMaskedLM(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="BertForMaskedLM makes no text"):
        LLM(tmp_path, backend="transformers")


def test_files_that_contradict_the_config_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file
    from tiny_models import gpt2 as make

    make(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelFileError, match=r"1 weights of GPT2LMHeadModel are missing, transformer.h.1.mlp.c_fc.weight"):
        LLM(tmp_path, backend="transformers")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelFileError, match="transformers cannot load it"):
        LLM(tmp_path, backend="transformers")


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"forced_bos_token_id": 10**9}, "forced_bos_token_id is 1000000000, which is no token id"),
        ({"eos_token_id": [2, -5]}, "eos_token_id is -5"),
        ({"bad_words_ids": [[3], [400]]}, "bad_words_ids is 400"),
        ({"decoder_start_token_id": None, "bos_token_id": None}, "with which token its decoder starts"),
    ],
)
def test_token_ids_that_are_none_are_refused(folders, tmp_path, claims, words):
    import json
    import shutil

    shutil.copytree(folders("bart"), tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text(json.dumps(claims))
    with pytest.raises(ModelFileError, match=words):
        LLM(tmp_path / "model", backend="transformers")


def test_a_tokenizer_of_older_files_is_read_by_way_of_transformers(folders, tmp_path):
    """vocab.json and merges.txt, as BART's first releases have them."""
    import json
    import shutil

    folder = tmp_path / "older"
    shutil.copytree(folders("bart"), folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in model["merges"]))
    with LLM(folder, backend="transformers") as older, LLM(folders("bart"), backend="transformers") as newer:
        assert older.tokenize("the linnet, a bird") == newer.tokenize("the linnet, a bird")


@pytest.mark.parametrize("name", ["byt5", "marian"])
def test_a_tokenizer_that_is_written_in_python_gives_the_same_tokens_and_texts(folders, name):
    theirs = transformers.AutoTokenizer.from_pretrained(folders(name))
    with LLM(folders(name), backend="transformers") as llm:
        for text in ("the linnet, a bird of the finch family", "a small </s> bird <pad>"):
            wanted = theirs(text, split_special_tokens=True).input_ids
            assert llm.tokenize(text) == wanted
            assert llm.tokenizer.decode(wanted) == theirs.decode(wanted, skip_special_tokens=True)
        answer = llm.generate("the linnet", SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True))[0]
        assert answer.text == llm.tokenizer.decode(answer.token_ids)
        if name == "byt5":
            assert llm.tokenizer.decode(theirs("h\u00e9", add_special_tokens=False).input_ids) == "h\u00e9"
