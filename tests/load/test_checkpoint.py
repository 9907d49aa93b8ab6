"""Opening a model by name: folders, GGUF files, the hub's cache, memory; and everything that is not one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from gguf_files import encode, interleave, write_gguf

from linnet.errors import ModelFileError, UnsupportedModelError
from linnet.load.checkpoint import Checkpoint, open_checkpoint
from linnet.load.dequantize import dequantize
from linnet.tensors import TYPES, RawTensor, TensorType

SMALL = {
    "vocab_size": 40,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": 3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
TOKENIZER = {
    "model": {"vocab": {chr(ord("a") + i): i for i in range(26)} | {"ab": 26}, "merges": [["a", "b"]]},
    "added_tokens": [{"id": 27, "content": "<|im_end|>", "special": True}, {"id": 28, "content": "<think>", "special": False}],
}


class PlainOps:
    def matrix(self, raw: RawTensor, target: TensorType | None = None) -> np.ndarray:
        return dequantize(raw)

    vector = matrix

    def owns(self, matrix: np.ndarray) -> bool:
        return True


def llama(**extra) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, **extra}))


@pytest.fixture
def folder(tmp_path) -> Path:
    llama().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("shard_size", ["10GB", "20KB"])
def test_a_folder_single_and_sharded(shard_size, tmp_path):
    model = llama()
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors").exists() == (shard_size == "10GB")
    checkpoint = open_checkpoint(str(tmp_path))
    assert (checkpoint.name, checkpoint.path, checkpoint.naming, checkpoint.metadata) == (str(tmp_path), tmp_path, "hf", None)
    assert checkpoint.nbytes == sum(4 * tensor.numel() for tensor in model.state_dict().values())
    assert checkpoint.eos_token_ids == (3,)
    weights = checkpoint.assemble(PlainOps())
    state = model.state_dict()
    np.testing.assert_array_equal(weights.layers[1].mlp.down.matrix, state["model.layers.1.mlp.down_proj.weight"])
    np.testing.assert_array_equal(weights.output.matrix, state["lm_head.weight"])
    checkpoint.close()


def test_generation_facts(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 3, 5], "temperature": 0.6}')
    checkpoint = open_checkpoint(folder)
    assert checkpoint.eos_token_ids == (5, 3)
    assert checkpoint.generation["temperature"] == 0.6
    (folder / "generation_config.json").unlink()
    assert open_checkpoint(folder).eos_token_ids == (3,)
    for bad in ("-1", "40", '"</s>"', "[1, true]", "[[1]]"):
        (folder / "generation_config.json").write_text(f'{{"eos_token_id": {bad}}}')
        with pytest.raises(ModelFileError, match=r"generation_config\.json: eos_token_id"):
            open_checkpoint(folder)


def test_ends_of_turns_count_in_a_gguf_file_that_does_not_name_them(tmp_path):
    """As Gemma 2's and Phi 3's: what is written from such a file (`linnet convert`) must end its answers, too."""
    ends = [("<end_of_turn>", False), ("</s>", False), ("<|end|>", True)]
    added = [{"id": 27 + i, "content": text, "special": special} for i, (text, special) in enumerate(ends)]
    path = write_gguf(tmp_path / "m.gguf", llama(), "f32", {**TOKENIZER, "added_tokens": added}, eos_token_id=3)
    assert open_checkpoint(path).eos_token_ids == (3, 27, 29)


@pytest.mark.parametrize("type_name", TYPES)
def test_a_gguf_file_of_every_type(type_name, tmp_path):
    model = llama(hidden_size=256, intermediate_size=512, attention_bias=True, rope_parameters=LLAMA3)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", model, type_name, TOKENIZER, eos_token_id=3))
    assert (checkpoint.naming, checkpoint.spec.family, checkpoint.eos_token_ids) == ("gguf", "llama", (3, 27))
    assert checkpoint.metadata is not None
    assert checkpoint.metadata["tokenizer.ggml.tokens"][26:30] == ["ab", "<|im_end|>", "<think>", "[PAD29]"]
    weights = checkpoint.assemble(PlainOps())
    state = model.state_dict()
    query = state["model.layers.1.self_attn.q_proj.weight"].numpy()
    stored = encode(interleave(query, 4), type_name)
    type = checkpoint.source.type("blk.1.attn_q.weight")
    assert type.name == type_name
    expected = dequantize(RawTensor("", query.shape, type, np.ascontiguousarray(stored).view(np.uint8).reshape(-1)))
    np.testing.assert_array_equal(weights.layers[1].attention.query.matrix, expected)
    # Rows 0 and 1 of a head in the file are rows 0 and dim / 2 in transformers; errors are those of the type.
    tolerance = {"f32": 0, "f16": 1e-3, "bf16": 4e-3, "q8_0": 5e-3, "q6_k": 2e-2}.get(type_name, 0.35) * np.abs(query).max()
    assert np.abs(expected[1] - query[32]).max() <= tolerance
    assert weights.layers[0].attention.query.bias is not None


def test_a_gguf_without_a_vocabulary_and_one_in_a_folder(tmp_path):
    write_gguf(tmp_path / "m.gguf", llama(tie_word_embeddings=True), "q8_0")
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.path, checkpoint.eos_token_ids, checkpoint.spec.tied) == (tmp_path / "m.gguf", (), True)
    shutil.copy(tmp_path / "m.gguf", tmp_path / "n.gguf")
    with pytest.raises(ModelFileError, match=r"m\.gguf, n\.gguf"):
        open_checkpoint(tmp_path)


def test_the_parts_of_a_split_model_in_a_folder_are_one_model(tmp_path):
    import gguf

    model = llama()
    whole = gguf.GGUFReader(write_gguf(tmp_path / "whole.gguf", model, "q8_0"))
    (tmp_path / "split").mkdir()
    writer = gguf.GGUFWriter(tmp_path / "split" / "m.gguf", "llama", split_max_tensors=9)
    for key, field in whole.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            writer.add_key_value(key, field.contents(), field.types[0])
    for tensor in whole.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = open_checkpoint(tmp_path / "split")
    assert checkpoint.path == tmp_path / "split" / "m-00001-of-00003.gguf"
    expected, found = open_checkpoint(tmp_path / "whole.gguf").assemble(PlainOps()), checkpoint.assemble(PlainOps())
    np.testing.assert_array_equal(found.layers[1].mlp.down.matrix, expected.layers[1].mlp.down.matrix)
    np.testing.assert_array_equal(found.embedding, expected.embedding)
    (tmp_path / "split" / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(ModelFileError, match=r"m-00002-of-00003\.gguf; download"):
        open_checkpoint(tmp_path / "split")


@pytest.mark.parametrize("kind", ["adapter", "mmproj", "imatrix"])
def test_a_gguf_that_is_no_model_says_what_it_is(kind, tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_type(kind)
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match=f"general.type is '{kind}'"):
        open_checkpoint(tmp_path / "m.gguf")


def test_a_gguf_is_known_by_its_first_bytes(tmp_path):
    write_gguf(tmp_path / "sha256-0123", llama(), "q8_0")
    assert open_checkpoint(tmp_path / "sha256-0123").naming == "gguf"


def test_a_gguf_that_lacks_a_tensor_or_has_one_too_many(tmp_path):
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL))
    state = model.state_dict()
    del state["model.layers.1.self_attn.v_proj.bias"]
    model.state_dict = lambda: state
    with pytest.raises(ModelFileError, match=r"missing: blk\.1\.attn_v\.bias$"):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", model))


def test_the_hub_cache(folder, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--some--model"
    with pytest.raises(ModelFileError, match="hf download some/model"):
        open_checkpoint("some/model")
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    with pytest.raises(ModelFileError, match="hf download some/model"):
        open_checkpoint("some/model")
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(folder.iterdir()):  # as the hub does it: links to blobs outside the snapshot
        shutil.copy(file, repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / str(number))
    checkpoint = open_checkpoint("some/model")
    assert (checkpoint.name, checkpoint.path) == ("some/model", snapshot)


def test_the_layout_of_the_cache_is_that_of_huggingface_hub(folder, tmp_path, monkeypatch):
    import huggingface_hub

    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc123"
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc123")
    found = huggingface_hub.try_to_load_from_cache("some/model", "config.json", cache_dir=tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert Path(found).parent == open_checkpoint("some/model").path == snapshot


def test_what_is_not_a_model_is_named_with_the_remedy(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        (tmp_path / "absent", ModelFileError, "no such file or folder"),
        (str(tmp_path / "absent.gguf"), ModelFileError, "no such file or folder"),
        ("owner/absent.gguf", ModelFileError, "no such file or folder"),
        ("absent", ModelFileError, "no such file or folder"),
        ("", ModelFileError, "no such file or folder"),
        ("long" * 5000, ModelFileError, "not a file or folder that can be opened|no such file"),
        ("nul\0", ModelFileError, "no such file or folder|cannot|not a file"),
        ("~nobody-of-that-name/x", ModelFileError, "nobody-of-that-name"),
        (empty, ModelFileError, r"empty: holds no model \(no config\.json\)"),
        (folder / "model.safetensors", ModelFileError, "give the folder"),
        (folder / "config.json", ModelFileError, "give the folder"),
    ]
    (tmp_path / "model.onnx").write_bytes(b"x")
    cases.append((tmp_path / "model.onnx", UnsupportedModelError, r"model\.onnx: not a kind"))
    for model, error, message in cases:
        with pytest.raises(error, match=message):
            open_checkpoint(model)


def test_folders_without_weights_that_are_read(folder):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(ModelFileError, match="no weights"):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "nonsense", '{"model_type": "llama"', "\xff", '{"a":' * 50_000])
def test_a_damaged_config_is_named(content, folder):
    (folder / "config.json").write_text(content, "latin-1")
    with pytest.raises(ModelFileError, match=r"config\.json"):
        open_checkpoint(folder)


def test_a_config_that_contradicts_the_weights(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1, "vocab_size": 41}))
    with pytest.raises(ModelFileError, match=r"unexpected: .*layers\.1\..*embed_tokens\.weight is \[40, 64\], not \[41, 64\]"):
        open_checkpoint(folder)


def test_state_dicts_from_memory():
    model = llama(tie_word_embeddings=True)
    state = model.state_dict()
    for config in (model.config, model.config.to_dict(), Checkpoint.from_memory(model.config, state).spec):
        checkpoint = Checkpoint.from_memory(config, state)
        np.testing.assert_array_equal(checkpoint.assemble(PlainOps()).layers[0].mlp.up.matrix, state["model.layers.0.mlp.up_proj.weight"])
    assert Checkpoint.from_memory(model.config, state).eos_token_ids == (3,)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    arrays["extra"] = np.zeros(1, np.float32)
    with pytest.raises(ModelFileError, match=r"state dict: .*unexpected: extra"):
        Checkpoint.from_memory(model.config, arrays)
    Checkpoint.from_memory(model.config, arrays, strict=False).assemble(PlainOps())
    with pytest.raises(ModelFileError, match="config is a list"):
        Checkpoint.from_memory([], arrays)
    del arrays["model.norm.weight"]
    with pytest.raises(ModelFileError, match=r"missing: model\.norm\.weight"):
        Checkpoint.from_memory(model.config, arrays, strict=False)
